"""From vectors, fresh or saved, to shards: what every kind of index does in its own way."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from gazetteer.distributed.agreement import raise_together
from gazetteer.errors import IndexFileError
from gazetteer.index.flat import FlatShard
from gazetteer.index.mapped import mapped_matrix
from gazetteer.index.rounded_rows import CodeType, round_rows
from gazetteer.index.shards import Shard, shard_range
from gazetteer.index.storage import Manifest, load_rows
from gazetteer.records import Ranks

IndexDtype = Literal["fp32", "fp16", "bf16", "int8"]


class ShardMaker(Protocol):
    """Makes this rank's shards of one corpus. Also a `ShardBuilder`."""

    def allocate(self) -> Float[Tensor, "row dim"]:
        """Room for the vectors of this rank's rows, float32, where this kind of index wants them.

        Raises:
            IndexFileError: the disk has none.
        """
        ...

    def __call__(self, vectors: Float[Tensor, "row dim"]) -> Shard:
        """Make this rank's rows searchable. Collective."""
        ...

    def load(self, folder: Path, manifest: Manifest) -> Shard:
        """Take this rank's rows from a saved index, whoever saved it. Collective.

        Raises:
            IndexFileError: a file is missing, truncated, or differs from its hash; on every rank.
        """
        ...


class FlatMaker:
    """Makes shards that are searched exactly.

    With "fp32" the vectors are in memory, on the rank's device, with an int8 first pass where that
    is faster. Otherwise only codes of that type are, and the vectors lie in a memory map: hits are
    the same, a few rows for each are read from the disk.

    Args:
        dtype: what is kept in memory (`--index_dtype`).
        count: passages in the whole index.
        dim: of their embeddings.
        ranks: this process among its peers.
        folder: for vectors that are not kept in memory, in files without a name.
    """

    def __init__(
        self, dtype: IndexDtype, *, count: int, dim: int, ranks: Ranks, folder: Path
    ) -> None:
        self._codes: CodeType | None = None if dtype == "fp32" else dtype
        self._rows = shard_range(count, ranks.rank, ranks.world_size)
        self._dim = dim
        self._ranks = ranks
        self._folder = folder

    def allocate(self) -> Float[Tensor, "row dim"]:
        """See `ShardMaker.allocate`."""
        if self._codes is not None:
            return mapped_matrix(self._folder, len(self._rows), self._dim)
        return torch.empty(len(self._rows), self._dim, device=self._ranks.device)

    def __call__(self, vectors: Float[Tensor, "row dim"]) -> FlatShard:
        """See `ShardMaker`; not a collective for this kind."""
        if self._codes is None:
            return FlatShard(vectors)
        return FlatShard(vectors, round_rows(vectors, self._codes, device=self._ranks.device))

    def load(self, folder: Path, manifest: Manifest) -> FlatShard:
        """See `ShardMaker.load`."""
        problem: IndexFileError | None = None
        vectors = torch.empty(0, self._dim)
        try:
            vectors = load_rows(folder, manifest, self._rows, out=self.allocate())
        except IndexFileError as error:
            problem = error
        raise_together(problem, self._ranks)
        return self(vectors)
