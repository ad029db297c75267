"""From vectors, fresh or saved, to shards: what every kind of index does in its own way."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from gazetteer.distributed.agreement import raise_together
from gazetteer.errors import IndexFileError
from gazetteer.index.flat import FEWEST_ROWS, FlatShard
from gazetteer.index.loading import copy_vectors, files_of, map_vectors, remember_checked
from gazetteer.index.manifest import Manifest
from gazetteer.index.mapped import mapped_matrix
from gazetteer.index.rounded_rows import CodeType, has_first_pass, round_rows
from gazetteer.index.rounded_storage import load_rounded
from gazetteer.index.shards import Shard, shard_range
from gazetteer.index.stored_files import IndexFile, verify_files
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
    the same, a few rows for each are read from the disk. Of a saved index, a CPU maps the vectors
    in either case, and int8 codes as well.

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
        shard, states = FlatShard(torch.empty(0, self._dim)), {}
        try:
            states = verify_files(folder, self._files(manifest))
            shard = self._open(folder, manifest)
        except IndexFileError as error:
            problem = error
        raise_together(problem, self._ranks)
        remember_checked(folder, manifest, states)
        return shard

    def _files(self, manifest: Manifest) -> list[IndexFile]:
        rounded = manifest.rounded if self._wants_int8 else ()
        return [*files_of(manifest.files, self._rows), *files_of(rounded, self._rows)]

    @property
    def _wants_int8(self) -> bool:
        device, rows = self._ranks.device, len(self._rows)
        if self._codes is None:
            return rows >= FEWEST_ROWS and has_first_pass(device)
        return self._codes == "int8" and rows > 0

    def _open(self, folder: Path, manifest: Manifest) -> FlatShard:
        """Vectors where this kind wants them, and their codes if they were saved with them."""
        stays_on_disk = self._codes is not None or self._ranks.device.type == "cpu"
        vectors = map_vectors(folder, manifest, self._rows) if stays_on_disk else None
        if vectors is None:
            vectors = copy_vectors(folder, manifest, self._rows, out=self.allocate())
        codes = None
        if self._wants_int8:
            codes = load_rounded(folder, manifest.rounded, self._rows, self._dim)
        if codes is None:
            return self(vectors)
        return FlatShard(vectors, codes.to(self._ranks.device))
