"""Shards: which rows belong to whom, and what every kind of index can do with its rows."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

EMPTY_ROW = -1
"""Stands where a shard has fewer rows than were asked for; its score is -inf."""


def shard_range(count: int, part: int, parts: int) -> range:
    """Rows of part `part` of `parts`: contiguous, in order, sizes differing by at most one.

    Parts may be empty when there are more of them than rows.
    """
    if not 0 <= part < parts:
        raise ValueError(f"part must be in 0..{parts - 1}, got {part}")
    return range(count * part // parts, count * (part + 1) // parts)


def overlap(first: range, second: range) -> range:
    """Rows that two contiguous ranges share."""
    return range(max(first.start, second.start), min(first.stop, second.stop))


class Shard(Protocol):
    """One rank's rows of one version of the index.

    A shard never changes: a refresh builds another one beside it.
    """

    @property
    def vectors(self) -> Float[Tensor, "row dim"]:
        """float32, in full precision; in memory or a memory map, on any device."""
        ...

    @property
    def device(self) -> torch.device:
        """Where queries have to be, and where hits will be."""
        ...

    def search(
        self, queries: Float[Tensor, "query dim"], top_k: int
    ) -> tuple[Float[Tensor, "query k"], Int[Tensor, "query k"]]:
        """Find the best rows of this shard. Not a collective.

        Args:
            queries: float32, on `device`; may be empty.
            top_k: at least 1.

        Returns:
            Scores (float32, descending) and row numbers inside the shard (int64), ties by row;
            where the shard has fewer rows, -inf and `EMPTY_ROW`.
        """
        ...


class ShardBuilder(Protocol):
    """Makes a shard of vectors."""

    def __call__(self, vectors: Float[Tensor, "row dim"]) -> Shard:
        """Make this rank's rows searchable.

        Collective: every rank must call this, since a quantiser is trained on everyone's rows.

        Args:
            vectors: float32, this rank's rows; kept, not copied, where the kind allows.
        """
        ...
