"""Dev retrieval: how well the towers find judged passages, now, measured by all workers.

The passages that count are embedded anew each time: all of a corpus, or those that are judged and
a sample of the others, which is quick, flatters, and still says which checkpoint is the better one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gazetteer.data.passages import PassageStore
from gazetteer.data.sampling import evaluation_batches
from gazetteer.data.tokens import PassageTokens
from gazetteer.distributed.collectives import all_gather_rows
from gazetteer.errors import DataError
from gazetteer.index import ShardedIndex
from gazetteer.indexing.embedding import CHUNK_ROWS
from gazetteer.ir.collections import read_queries
from gazetteer.ir.judgements import read_qrels
from gazetteer.ir.measures import load_ir_measures, retrieval_metrics
from gazetteer.ir.passage_lookup import PassageLookup
from gazetteer.ir.records import Qrels, Query, Run
from gazetteer.records import Ranks, TokenLists
from gazetteer.retriever import DualEncoder

MEASURES = ("nDCG@10", "MRR@10", "R@20", "R@100")
DEPTH = 100
"""Hits per query: as many as the measures look at."""
QUERIES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class DevCollection:
    """Judged queries, and the passages that are searched.

    Attributes:
        queries: those with a judgement.
        qrels: all judgements.
        rows: of the passages, in the corpus, ascending.
        ids: theirs.
    """

    queries: tuple[Query, ...]
    qrels: Qrels
    rows: np.ndarray
    ids: tuple[str, ...]

    @classmethod
    def open(
        cls, queries: Path, qrels: Path, corpus: PassageStore, *, sample: int, seed: int
    ) -> DevCollection:
        """Read queries and judgements, and choose the passages.

        Args:
            queries: file of queries.
            qrels: file of judgements.
            corpus: the passages.
            sample: passages beside the judged ones; 0 = all.
            seed: of their draw.

        Raises:
            DataError: a bad line, or no query has a judgement.
            OptionError: ir-measures is not installed.
        """
        load_ir_measures()
        judgements = read_qrels(qrels, flag="--dev_qrels")
        found = read_queries(queries, flag="--dev_queries")
        judged = tuple(query for query in found if query.id in judgements)
        if not judged:
            raise DataError(
                f"{queries}: none of {len(found)} queries is judged in {qrels} "
                "(--dev_queries, --dev_qrels)"
            )
        rows = np.arange(corpus.count)
        if sample:
            lookup = PassageLookup(corpus)
            wanted = {document for query in judged for document in judgements[query.id]}
            known = lookup.rows(sorted(document for document in wanted if document in lookup))
            others = np.setdiff1d(rows, known)
            drawn = np.random.default_rng(seed).permutation(others)[:sample]
            rows = np.sort(np.concatenate([known, drawn]))
        return cls(judged, judgements, rows, tuple(corpus.ids(rows)))


@dataclass(frozen=True, slots=True)
class DevRetrieval:
    """Searches for the queries of a collection.

    Attributes:
        name: as logged.
        collection: queries and passages.
        query_tokens: of each query.
        tokens: of the corpus.
        retriever: both towers, as they are at the time.
        ranks: this process among its peers.
    """

    name: str
    collection: DevCollection
    query_tokens: TokenLists
    tokens: PassageTokens
    retriever: DualEncoder
    ranks: Ranks

    def measure(self) -> dict[str, float]:
        """Measures of what is found, averaged over judged queries; the same on every rank.

        Collective: every rank must call this.
        """
        index = ShardedIndex(len(self.collection.rows), self.ranks)
        mine = self.collection.rows[index.rows.start : index.rows.stop]
        index.replace(self._embed(mine))
        return retrieval_metrics(self.collection.qrels, self._search(index), MEASURES)

    def _embed(self, rows: np.ndarray) -> torch.Tensor:
        """Vectors of these passages, a chunk at a time: sorted by length they waste little."""
        parts = [
            self.retriever.embed_for_index(
                self.tokens.passage_inputs(rows[start : start + CHUNK_ROWS])
            )
            for start in range(0, len(rows), CHUNK_ROWS)
        ]
        return torch.cat(parts) if parts else self.retriever.embed_for_index([])

    def _search(self, index: ShardedIndex) -> Run:
        ids, queries, run = self.collection.ids, self.collection.queries, {}
        shares = evaluation_batches(
            len(queries),
            batch_size=QUERIES_AT_ONCE,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )
        for share in shares:
            embedded = self.retriever.embed_for_search([self.query_tokens[n] for n in share])
            hits = index.search(embedded, DEPTH)
            parts = (torch.tensor(share, dtype=torch.int64), hits.rows, hits.scores)
            numbers, rows, scores = (all_gather_rows(part)[0].tolist() for part in parts)
            for number, found, values in zip(numbers, rows, scores, strict=True):
                run[queries[number].id] = _named(ids, found, values)
        return run


def _named(ids: Sequence[str], rows: Sequence[int], scores: Sequence[float]) -> dict[str, float]:
    return {ids[row]: score for row, score in zip(rows, scores, strict=True)}
