"""From numbers of lines to batches: passages picked, special tokens put around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gazetteer.data.sampling import Draw
from gazetteer.data.tokens import PassageTokens, SpecialTokens
from gazetteer.dense.known_positives import KnownPositives, padded_keys, passage_keys
from gazetteer.dense.line_store import LineStore, Passages, StoredLine
from gazetteer.dense.picking import Picker
from gazetteer.dense.records import BatchKeys, DenseBatch
from gazetteer.records import TokenIds


class _Passage(NamedTuple):
    """One that was picked.

    Attributes:
        number: as the store has it.
        row: in the corpus; -1 where unknown.
        score: a teacher's; NaN where unknown.
    """

    number: int
    row: int
    score: float


class DenseBatches:
    """Builds batches from a store of lines.

    Args:
        lines: the store.
        corpus: tokens of the passages that lines refer to; None where they bring all along.
        special: the tokenizer's.
        picker: which passages of a line are used.
        query_tokens, passage_tokens: limits, special tokens included.
        scored: batches carry the teacher's scores.
        known: batches tell what answers their queries, by this; None: they do not.
    """

    def __init__(
        self,
        lines: LineStore,
        corpus: PassageTokens | None,
        special: SpecialTokens,
        picker: Picker,
        *,
        query_tokens: int,
        passage_tokens: int,
        scored: bool,
        known: KnownPositives | None = None,
    ) -> None:
        self.lines = lines
        self._corpus = corpus
        self._special = special
        self._picker = picker
        self._query_tokens = query_tokens
        self._passage_tokens = passage_tokens
        self._scored = scored
        self._known = known
        self._mined: np.ndarray | None = None

    @property
    def count(self) -> int:
        """Number of lines."""
        return self.lines.count

    def use_negatives(self, rows: np.ndarray | None) -> None:
        """From now on take the negatives of each line from the corpus instead of from its file.

        Args:
            rows: int64 (line, negative), rows of the corpus; -1 where a line has fewer. A line
                without any keeps those of the file. None: all lines do.
        """
        self._mined = rows

    def build(self, draws: Sequence[Draw]) -> DenseBatch:
        """One batch; empty for no draws.

        What is picked depends on nothing but the seed, the epoch and the line.
        """
        lines = [self.lines.line(draw.index) for draw in draws]
        picked = [self._picked(line, draw) for line, draw in zip(lines, draws, strict=True)]
        passages = [passage for passages in picked for passage in passages]
        queries = self.lines.texts(np.asarray([line.query for line in lines], dtype=int))
        tokens = self._passage_inputs(
            np.asarray([passage.number for passage in passages], dtype=np.int64)
        )
        scores = torch.tensor([passage.score for passage in passages])
        return DenseBatch(
            examples=tuple(draw.index for draw in draws),
            query_tokens=[self._special.around(ids, self._query_tokens) for ids in queries],
            passage_tokens=tokens,
            teacher_scores=scores.view(len(draws), self._picker.negatives + 1)
            if self._scored
            else None,
            keys=None
            if self._known is None
            else BatchKeys(
                passage_keys([passage.row for passage in passages], tokens),
                self._positive_keys(self._known, draws, queries),
            ),
        )

    def _positive_keys(
        self, known: KnownPositives, draws: Sequence[Draw], queries: Sequence[TokenIds]
    ) -> Tensor:
        positives = [
            known.of(draw.index, query) for draw, query in zip(draws, queries, strict=True)
        ]
        numbers = [number for numbers, _ in positives for number in numbers]
        rows = [row for _, rows in positives for row in rows]
        keys = passage_keys(rows, self._passage_inputs(np.asarray(numbers, dtype=np.int64)))
        each = keys.split([len(numbers) for numbers, _ in positives]) if positives else []
        return padded_keys([part[part != -1].unique().numpy() for part in each])

    def _picked(self, line: StoredLine, draw: Draw) -> list[_Passage]:
        """The line's passages: a positive, then negatives."""
        positive = self._picker.positive(_listed(line.positives), draw.index, draw.epoch)
        negatives = self._picker.pick_negatives(
            self._negatives(line, draw.index), draw.index, draw.epoch
        )
        return [positive, *negatives]

    def _negatives(self, line: StoredLine, number: int) -> list[_Passage]:
        if self._mined is not None:
            rows = self._mined[number]
            rows = rows[rows >= 0].tolist()
            if rows:
                return [_Passage(row, row, np.nan) for row in rows]
        return _listed(line.negatives)

    def _passage_inputs(self, numbers: np.ndarray) -> list[TokenIds]:
        own = numbers >= self.lines.corpus_count
        inputs: list[TokenIds | None] = [None] * len(numbers)
        of_lines = self.lines.texts(numbers[own] - self.lines.corpus_count)
        for place, ids in zip(np.flatnonzero(own), of_lines, strict=True):
            inputs[place] = self._special.around(ids, self._passage_tokens)
        if not own.all():
            assert self._corpus is not None
            of_corpus = self._corpus.passage_inputs(numbers[~own])
            for place, ids in zip(np.flatnonzero(~own), of_corpus, strict=True):
                inputs[place] = ids
        return [ids for ids in inputs if ids is not None]


def _listed(passages: Passages) -> list[_Passage]:
    columns = (passages.numbers, passages.rows, passages.scores)
    return [_Passage(*each) for each in zip(*(c.tolist() for c in columns), strict=True)]
