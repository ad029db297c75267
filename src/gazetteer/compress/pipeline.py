"""Queries -> retrieval -> reranking -> a teacher's answers -> records, batch after batch.

A batch of queries is encoded, reranked, answered and written together, so that a kill loses one
batch at most, and what goes into a batch does not depend on how the work is shared: whoever does
it, and however often it was interrupted, the output is the same to the byte.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gazetteer.compress.queries import Question
from gazetteer.compress.records import OfflineRecord, object_of, record_of, titled, write_records
from gazetteer.compress.reranker import Reranker, best_first
from gazetteer.compress.retrieval import Hits, Retriever, found_of
from gazetteer.compress.teacher import Lesson, Teacher
from gazetteer.compress.work_folder import WorkFolder
from gazetteer.data.passages import PassageStore
from gazetteer.errors import DataError
from gazetteer.index.shards import shard_range
from gazetteer.progress import progress

logger = logging.getLogger(__name__)

SEARCH_BATCHES = 1024
"""Batches of queries that go through the corpus together; their hits are written together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What is done with a batch of queries.

    Attributes:
        top_k: passages retrieved for each.
        kept: best of them after reranking; None keeps all, in the order of retrieval.
        writes_scores: whether records get `reranking_scores`.
        reranker: makes the cross-encoder when it is first needed; None reranks nothing.
        teacher: answers; None keeps the first gold answer, if there is one.
        provenance: of every record.
    """

    top_k: int
    kept: int | None
    writes_scores: bool
    reranker: Callable[[], Reranker] | None
    teacher: Teacher | None
    provenance: dict[str, Any]


class Pipeline:
    """Makes records of queries.

    Args:
        corpus: the passages.
        retriever: makes what searches it, when it is first needed.
        steps: what is done with a batch.
        batch_size: queries of a batch.
    """

    def __init__(
        self,
        corpus: PassageStore,
        retriever: Callable[[], Retriever],
        steps: Steps,
        *,
        batch_size: int,
    ) -> None:
        self._corpus = corpus
        self._make_retriever = retriever
        self._steps = steps
        self._batch_size = batch_size

    def share(self, count: int, part: int, parts: int) -> range:
        """The queries of one of several processes: whole batches, in a row."""
        batches = shard_range(-(-count // self._batch_size), part, parts)
        return range(count)[batches.start * self._batch_size : batches.stop * self._batch_size]

    def run(
        self, questions: Sequence[Question], work: WorkFolder, output: Path, *, show_progress: bool
    ) -> int:
        """Do what is not done yet, and write the output.

        Args:
            questions: of this process.
            work: for finished parts; removed at the end.
            output: file of records.
            show_progress: draw a bar.

        Returns:
            How many records there are; queries that found or were answered nothing have none.

        Raises:
            DataError: nothing was found at all, or something cannot be written.
        """
        size = self._batch_size
        batches = [range(len(questions))[at : at + size] for at in range(0, len(questions), size)]
        groups = [
            batches[at : at + SEARCH_BATCHES] for at in range(0, len(batches), SEARCH_BATCHES)
        ]
        # All searches first: the models of later steps then have the device to themselves.
        for number, group in enumerate(groups):
            self._search(
                questions, range(group[0].start, group[-1].stop), f"hits-{number:06d}", work
            )
        self.__dict__.pop("_retriever", None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        done = 0
        with progress(len(questions), "answering", "query", enabled=show_progress) as bar:
            for number, group in enumerate(groups):
                hits = work.arrays(f"hits-{number:06d}")
                assert hits is not None
                for batch in group:
                    name = f"records-{batch.start:09d}"
                    records = work.objects(name)
                    if records is None:
                        local = slice(batch.start - group[0].start, batch.stop - group[0].start)
                        found = Hits(hits["rows"][local], hits["scores"][local])
                        made = self._records([questions[at] for at in batch], found)
                        records = [object_of(each) for each in made]
                        work.write_objects(name, records)
                    done += len(records)
                    bar.update(len(batch))
        if not done:
            work.remove()
            raise DataError("no query found a passage and got an answer, so nothing is written")
        if done < len(questions):
            logger.warning(
                "%d of %d queries are left out: they found nothing, leave no room for passages, or "
                "got no answer",
                len(questions) - done, len(questions),
            )  # fmt: skip
        names = [f"records-{batch.start:09d}" for batch in batches]
        write_records(output, _stored(work, names))
        work.remove()
        return done

    @cached_property
    def _retriever(self) -> Retriever:
        return self._make_retriever()

    @cached_property
    def _reranker(self) -> Reranker:
        assert self._steps.reranker is not None
        return self._steps.reranker()

    def _search(
        self, questions: Sequence[Question], some: range, name: str, work: WorkFolder
    ) -> None:
        if work.arrays(name) is None:
            texts = [questions[at].text for at in some]
            hits = self._retriever.search(texts, self._steps.top_k)
            work.write_arrays(name, {"rows": hits.rows, "scores": hits.scores})

    def _records(self, questions: Sequence[Question], hits: Hits) -> list[OfflineRecord]:
        drafts = [
            self._draft(question, [row for row, _ in found])
            for question, found in zip(questions, found_of(hits), strict=True)
            if found
        ]
        if self._steps.reranker is not None:
            drafts = self._reranked(drafts)
        return self._taught(drafts)

    def _draft(self, question: Question, rows: Sequence[int]) -> OfflineRecord:
        passages = self._corpus.records(np.asarray(rows))
        return OfflineRecord(
            query=question.text,
            documents=tuple(titled(str(p["title"]), str(p["text"])) for p in passages),
            answer=question.answers[0] if question.answers else "",
            answers=question.answers,
            document_ids=tuple(str(p["id"]) for p in passages),
            provenance=self._steps.provenance,
        )

    def _reranked(self, drafts: Sequence[OfflineRecord]) -> list[OfflineRecord]:
        scores = self._reranker.score_documents(
            [each.query for each in drafts], [each.documents for each in drafts]
        )
        kept = []
        for draft, each in zip(drafts, scores, strict=True):
            every = list(range(len(each)))
            places = every if self._steps.kept is None else best_first(each, self._steps.kept)
            chosen = [each[place] for place in places] if self._steps.writes_scores else None
            kept.append(_with_documents(draft, places, chosen))
        return kept

    def _taught(self, drafts: Sequence[OfflineRecord]) -> list[OfflineRecord]:
        teacher = self._steps.teacher
        if teacher is None:
            return list(drafts)
        lessons = teacher.teach(
            [each.query for each in drafts], [each.documents for each in drafts]
        )
        return [
            taught(draft, lesson, teacher.provenance)
            for draft, lesson in zip(drafts, lessons, strict=True)
            if lesson is not None and lesson.answer
        ]


def _stored(work: WorkFolder, names: Sequence[str]) -> Iterator[OfflineRecord]:
    for name in names:
        yield from map(record_of, work.objects(name) or [])


def _with_documents(
    record: OfflineRecord, places: Sequence[int], scores: Sequence[float] | None
) -> OfflineRecord:
    return replace(
        record,
        documents=tuple(record.documents[place] for place in places),
        reranking_scores=None if scores is None else tuple(scores),
        document_ids=tuple(record.document_ids[place] for place in places),
    )


def taught(record: OfflineRecord, lesson: Lesson, provenance: Mapping[str, Any]) -> OfflineRecord:
    """A record with a teacher's answer, and exactly the passages that the teacher saw."""
    scores, count = record.reranking_scores, len(lesson.documents)
    return replace(
        record,
        documents=lesson.documents,
        answer=lesson.answer,
        reranking_scores=None if scores is None else scores[:count],
        document_ids=record.document_ids[:count],
        provenance={**record.provenance, "teacher": {**provenance, "key": lesson.key}},
    )


def fingerprint(questions: Sequence[Question]) -> str:
    """A hash over queries and answers, in their order."""
    digest = hashlib.sha256()
    for each in questions:
        digest.update(json.dumps([each.text, each.answers]).encode() + b"\n")
    return digest.hexdigest()
