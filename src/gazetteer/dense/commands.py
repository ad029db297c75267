"""Commands with OpenMatch's flags: parsed leniently, started on any number of workers."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gazetteer.distributed.launch import process_group
from gazetteer.errors import GazetteerError
from gazetteer.one_line_errors import quiet_libraries
from gazetteer.program import speaks_for_machine
from gazetteer.records import Ranks

logger = logging.getLogger(__name__)

Job = Callable[[argparse.Namespace, Ranks], None]


class SeedParser(argparse.ArgumentParser):
    """argparse with flags as transformers' parser takes them, and one line per error.

    Args:
        prog: as typed.
        description: one line.
    """

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self._idle: dict[str, str] = {}
        self.add_argument("--local_rank", type=int, default=-1, help=argparse.SUPPRESS)

    def error(self, message: str) -> None:  # type: ignore[override]
        """Leave with exit code 2 and a single line."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")

    def add_switch(self, name: str, help_: str) -> None:
        """A flag that is on when given, or with a truth behind it."""
        self.add_argument(name, type=truth, nargs="?", const=True, default=False, help=help_)

    def add_idle(self, flags: Mapping[str, str]) -> None:
        """Flags that change nothing here, each with the reason; said when one is given."""
        group = self.add_argument_group("accepted, without effect")
        for name, reason in flags.items():
            group.add_argument(f"--{name}", nargs="?", const="True", help=reason)
        self._idle.update(flags)

    def idle_given(self, values: argparse.Namespace) -> list[str]:
        """A line for each flag that was given and changes nothing."""
        given = {name for name in self._idle if getattr(values, name) is not None}
        return [
            f"--{name} has no effect: {self._idle[name]}" for name in self._idle if name in given
        ]


def truth(text: str) -> bool:
    """Whether a word says yes, as transformers' parser reads it."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return words[text.lower()]


def positive(text: str) -> int:
    """A whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    found = tuple(text.split(","))
    if not all(found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"expected different names, as id,text, got {text!r}")
    return found


def run_command(parser: SeedParser, job: Job, arguments: Sequence[str] | None) -> int:
    """Parse, bring the workers together, do the job.

    Returns:
        The exit code; after an error that all workers share only the first speaks.
    """
    values = parser.parse_args(arguments)
    is_first = speaks_for_machine(os.environ)
    logging.basicConfig(
        level=logging.INFO if is_first else logging.WARNING, format="%(message)s", force=True
    )
    quiet_libraries()
    for line in parser.idle_given(values) if is_first else ():
        logger.info("%s", line)
    ranks: Ranks | None = None
    try:
        with process_group(local_rank=values.local_rank) as ranks:
            job(values, ranks)
    except GazetteerError as error:
        if (is_first if ranks is None else ranks.is_main) or not error.is_shared:
            sys.stderr.write(f"{parser.prog}: error: {error}\n")
        return error.exit_code
    return 0


def require_writable(path: Path, flag: str) -> None:
    """Create the folder of a file to be written.

    Raises:
        GazetteerError: impossible.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GazetteerError(f"{path}: {error.strerror} ({flag})") from None
    if path.is_dir():
        raise GazetteerError(f"{path}: found a folder, expected the name of a file ({flag})")
