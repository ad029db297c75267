"""How stale the index is: a fixed sample of its passages, embedded anew and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from gazetteer.data.tokens import PassageTokens
from gazetteer.distributed.collectives import all_gather_rows, all_reduce_sum
from gazetteer.index import ShardedIndex
from gazetteer.records import TokenIds
from gazetteer.retriever import DualEncoder


@dataclass(frozen=True, slots=True)
class Staleness:
    """What the index and the passage tower of now disagree about.

    Attributes:
        drift: mean of 1 - cosine between a passage's vector in the index and its vector now.
        overlap: share of the passages found in the sample by the vectors in the index that those
            of now find too, 0 to 1.
    """

    drift: float
    overlap: float

    def numbers(self) -> dict[str, float]:
        """For the log."""
        return {"index/drift": self.drift, "index/overlap": self.overlap}


@dataclass(frozen=True, slots=True)
class StalenessMeter:
    """Measures on the same passages every time, spread evenly over the corpus.

    Attributes:
        index: what is searched.
        retriever: as it is now.
        tokens: the retriever's tokens of the corpus.
        sample: number of passages; all of them where the corpus has fewer.
        top_k: hits compared per query, at most half the sample.
    """

    index: ShardedIndex
    retriever: DualEncoder
    tokens: PassageTokens
    sample: int
    top_k: int

    @torch.no_grad()
    def measure(self, queries: Sequence[TokenIds]) -> Staleness:
        """Compare the index with the towers of now, for these queries.

        Collective: every rank must call this, with any number of queries of its own.

        Args:
            queries: the retriever's ids of each, unpadded.
        """
        count, mine = self.index.count, self.index.rows
        rows = np.unique(np.linspace(0, count - 1, min(self.sample, count)).astype(np.int64))
        rows = rows[(rows >= mine.start) & (rows < mine.stop)]
        places = torch.from_numpy(rows - mine.start).to(self.index.embeddings.device)
        kept = self.index.embeddings.index_select(0, places).to(self.retriever.passage_tower.device)
        fresh = self.retriever.embed_for_index(self.tokens.passage_inputs(rows)).to(kept.device)
        (kept, _), (fresh, _) = all_gather_rows(kept), all_gather_rows(fresh)
        asked = self.retriever.embed_for_search(queries).to(kept.device)
        top_k = max(1, min(self.top_k, len(kept) // 2))
        agreed = _overlap(asked @ kept.T, asked @ fresh.T, top_k)
        shared, asked_in_all = all_reduce_sum(
            torch.tensor([agreed, len(queries)], dtype=torch.float64)
        ).tolist()
        drift = 1 - cosine_similarity(kept, fresh, dim=1).mean()
        return Staleness(float(drift), shared / asked_in_all if asked_in_all else 1.0)


def _overlap(first: Tensor, second: Tensor, top_k: int) -> float:
    """Sum over queries of the share of the first's top k that the second has too."""
    found, again = (scores.topk(top_k, dim=1).indices for scores in (first, second))
    return float((found.unsqueeze(2) == again.unsqueeze(1)).any(dim=2).float().mean(dim=1).sum())
