"""Rows that may be among the top k of some queries, as a flat list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gazetteer.index.shards import EMPTY_ROW


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs of a query and a row.

    Attributes:
        query: which query each is for.
        row: number inside the shard.
        score: what is known of the pair's score, such as a bound.
        queries: how many there are.
    """

    query: Int[Tensor, " candidate"]
    row: Int[Tensor, " candidate"]
    score: Float[Tensor, " candidate"]
    queries: int

    def __len__(self) -> int:
        """Pairs."""
        return len(self.row)

    def where(self, kept: Bool[Tensor, " candidate"]) -> Candidates:
        """Some of them, in the same order."""
        return Candidates(self.query[kept], self.row[kept], self.score[kept], self.queries)

    def of_queries(self, kept: Bool[Tensor, " query"]) -> Candidates:
        """Those of some queries, which are numbered anew."""
        number = kept.cumsum(0) - 1
        some = self.where(kept[self.query])
        return Candidates(number[some.query], some.row, some.score, int(kept.sum()))

    def table(self) -> tuple[Int[Tensor, "query k"], Float[Tensor, "query k"]]:
        """Rows and scores with one line for each query; `EMPTY_ROW` and -inf fill the shorter."""
        query, order = self.query.sort(stable=True)
        counts = query.bincount(minlength=self.queries)
        width = int(counts.max()) if self.queries else 0
        # Where the list of a query begins in the table, less where it begins in this one.
        shift = torch.arange(self.queries, device=query.device) * width - counts.cumsum(0) + counts
        place = torch.arange(len(query), device=query.device) + shift[query]
        rows = query.new_full((self.queries * width,), EMPTY_ROW)
        scores = self.score.new_full((self.queries * width,), float("-inf"))
        rows[place], scores[place] = self.row[order], self.score[order]
        return rows.view(self.queries, width), scores.view(self.queries, width)

    @classmethod
    def of_table(cls, rows: Int[Tensor, "query k"]) -> Candidates:
        """The rows of a table, without those marked empty; scores are not set."""
        query, place = (rows != EMPTY_ROW).nonzero(as_tuple=True)
        row = rows[query, place]
        return cls(query, row, torch.zeros_like(row, dtype=torch.float32), len(rows))

    @classmethod
    def joined(cls, parts: Sequence[Candidates]) -> Candidates:
        """One list of several, at least one."""
        query, row, score = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("query", "row", "score")
        )
        return cls(query, row, score, parts[0].queries)
