"""The lines of one or more jsonl files: validated once, then read by number.

Only line offsets are kept in memory. Passages that come with the lines are stored like a corpus, so
that they are tokenised once and read by row, as searched ones are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gazetteer.data.jsonl import (
    BadLineError,
    Field,
    Line,
    OnBadLine,
    parse_line,
    read_lines,
    total_bytes,
)
from gazetteer.data.passages import FORMAT_VERSION, PassageStore, write_passages
from gazetteer.errors import DataError, IndexFileError
from gazetteer.progress import progress
from gazetteer.records import Example

COMMON_FIELDS = (
    Field("id", "id", required=False),
    Field("gold_passage_id", "text", required=False),
)
GIVEN_PASSAGES = Field("passages", "passages", required=True)


@dataclass(frozen=True, slots=True)
class ExampleFiles:
    """Good lines of some files, in order.

    Attributes:
        paths: the files.
        file_numbers: which file each line is in.
        offsets: where it begins there, in bytes.
        passages: passages that came with the lines; None when they are not used.
        passage_ranges: for each line the first of its rows there, and the one after the last.
        skipped: what was wrong with each bad line.
        left_out: how many good lines the task has no use for.
    """

    paths: tuple[Path, ...]
    file_numbers: np.ndarray
    offsets: np.ndarray
    passages: PassageStore | None = None
    passage_ranges: np.ndarray | None = None
    skipped: tuple[str, ...] = ()
    left_out: int = 0

    @classmethod
    def open(
        cls,
        paths: Sequence[Path],
        fields: Sequence[Field],
        *,
        flag: str,
        keeps: Callable[[Mapping[str, Any]], bool] | None = None,
        on_bad_line: OnBadLine = "error",
        passages_folder: Path | None = None,
        show_progress: bool = False,
    ) -> ExampleFiles:
        """Read every line once, checking it.

        Args:
            paths: jsonl files.
            fields: what the task needs.
            flag: named in errors.
            keeps: whether the task makes an example of a good line; None = of all.
            on_bad_line: raise, or leave the line out.
            passages_folder: where to keep passages that come with the lines; None to ignore them.
            show_progress: draw a bar.

        Raises:
            DataError: a bad line, or no line at all.
        """
        given = () if passages_folder is None else (GIVEN_PASSAGES,)
        scan = _Scan([*fields, *COMMON_FIELDS, *given], flag, on_bad_line, keeps)
        with progress(
            total_bytes(paths, flag), f"checking {flag}", "B", enabled=show_progress
        ) as bar:
            lines = scan.lines(paths, bar.update)
            store = None
            if passages_folder is None:
                _read_to_the_end(lines)
            else:
                store = _passage_store(scan, lines, paths, passages_folder)
        kept = np.asarray(scan.kept, dtype=bool)
        if not kept.any():
            among = f" among {len(kept)} good lines, the task keeps none" if len(kept) else ""
            raise DataError(f"{', '.join(map(str, paths))}: found no examples{among} ({flag})")
        starts = np.cumsum([0, *scan.passage_counts])
        return cls(
            tuple(paths),
            np.asarray(scan.file_numbers, dtype=np.int32)[kept],
            np.asarray(scan.offsets, dtype=np.int64)[kept],
            store,
            np.stack([starts[:-1], starts[1:]], axis=1)[kept] if store is not None else None,
            tuple(scan.skipped),
            int((~kept).sum()),
        )

    @property
    def count(self) -> int:
        """Number of lines."""
        return len(self.offsets)

    def line(self, index: int) -> dict[str, Any]:
        """One line, parsed.

        Raises:
            DataError: the file is no longer what it was when it was opened.
        """
        path, offset = self.paths[int(self.file_numbers[index])], int(self.offsets[index])
        try:
            with path.open("rb") as file:
                file.seek(offset)
                value = parse_line(file.readline(), is_first=offset == 0)
        except (OSError, BadLineError):
            value = None
        if value is None:
            raise DataError(f"{path}: changed while in use (found no example at byte {offset})")
        return value

    def with_passages(self, example: Example, index: int) -> Example:
        """The example made of line `index`, with the rows of the passages that came with it."""
        if self.passage_ranges is None:
            return example
        start, stop = self.passage_ranges[index].tolist()
        return replace(example, passage_rows=tuple(range(start, stop)))


def _read_to_the_end(lines: Iterator[Line]) -> None:
    for _ in lines:
        pass


class _Scan:
    """One pass over the files: what is kept of each line."""

    def __init__(
        self,
        fields: Sequence[Field],
        flag: str,
        on_bad_line: OnBadLine,
        keeps: Callable[[Mapping[str, Any]], bool] | None,
    ) -> None:
        self.fields = fields
        self.kept: list[bool] = []
        self.file_numbers: list[int] = []
        self.offsets: list[int] = []
        self.passage_counts: list[int] = []
        self.skipped: list[str] = []
        self._flag = flag
        self._on_bad_line: OnBadLine = on_bad_line
        self._keeps = keeps
        self._counts = GIVEN_PASSAGES in fields

    def lines(self, paths: Sequence[Path], on_bytes: Any) -> Iterator[Line]:  # noqa: ANN401
        for number, path in enumerate(paths):
            for line in read_lines(
                path,
                self.fields,
                flag=self._flag,
                on_bad_line=self._on_bad_line,
                on_skip=self.skipped.append,
                on_bytes=on_bytes,
            ):
                self.file_numbers.append(number)
                self.offsets.append(line.offset)
                # What nobody reads may be anything: where passages are used, it was checked.
                self.passage_counts.append(len(line.value["passages"]) if self._counts else 0)
                self.kept.append(self._keeps is None or self._keeps(line.value))
                yield line


def _passage_store(
    scan: _Scan, lines: Iterator[Line], paths: Sequence[Path], cache_dir: Path
) -> PassageStore:
    """Store the passages of all lines, or reopen them if the very same were stored before."""
    files = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    # With other fields, other lines are bad ones and are left out.
    identity = ("examples", FORMAT_VERSION, files, [repr(field) for field in scan.fields])
    name = hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
    folder = cache_dir / "passages" / name
    try:
        store = PassageStore(folder)
    except IndexFileError:
        return write_passages((p for line in lines for p in line.value["passages"]), folder)
    _read_to_the_end(lines)
    if store.count != sum(scan.passage_counts):
        raise IndexFileError(
            f"{folder}: found {store.count} passages, expected {sum(scan.passage_counts)}; "
            "remove the folder (--cache_dir)"
        )
    return store
