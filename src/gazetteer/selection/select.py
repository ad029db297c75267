"""From query embeddings to hits: search, filter, re-rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gazetteer.data.passages import PassageStore
from gazetteer.data.tokens import PassageTokens
from gazetteer.index import ShardedIndex
from gazetteer.records import Hits
from gazetteer.retriever import DualEncoder
from gazetteer.selection.filter import drop_hits, forbidden_hits
from gazetteer.selection.rerank import rerank
from gazetteer.stats import Stopwatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Everything that decides which passages a query gets.

    Attributes:
        retriever: embeds candidates when re-ranking.
        index: searched.
        corpus: passage ids for the filter.
        passage_tokens: the retriever's tokens of the corpus.
        over_retrieval: how many times top_k is asked for when something may be filtered out
            (`--filtering_overretrieve_ratio`); None when the task filters nothing.
        candidates: how many hits are re-ranked; None without `--retrieve_with_rerank`.
    """

    retriever: DualEncoder
    index: ShardedIndex
    corpus: PassageStore
    passage_tokens: PassageTokens
    over_retrieval: int | None = None
    candidates: int | None = None

    def select(
        self,
        query_embeddings: Float[Tensor, "query dim"],
        top_k: int,
        forbidden: Sequence[str | None] = (),
        clock: Stopwatch | None = None,
    ) -> Hits:
        """The best top_k passages for each query.

        Collective: every rank must call this, with any number of queries, zero included.

        Args:
            query_embeddings: without gradient.
            top_k: hits per query, the same on every rank.
            forbidden: for each query the id of a passage it must not see, or None.
            clock: counts `runtime/search`, which is search and filter without re-ranking.
        """
        wanted = top_k if self.candidates is None else max(self.candidates, top_k)
        searched = wanted if self.over_retrieval is None else wanted * self.over_retrieval
        with (clock or Stopwatch()).time("runtime/search"):
            hits = self.index.search(query_embeddings, searched)
            if self.over_retrieval is not None:
                marks = forbidden_hits(hits, forbidden, self.corpus.ids)
                hits = drop_hits(hits, marks, wanted)
        if self.candidates is None:
            return hits.first(top_k)
        return rerank(hits, query_embeddings, self.retriever, self.passage_tokens, top_k)
