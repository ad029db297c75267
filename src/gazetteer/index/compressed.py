"""A shard in few bytes per row: codes propose candidates, vectors on the disk decide.

Codes alone find too little (recall of 0.4 to 0.7 with product quantisers); with exact scores for
four candidates per hit most of the loss is made up for, and nothing but the codes is in memory.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gazetteer.distributed.collectives import all_gather_rows
from gazetteer.index import faiss_codec
from gazetteer.index.codec import Codec, CodecSettings, candidates_for, probed_lists
from gazetteer.index.flat import order_hits
from gazetteer.index.pair_scores import exact_scores
from gazetteer.index.shards import EMPTY_ROW

WIDEST = 4_000_000
"""How many candidates one search may hold, over all its queries."""


class CompressedShard:
    """Codes in faiss; the vectors stay where they are, usually in a memory map.

    Args:
        vectors: float32, on the CPU; read only where candidates are rescored.
        index: faiss's, holding as many rows.
        codec: its quantiser.
        quantiser: the same trained, as bytes; saved with the index.
        settings: how to search it.

    Raises:
        ValueError: as many codes as vectors are needed.
    """

    def __init__(
        self,
        vectors: Float[Tensor, "row dim"],
        index: faiss_codec.FaissIndex,
        codec: Codec,
        *,
        quantiser: bytes,
        settings: CodecSettings,
    ) -> None:
        if index.ntotal != len(vectors):
            raise ValueError(f"{index.ntotal} codes for {len(vectors)} vectors")
        self.vectors = vectors
        self.index = index
        self.codec = codec
        self.quantiser = quantiser
        self._settings = settings
        self._nprobe = probed_lists(settings, codec) if codec.has_lists else 0

    @property
    def device(self) -> torch.device:
        """The CPU, whose memory map is searched last; faiss may use a GPU on the way."""
        return torch.device("cpu")

    def search(
        self, queries: Float[Tensor, "query dim"], top_k: int
    ) -> tuple[Float[Tensor, "query k"], Int[Tensor, "query k"]]:
        """See `Shard.search`. Not a collective: candidates are those of this shard."""
        candidates = self.candidates(top_k)
        if candidates is None:
            return self.propose(queries, top_k)
        _, rows = self.propose(queries, candidates)
        return self.rescore(queries, rows, top_k)

    def candidates(self, top_k: int) -> int | None:
        """How many candidates are rescored for top_k hits; None where the codes decide."""
        return candidates_for(self._settings, self.codec, top_k)

    def propose(
        self, queries: Float[Tensor, "query dim"], width: int
    ) -> tuple[Float[Tensor, "query width"], Int[Tensor, "query width"]]:
        """Best rows by their codes: scores, descending, and rows, ties by row.

        faiss keeps any of several rows with the same code. So it is asked for more than is wanted,
        until what it left out is worse than what is kept.
        """
        scores = torch.full((len(queries), width), float("-inf"))
        rows = torch.full((len(queries), width), EMPTY_ROW)
        found, most = min(width, len(self.vectors)), faiss_codec.most_hits(self.index)
        if found == 0:
            return scores, rows
        asked = min(most, found + max(16, found // 4))
        found = min(found, asked)
        unsure = torch.arange(len(queries))
        while len(unsure):
            ties = []
            for part in unsure.split(max(1, WIDEST // asked)):
                best, which = faiss_codec.search(
                    self.index, queries[part], asked, nprobe=self._nprobe
                )
                best, which = order_hits(best, which, asked)
                scores[part, :found], rows[part, :found] = best[:, :found], which[:, :found]
                is_unsure = (best[:, found - 1] == best[:, -1]) & (which[:, -1] != EMPTY_ROW)
                ties.append(part[is_unsure])
            unsure = torch.cat(ties) if asked < most else unsure[:0]
            asked = min(most, 4 * asked)
        return scores, rows

    def rescore(
        self,
        queries: Float[Tensor, "query dim"],
        rows: Int[Tensor, "query candidate"],
        top_k: int,
    ) -> tuple[Float[Tensor, "query k"], Int[Tensor, "query k"]]:
        """The best top_k of some rows by their exact scores, ties by row.

        Args:
            queries: float32.
            rows: of this shard, at least top_k of them; `EMPTY_ROW` stands for none.
            top_k: hits wanted.
        """
        if len(self.vectors) == 0 or len(queries) == 0:
            return torch.full((len(queries), top_k), float("-inf")), rows[:, :top_k]
        scores = exact_scores(self.vectors, queries, rows.clamp(min=0))
        return order_hits(scores.masked_fill(rows == EMPTY_ROW, float("-inf")), rows, top_k)


def search_together(
    shard: CompressedShard, queries: Float[Tensor, "query dim"], top_k: int, *, rank: int
) -> tuple[Float[Tensor, "query k"], Int[Tensor, "query k"]]:
    """Search a shard, rescoring the candidates that are among the best of all shards.

    So the same rows are rescored whatever the number of shards, and no more of them.

    Collective: every rank must call this, with the same queries.

    Args:
        shard: this rank's rows.
        queries: float32, those of all ranks.
        top_k: hits wanted.
        rank: this process's.

    Returns:
        As `Shard.search`.
    """
    candidates = shard.candidates(top_k)
    if candidates is None:
        return shard.search(queries, top_k)
    scores, rows = shard.propose(queries, candidates)
    kept = _kept_here(scores, rows != EMPTY_ROW, rank)
    columns = max(top_k, int(kept.max()) if len(kept) else 0)
    rows = rows[:, :columns]
    is_kept = torch.arange(columns) < kept.unsqueeze(1)
    return shard.rescore(queries, rows.where(is_kept, EMPTY_ROW), top_k)


def _kept_here(
    scores: Float[Tensor, "query candidate"], is_row: Tensor, rank: int
) -> Int[Tensor, " query"]:
    """How many of this shard's candidates are among as many best ones of all shards. Collective.

    Each shard's candidates are in order, and shards hold rows in order of rank: those kept are the
    first ones, and of equal ones across shards those of the lower rank.
    """
    queries, width = scores.shape
    flat, counts = all_gather_rows(scores.reshape(1, -1))
    everyone = flat.view(len(counts), queries, width)
    worst = everyone.transpose(0, 1).flatten(1).topk(width, dim=1).values[:, -1:]
    better, equal = (everyone > worst).sum(dim=2), (everyone == worst).sum(dim=2)
    left = width - better.sum(dim=0)
    before = equal.cumsum(dim=0) - equal
    kept = better[rank] + (left - before[rank]).clamp(min=0).minimum(equal[rank])
    return kept.minimum(is_row.sum(dim=1))
