"""The judged queries of a test collection, as lines of data that an evaluation reads by number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gazetteer.data.passages import PassageStore
from gazetteer.errors import DataError
from gazetteer.ir.collections import read_queries
from gazetteer.ir.judgements import read_qrels
from gazetteer.ir.records import Qrels, Query
from gazetteer.records import Example


@dataclass(frozen=True, slots=True)
class JudgedQueries:
    """Queries and judgements. Queries without a judgement are left out: nothing counts there.

    Attributes:
        paths: the file of queries; the folder of a collection in BEIR's layout.
        queries: those with judgements, in the order of their file.
        qrels: all judgements.
        passages: none come with the queries.
    """

    paths: tuple[Path, ...]
    queries: tuple[Query, ...]
    qrels: Qrels
    passages: PassageStore | None = None

    @classmethod
    def open(cls, named: Path, queries_path: Path, qrels_path: Path) -> JudgedQueries:
        """Read queries and judgements.

        Args:
            named: what the user called the collection: its folder, or the file of queries.
            queries_path: the queries.
            qrels_path: the judgements.

        Raises:
            DataError: a bad line, or no query has a judgement.
        """
        qrels = read_qrels(qrels_path, flag="--qrels, --qrels_split")
        found = read_queries(queries_path, flag="--eval_data")
        queries = tuple(query for query in found if query.id in qrels)
        if not queries:
            raise DataError(
                f"{queries_path}: none of {len(found)} queries is judged in {qrels_path} "
                "(--eval_data, --qrels)"
            )
        return cls((named,), queries, qrels)

    @property
    def name(self) -> str:
        """What results are called: the folder's name, or the file's without its ending."""
        path = self.paths[0].resolve()
        return path.name if path.is_dir() else path.stem

    def remarks(self, passage_ids: Iterable[str]) -> list[str]:
        """What nothing can find: judged queries without a text, documents that are not there.

        Args:
            passage_ids: of the corpus that is searched.
        """
        wanted = {
            document_id
            for judged in self.qrels.values()
            for document_id, grade in judged.items()
            if grade > 0
        }
        gone, lost = len(self.qrels) - self.count, len(wanted.difference(passage_ids))
        remarks = []
        if gone:
            remarks.append(f"{gone} of {len(self.qrels)} judged queries have no text: they count 0")
        if lost:
            remarks.append(f"{lost} of {len(wanted)} relevant documents are not among the passages")
        return remarks

    @property
    def count(self) -> int:
        """Number of queries."""
        return len(self.queries)

    def line(self, index: int) -> dict[str, Any]:
        """One query, as BEIR has it."""
        query = self.queries[index]
        return {"_id": query.id, "text": query.text}

    def with_passages(self, example: Example, index: int) -> Example:
        """The example as it is: no passages come with queries."""
        return example
