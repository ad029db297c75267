"""Judgements (qrels): which documents answer a query, and how well.

Read by the number of columns: 4 of TREC and MS MARCO (query, iteration, document, grade; tabs or
spaces), 3 of BEIR (query, document, grade, under a header), 2 of RocketQA (query, document).
"""

from __future__ import annotations

import logging
from pathlib import Path

from gazetteer.data.jsonl import BadLineError, describe
from gazetteer.errors import DataError
from gazetteer.ir.lines import read_fields
from gazetteer.ir.records import Qrels
from gazetteer.ir.whole_files import written_whole

logger = logging.getLogger(__name__)

BEIR_HEADER = ("query-id", "corpus-id", "score")


def read_qrels(path: Path, *, flag: str) -> Qrels:
    """Read judgements of any of the three kinds.

    The same judgement twice counts once, with a warning.

    Raises:
        DataError: a bad line, two grades for one document of a query, or no judgement at all.
    """
    qrels: Qrels = {}
    repeated = 0
    rows = read_fields(path, _Judgements(), columns=(2, 3, 4), flag=flag, any_whitespace=True)
    for query_id, document_id, grade in rows:
        judged = qrels.setdefault(query_id, {})
        repeated += document_id in judged
        if judged.setdefault(document_id, grade) != grade:
            raise DataError(
                f"{path}: query {describe(query_id)}, document {describe(document_id)}: found "
                f"grades {judged[document_id]} and {grade}, expected one ({flag})"
            )
    if not qrels:
        raise DataError(f"{path}: found no judgements ({flag})")
    if repeated:
        logger.warning("%s: %d judgements are there twice (%s)", path, repeated, flag)
    return qrels


class _Judgements:
    """From the fields of a line to query, document and grade; None for a header."""

    def __init__(self) -> None:
        self._is_first = True

    def __call__(self, fields: list[str]) -> tuple[str, str, int] | None:
        is_first, self._is_first = self._is_first, False
        query_id, document_id = fields[0], fields[2 if len(fields) == 4 else 1]
        if is_first and query_id in ("query-id", "query_id", "qid"):
            return None
        if not query_id or not document_id:
            raise BadLineError("found an empty id, expected the ids of a query and a document")
        return query_id, document_id, _grade(fields[-1]) if len(fields) > 2 else 1


def _grade(text: str) -> int:
    """A whole number, which spreadsheets and pandas also write as 1.0."""
    try:
        return int(text.removesuffix(".0"))
    except ValueError:
        raise BadLineError(f"found the grade {describe(text)}, expected a whole number") from None


def write_qrels(path: Path, qrels: Qrels, *, for_beir: bool = False) -> None:
    """Write judgements, tab-separated: TREC's four columns, or BEIR's three under its header.

    The file appears whole or not at all.
    """
    with written_whole(path) as file:
        if for_beir:
            file.write("\t".join(BEIR_HEADER) + "\n")
        for query_id, judged in qrels.items():
            for document_id, grade in judged.items():
                fields = (query_id, document_id) if for_beir else (query_id, "0", document_id)
                file.write("\t".join((*fields, str(grade))) + "\n")
