"""Search test collections and measure what is found, by document id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from gazetteer.data.passages import PassageStore
from gazetteer.data.sampling import Draw, evaluation_batches
from gazetteer.distributed.collectives import all_gather_rows
from gazetteer.evaluation.predictions import result_record
from gazetteer.ir.judged_queries import JudgedQueries
from gazetteer.ir.measures import Measure, Measured, measure_run, write_per_query
from gazetteer.ir.records import Query, Run
from gazetteer.ir.runs import write_run
from gazetteer.ir.training_files import write_objects
from gazetteer.progress import progress
from gazetteer.records import Example, Hits, Ranks
from gazetteer.stats import Stopwatch
from gazetteer.step import PassageSource
from gazetteer.tasks.batches import BatchBuilder


@torch.no_grad()
def search_all(
    source: PassageSource,
    batches: BatchBuilder,
    *,
    depth: int,
    batch_size: int,
    ranks: Ranks,
    name: str,
    show_progress: bool = False,
) -> Hits:
    """Search for every query, shared among the ranks.

    Collective: every rank must call this.

    Args:
        source: where passages come from.
        batches: of the queries.
        depth: hits per query; fewer where there are fewer passages.
        batch_size: queries per rank at a time.
        ranks: this process among its peers.
        name: shown beside the progress bar.
        show_progress: draw a bar on this rank.

    Returns:
        The hits of every query, in their order, the same on every rank.
    """
    plan = evaluation_batches(
        batches.count, batch_size=batch_size, rank=ranks.rank, world_size=ranks.world_size
    )
    rows, scores, numbers = [], [], []
    with progress(batches.count, name, "query", enabled=show_progress) as bar:
        for indices in plan:
            batch = batches.build([Draw(index, 0) for index in indices])
            hits = source.hits(batch, depth, Stopwatch())
            gathered = (torch.tensor(indices, dtype=torch.int64), hits.rows, hits.scores)
            number, row, score = (all_gather_rows(each)[0] for each in gathered)
            numbers.append(number)
            rows.append(row)
            scores.append(score)
            bar.update(len(number))
    order = torch.cat(numbers).argsort()
    return Hits(torch.cat(rows)[order], torch.cat(scores)[order])


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in a test collection.

    Attributes:
        collection: that was searched.
        hits: of every query, with those that the run leaves out.
        run: document ids and scores.
        measured: against the judgements.
    """

    collection: JudgedQueries
    hits: Hits
    run: Run
    measured: Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionEvaluator:
    """Everything an evaluation on test collections needs.

    Attributes:
        source: where passages come from.
        passages: the corpus that is searched.
        measures: of what is found.
        depth: documents per query.
        batch_size: queries per rank at a time.
        ranks: this process among its peers.
        keeps_identical: a query may find the document that it is, by id and text.
        show_progress: draw a bar on this rank.
    """

    source: PassageSource
    passages: PassageStore
    measures: Sequence[Measure]
    depth: int
    batch_size: int
    ranks: Ranks
    keeps_identical: bool = False
    show_progress: bool = False

    def evaluate(self, collection: JudgedQueries, batches: BatchBuilder) -> Found:
        """Search for every judged query and measure what was found.

        Collective: every rank must call this.

        Args:
            collection: queries and judgements.
            batches: of its queries.

        Returns:
            The same on every rank.
        """
        hits = search_all(
            self.source,
            batches,
            # One more, where one may have to go.
            depth=self.depth if self.keeps_identical else self.depth + 1,
            batch_size=self.batch_size,
            ranks=self.ranks,
            name=collection.name,
            show_progress=self.show_progress,
        )
        run = self._run(collection, hits)
        return Found(collection, hits, run, measure_run(collection.qrels, run, self.measures))

    def _run(self, collection: JudgedQueries, hits: Hits) -> Run:
        """Document ids and scores, best first. Of two passages with one id the better counts."""
        run: Run = {}
        found = zip(collection.queries, hits.rows.numpy(), hits.scores.tolist(), strict=True)
        for query, rows, scores in found:
            documents: dict[str, float] = {}
            for row, document_id, score in zip(
                rows.tolist(), self.passages.ids(rows), scores, strict=True
            ):
                if document_id != query.id or not self._drops(row, query):
                    documents.setdefault(document_id, score)
            run[query.id] = dict(islice(documents.items(), self.depth))
        return run

    def _drops(self, row: int, query: Query) -> bool:
        """Whether a document with the query's id is the query itself."""
        if self.keeps_identical:
            return False
        (document,) = self.passages.records([row])
        text, title = document["text"], document["title"]
        return " ".join(query.text.split()) in (
            " ".join(text.split()),
            " ".join(f"{title} {text}".split()),
        )


def write_collection(found: Found, stem: Path, passages: PassageStore | None) -> None:
    """Write what was found: `{stem}.trec`, the run, and `{stem}.tsv`, every query's measures.

    Not collective: for one rank.

    Args:
        found: in a collection.
        stem: folder and name of the files, without an ending.
        passages: for `{stem}.jsonl`, the queries with their passages; None to write none.
    """
    write_run(stem.with_name(f"{stem.name}.trec"), found.run)
    write_per_query(stem.with_name(f"{stem.name}.tsv"), found.measured)
    if passages is not None:
        write_objects(stem.with_name(f"{stem.name}.jsonl"), _records(found, passages))


def _records(found: Found, passages: PassageStore) -> Iterator[dict[str, Any]]:
    for number, query in enumerate(found.collection.queries):
        kept = found.run[query.id]
        records = passages.records(found.hits.rows[number].numpy())
        example = Example(example_id=number, query=query.text, line_id=query.id)
        yield result_record(example, [p for p in records if p["id"] in kept], None)
