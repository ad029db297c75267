"""Embedding a range of rows, in pieces that pack well, so that a kill does not lose hours."""

from __future__ import annotations

import logging
import time

import torch
from jaxtyping import Float
from torch import Tensor

from gazetteer.data.tokens import PassageTokens
from gazetteer.indexing.chunks import ChunkFolder, pieces, uncovered
from gazetteer.modes import evaluation_mode
from gazetteer.progress import progress
from gazetteer.retriever import EmbeddingBatch, TextEncoder
from gazetteer.retriever.encoder import embed

logger = logging.getLogger(__name__)

CHUNK_ROWS = 8192
"""Passages tokenised and sorted by length together: enough to pack well, little memory."""
KEEP_SECONDS = 60.0
"""What took so long to embed is written to disk: at most as much is lost in a kill, and shorter
embeddings write nothing."""


class RowEmbedder:
    """Embeds this rank's rows of one version.

    Args:
        tower: the passage tower; its weights stay as they are meanwhile.
        tokens: the retriever's tokens of the corpus.
        rows: this rank's global rows, contiguous.
        batch: limits of one encoder call.
        out: where the vectors go, float32, on any device; may be a memory map.
        chunks: what an interrupted attempt left of this version, and where this one leaves its
            own; None keeps nothing.
    """

    def __init__(
        self,
        tower: TextEncoder,
        tokens: PassageTokens,
        rows: range,
        batch: EmbeddingBatch,
        *,
        out: Float[Tensor, "row dim"],
        chunks: ChunkFolder | None,
    ) -> None:
        self._tower = tower
        self._tokens = tokens
        self._rows = rows
        self._batch = batch
        self._out = out
        self._chunks = chunks
        self._unsaved: list[range] = []
        self._unsaved_seconds = 0.0
        self._known = chunks.read_into(rows, out) if chunks is not None else []
        if self._known:
            count = sum(map(len, self._known))
            logger.info("%d rows were embedded before the run was interrupted", count)

    def embed_all(self, *, show_progress: bool) -> None:
        """Embed all rows, with a bar that shows rate and time left."""
        with progress(len(self._rows), "embedding", "passage", enabled=show_progress) as bar:
            for part in pieces(self._rows, CHUNK_ROWS):
                self.embed(part)
                bar.update(len(part))

    @torch.no_grad()
    def embed(self, part: range) -> None:
        """Embed some of the rows in evaluation mode, but for those that are known already."""
        for gap in uncovered(part, self._known):
            start = time.monotonic()
            for piece in pieces(gap, CHUNK_ROWS):
                with evaluation_mode(self._tower):
                    vectors = embed(self._tower, self._tokens.passage_inputs(piece), self._batch)
                self._rows_of(piece).copy_(vectors)
            self._unsaved.append(gap)
            self._unsaved_seconds += time.monotonic() - start
        if self._unsaved_seconds >= KEEP_SECONDS:
            self._keep()

    def _rows_of(self, part: range) -> Float[Tensor, "row dim"]:
        return self._out[part.start - self._rows.start : part.stop - self._rows.start]

    def _keep(self) -> None:
        """Write what is not on disk yet. A full disk is no reason to stop."""
        if self._chunks is not None:
            try:
                self._chunks.create()
                for part in _joined(self._unsaved):
                    for piece in pieces(part, CHUNK_ROWS):
                        self._chunks.write(piece.start, self._rows_of(piece))
            except OSError as error:
                logger.warning(
                    "%s: cannot keep what is embedded (%s); if the run is killed, it is embedded "
                    "again",
                    self._chunks.path,
                    error.strerror,
                )
                self._chunks = None
        self._unsaved, self._unsaved_seconds = [], 0.0


def _joined(parts: list[range]) -> list[range]:
    """Ranges in order, those that touch each other as one."""
    joined: list[range] = []
    for part in parts:
        if joined and joined[-1].stop == part.start:
            joined[-1] = range(joined[-1].start, part.stop)
        else:
            joined.append(part)
    return joined
