"""The lines of a text file by what their first column says, without holding the file.

Runs of a hundred passages for half a million queries have tens of millions of lines; what is kept
of them is where each stretch of lines of one query begins and ends.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gazetteer.data.jsonl import UTF8_MARK, BadLineError, decode_line, refuse_other_formats
from gazetteer.errors import DataError
from gazetteer.progress import progress


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive lines of one query.

    Attributes:
        start: in bytes.
        size: in bytes.
        first_line: number of the first of them, from 1.
    """

    start: int
    size: int
    first_line: int


class GroupedLines:
    """Which stretches of a file belong to which query; queries in order of first appearance.

    Args:
        path: a file whose lines begin with a query id and a tab, or other white space.
        flag: that names it; in errors.
        show_progress: draw a bar.

    Raises:
        DataError: the file cannot be read, or is not plain text.
    """

    def __init__(self, path: Path, flag: str, *, show_progress: bool = False) -> None:
        self.path = path
        self.flag = flag
        self._groups: dict[bytes, int] = {}
        self._of, self._starts, self._sizes, self._lines = (array("q") for _ in range(4))
        try:
            with (
                path.open("rb") as file,
                progress(path.stat().st_size, path.name, "B", enabled=show_progress) as bar,
            ):
                self._scan(file, bar)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error} ({flag})") from None
        self._by_group = _places_by_group(self._of, len(self._groups))

    def _scan(self, file, bar) -> None:  # noqa: ANN001 - a binary file and a bar
        previous, offset = None, 0
        for number, raw in enumerate(file, 1):
            size = len(raw)
            if number == 1:
                try:
                    refuse_other_formats(raw, "text")
                except BadLineError as error:
                    raise DataError(f"{self.path}:1: {error} ({self.flag})") from None
                raw = raw.removeprefix(UTF8_MARK)
            name, tab, _ = raw.partition(b"\t")
            words = [name] if tab else raw.split(None, 1)
            if words:
                if words[0] != previous:
                    previous = words[0]
                    self._of.append(self._groups.setdefault(previous, len(self._groups)))
                    self._starts.append(offset)
                    self._sizes.append(0)
                    self._lines.append(number)
                self._sizes[-1] = offset + size - self._starts[-1]
            offset += size
            bar.update(size)

    @property
    def query_ids(self) -> list[str]:
        """Every query id, in order of first appearance.

        Raises:
            DataError: one of them is not UTF-8.
        """
        try:
            return [name.decode() for name in self._groups]
        except UnicodeDecodeError:
            raise DataError(
                f"{self.path}: found a query id of other bytes, expected text in UTF-8 "
                f"({self.flag})"
            ) from None

    def stretches(self, group: int) -> list[Stretch]:
        """Where the lines of the query at a position of `query_ids` are."""
        order, bounds = self._by_group
        places = order[bounds[group] : bounds[group + 1]]
        return [Stretch(self._starts[p], self._sizes[p], self._lines[p]) for p in places]


def _places_by_group(of: Sequence[int], groups: int) -> tuple[Sequence[int], Sequence[int]]:
    """Positions of stretches sorted by group, and where each group begins."""
    bounds = array("q", bytes(8 * (groups + 1)))
    for group in of:
        bounds[group + 1] += 1
    for group in range(groups):
        bounds[group + 1] += bounds[group]
    next_place, order = array("q", bounds), array("q", bytes(8 * len(of)))
    for place, group in enumerate(of):
        order[next_place[group]] = place
        next_place[group] += 1
    return order, bounds


def read_stretches(path: Path, stretches: Sequence[Stretch]) -> Iterator[tuple[int, bytes]]:
    """Number and content of each line of some stretches, blank ones left out; line ends cut."""
    with path.open("rb") as file:
        for stretch in stretches:
            file.seek(stretch.start)
            content = file.read(stretch.size)
            if stretch.start == 0:
                content = content.removeprefix(UTF8_MARK)
            for number, line in enumerate(content.split(b"\n"), stretch.first_line):
                if line.strip():
                    yield number, line.removesuffix(b"\r")


def decoded(path: Path, number: int, line: bytes, flag: str) -> str:
    """A line as text. Raises DataError where it is not UTF-8."""
    try:
        return decode_line(line)
    except BadLineError as error:
        raise DataError(f"{path}:{number}: {error} ({flag})") from None
