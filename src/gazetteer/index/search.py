"""Search over all shards: every rank asks, every rank answers, in a fixed number of collectives."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gazetteer.distributed.collectives import all_gather_rows, exchange_rows
from gazetteer.index.compressed import CompressedShard, search_together
from gazetteer.index.flat import FlatShard, order_hits
from gazetteer.index.shards import Shard, ShardBuilder, shard_range
from gazetteer.records import Hits, Ranks


class ShardedIndex:
    """The passages' embeddings, one contiguous range of rows on each rank.

    Args:
        count: passages in the whole index.
        ranks: this process among its peers; rank r holds range r of world_size.
        embeddings: vectors of this rank's range, on the device that is to search them.
        build_shard: the kind of index; exact if not given.

    Raises:
        ValueError: the number of embeddings is not the size of this rank's range.
    """

    def __init__(
        self,
        count: int,
        ranks: Ranks,
        embeddings: Float[Tensor, "row dim"] | None = None,
        *,
        build_shard: ShardBuilder = FlatShard,
    ) -> None:
        self.count = count
        self.rows = shard_range(count, ranks.rank, ranks.world_size)
        self._rank, self._world_size = ranks.rank, ranks.world_size
        self._build_shard = build_shard
        self._shard: Shard | None = None
        if embeddings is not None:
            self.replace(embeddings)

    @property
    def shard(self) -> Shard:
        """This rank's rows. Raises ValueError before there are any."""
        if self._shard is None:
            raise ValueError("the index is empty: embed the corpus or load a saved index first")
        return self._shard

    @property
    def embeddings(self) -> Float[Tensor, "row dim"]:
        """float32 vectors of this rank's rows. Raises ValueError before there are any."""
        return self.shard.vectors

    @property
    def is_filled(self) -> bool:
        """True once there is something to search."""
        return self._shard is not None

    def replace(self, embeddings: Float[Tensor, "row dim"]) -> None:
        """Build a new version from this rank's vectors and adopt it, whole.

        Collective: every rank must call this.
        """
        if len(embeddings) != len(self.rows):
            raise ValueError(f"got {len(embeddings)} embeddings for {len(self.rows)} rows")
        self._shard = self._build_shard(embeddings)

    def adopt(self, shard: Shard) -> None:
        """Serve a version that is ready, such as one that was loaded."""
        if len(shard.vectors) != len(self.rows):
            raise ValueError(f"got {len(shard.vectors)} rows, expected {len(self.rows)}")
        self._shard = shard

    @torch.no_grad()
    def search(self, queries: Float[Tensor, "query dim"], top_k: int) -> Hits:
        """Find the best passages in the whole index for this rank's queries.

        Collective: every rank must call this, with any number of queries, zero included.

        Queries travel once, then (score, global row) pairs; never text. Scores do not depend on
        the sharding and ties break by row, so neither do the hits.

        Args:
            queries: any float dtype; moved to the shard's device.
            top_k: hits wanted per query, the same on every rank.

        Returns:
            min(top_k, passages) hits per query, best first, on the CPU.

        Raises:
            ValueError: top_k < 1; raised on every rank alike, before any collective.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        wanted = min(top_k, self.count)
        shard = self.shard
        everyone, counts = all_gather_rows(queries.to(shard.device, torch.float32))
        if isinstance(shard, CompressedShard):
            scores, rows = search_together(shard, everyone, wanted, rank=self._rank)
        else:
            scores, rows = shard.search(everyone, wanted)
        rows = torch.where(rows >= 0, rows + self.rows.start, rows)
        if self._world_size > 1:
            mine = len(queries)
            packed = exchange_rows(_pack(scores, rows), counts, [mine] * self._world_size)
            answers = packed.view(self._world_size, mine, wanted, 3)
            scores, rows = _merge(answers, wanted)
        return Hits(rows.cpu(), scores.cpu())


def _pack(scores: Float[Tensor, "query k"], rows: Int[Tensor, "query k"]) -> Tensor:
    """(score, row) as three int32 each, so that one exchange carries both exactly."""
    parts = [scores.view(torch.int32).unsqueeze(2), rows.view(torch.int32).unflatten(1, (-1, 2))]
    return torch.cat(parts, dim=2)


def _merge(answers: Int[Tensor, "shard query k 3"], top_k: int) -> tuple[Tensor, Tensor]:
    """Best of all shards' answers."""
    by_query = answers.transpose(0, 1).flatten(1, 2)
    # Copies: a view that holds nothing would keep an offset that no int64 can begin at.
    scores = by_query[:, :, 0].clone(memory_format=torch.contiguous_format).view(torch.float32)
    rows = by_query[:, :, 1:].clone(memory_format=torch.contiguous_format).view(torch.int64)
    rows = rows.squeeze(2)
    return order_hits(scores, rows, top_k)
