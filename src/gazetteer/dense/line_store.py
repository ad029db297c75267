"""Training lines on disk: token ids and numbers, memory-mapped. A worker keeps none of them.

Passages have numbers: those below the corpus's count are its rows, the others are kept here.
`line_files.py` writes the store; which passages of a line are used is a matter of `picking.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gazetteer.data.built_folders import require_built
from gazetteer.data.tokens import TokenStore
from gazetteer.errors import IndexFileError
from gazetteer.records import TokenIds

TOKENS = "tokens"
COLUMNS = {
    "queries": np.int64,
    "starts": np.int64,
    "positives": np.int64,
    "passages": np.int64,
    "rows": np.int64,
    "scores": np.float32,
}
"""Of each line: the place of its query among the texts, its first passage, how many of them are
positives. Of each passage: its number, its row in the corpus or -1, its score or NaN."""


@dataclass(frozen=True, slots=True)
class Passages:
    """Positives or negatives of a line.

    Attributes:
        numbers: of each passage, int64; -1 for none.
        rows: in the corpus, int64; -1 where unknown.
        scores: float32; NaN where unknown.
    """

    numbers: np.ndarray
    rows: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True, slots=True)
class StoredLine:
    """One line.

    Attributes:
        query: place of the query among the texts of the store.
        positives: at least one.
        negatives: may be empty.
    """

    query: int
    positives: Passages
    negatives: Passages


class LineStore:
    """Training lines by number.

    Args:
        folder: written by `line_files.write_lines`.
        corpus_count: passages in the corpus that numbers refer to; 0 without one.

    Raises:
        IndexFileError: the folder holds no lines, or damaged ones.
    """

    def __init__(self, folder: Path, corpus_count: int) -> None:
        require_built(folder, "training lines")
        self.corpus_count = corpus_count
        self._texts = TokenStore(folder / TOKENS)
        try:
            self._columns = {
                name: np.load(column_file(folder, name), mmap_mode="r", allow_pickle=False)
                for name in COLUMNS
            }
        except (OSError, ValueError) as error:
            raise IndexFileError(f"{folder}: unknown training lines ({error})") from None

    @property
    def count(self) -> int:
        """Number of lines."""
        return len(self._columns["queries"])

    def line(self, number: int) -> StoredLine:
        """One line."""
        columns = self._columns
        start, stop = columns["starts"][number : number + 2].tolist()
        middle = start + int(columns["positives"][number])
        return StoredLine(
            int(columns["queries"][number]),
            self._passages(start, middle),
            self._passages(middle, stop),
        )

    def text(self, place: int) -> TokenIds:
        """Ids of a text of the store, without special tokens."""
        return self._texts.take([place])[0]

    def texts(self, places: np.ndarray) -> list[TokenIds]:
        """Ids of several texts of the store, without special tokens."""
        return self._texts.take(places)

    def first_line_with_fewer(self, negatives: int) -> int | None:
        """The first line that has fewer negatives than that; None if there is none."""
        counts = np.diff(self._columns["starts"]) - self._columns["positives"]
        return _first(counts < negatives)

    def first_line_without_scores(self) -> int | None:
        """The first line some passage of which has no score; None if there is none."""
        place = _first(np.isnan(self._columns["scores"]))
        if place is None:
            return None
        return int(np.searchsorted(self._columns["starts"], place, side="right")) - 1

    def _passages(self, start: int, stop: int) -> Passages:
        return Passages(
            *(self._columns[name][start:stop] for name in ("passages", "rows", "scores"))
        )


def column_file(folder: Path, name: str) -> Path:
    """Where a column is."""
    return folder / f"{name}.npy"


def _first(is_found: np.ndarray) -> int | None:
    places = np.flatnonzero(is_found)
    return int(places[0]) if len(places) else None
