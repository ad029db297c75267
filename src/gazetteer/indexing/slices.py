"""A version of the index that is embedded a slice at a time, beside the one that serves."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from gazetteer.data.tokens import PassageTokens
from gazetteer.index import IndexIdentity, shard_range
from gazetteer.indexing.chunks import ChunkFolder
from gazetteer.indexing.embedding import RowEmbedder
from gazetteer.retriever import EmbeddingBatch, TextEncoder


class SlicedVersion:
    """This rank's rows of a version that no search sees before it is whole.

    All ranks embed the same number of slices, so all are done after the same step without a word
    between them, whatever the sizes of their shards.

    Args:
        tower: the passage tower; copied as it is now, since training goes on meanwhile.
        tokens: the retriever's tokens of the corpus.
        rows: this rank's global rows.
        batch: limits of one encoder call.
        vectors: float32, where to put them: on any device, or a memory map.
        identity: what they are made from.
        chunks: what is left on disk of an interrupted attempt; None where nothing is kept.
        step: training step at which it was begun, in the unit of the flags.
        slices: number of parts to embed it in.
    """

    def __init__(
        self,
        tower: TextEncoder,
        tokens: PassageTokens,
        rows: range,
        batch: EmbeddingBatch,
        *,
        vectors: Float[Tensor, "row dim"],
        identity: IndexIdentity,
        chunks: ChunkFolder | None,
        step: int,
        slices: int,
    ) -> None:
        self.step = step
        self.slices = slices
        self.slices_done = 0
        self.vectors = vectors
        self.identity = identity
        self._tower = copy.deepcopy(tower).requires_grad_(False).eval()
        self._rows = rows
        self._embedder = RowEmbedder(self._tower, tokens, rows, batch, out=vectors, chunks=chunks)

    @property
    def is_whole(self) -> bool:
        """Whether every row is embedded."""
        return self.slices_done == self.slices

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """What embeds it: with step and slices, all that a resumed run needs."""
        return {name: tensor.cpu() for name, tensor in self._tower.weights().items()}

    def embed_next_slice(self) -> None:
        """Embed one more part of this rank's rows. Not a collective."""
        part = shard_range(len(self._rows), self.slices_done, self.slices)
        self._embedder.embed(self._rows[part.start : part.stop])
        self.slices_done += 1

    def finish(self) -> None:
        """Embed whatever is left."""
        while not self.is_whole:
            self.embed_next_slice()
