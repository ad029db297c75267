"""Passages by id, out of the passage store: sixteen bytes in memory for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gazetteer.data.jsonl import describe
from gazetteer.data.passages import PassageStore
from gazetteer.errors import DataError
from gazetteer.ir.records import Candidate, Document, TrainingLine


class PassageLookup:
    """From ids to the rows of a store.

    Args:
        store: the passages.
        flag: that named their files; named in errors.

    Raises:
        DataError: two passages have the same id.
    """

    def __init__(self, store: PassageStore, flag: str = "--passages") -> None:
        self.store = store
        self._flag = flag
        hashes = np.fromiter(map(hash, store.all_ids()), dtype=np.int64, count=store.count)
        self._rows = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._rows]
        self._refuse_repeated()

    def _refuse_repeated(self) -> None:
        places = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        for place in places.tolist():
            first, second = self.store.ids(self._rows[place : place + 2])
            if first == second:
                rows = self._rows[place : place + 2].tolist()
                raise DataError(
                    f"passage id {describe(first)}: found it in rows {rows[0] + 1} and "
                    f"{rows[1] + 1}, expected each id once ({self._flag})"
                )

    def __contains__(self, passage_id: str) -> bool:
        return self._row(passage_id) >= 0

    def _row(self, passage_id: str) -> int:
        number = hash(passage_id)
        place = int(np.searchsorted(self._hashes, number))
        while place < len(self._hashes) and self._hashes[place] == number:
            row = int(self._rows[place])
            if self.store.ids([row]) == [passage_id]:
                return row
            place += 1
        return -1

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """Rows of these passages, int64, in this order.

        Raises:
            DataError: there is no such passage.
        """
        hashes = np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
        places = np.searchsorted(self._hashes, hashes)
        rows = self._rows[np.minimum(places, len(self._rows) - 1)]
        found = self.store.ids(rows)
        for place, (wanted, actual) in enumerate(zip(ids, found, strict=True)):
            if wanted != actual:
                # Two ids with one hash, or an unknown id.
                rows[place] = self._row(wanted)
                if rows[place] < 0:
                    raise DataError(f"found no passage {describe(wanted)} ({self._flag})")
        return rows

    def documents(self, ids: Sequence[str]) -> list[Document]:
        """These passages, in this order.

        Raises:
            DataError: there is no such passage.
        """
        records = self.store.records(self.rows(ids))
        return [Document(each["id"], each["title"], each["text"]) for each in records]


def with_texts(
    line: TrainingLine, queries: Mapping[str, str], passages: PassageLookup
) -> TrainingLine:
    """A training line with the texts that it names by id only.

    Args:
        line: passages with text or tokens stay as they are, and so does such a query.
        queries: text by id.
        passages: where the others are looked up.

    Raises:
        DataError: there is no such query or passage.
    """
    query = line.query
    if query is None and line.query_tokens is None:
        query = queries.get(line.query_id)
        if query is None:
            raise DataError(f"found no query {describe(line.query_id)}")
    candidates = (*line.positives, *line.negatives)
    missing = [each.id for each in candidates if _lacks(each)]
    found = iter(passages.documents(missing))
    filled = tuple(_filled(each, next(found)) if _lacks(each) else each for each in candidates)
    split = len(line.positives)
    return replace(line, query=query, positives=filled[:split], negatives=filled[split:])


def _lacks(candidate: Candidate) -> bool:
    return candidate.text is None and candidate.tokens is None


def _filled(candidate: Candidate, document: Document) -> Candidate:
    return replace(candidate, title=document.title, text=document.text)
