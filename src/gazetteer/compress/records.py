"""Offline records: a query, the passages found for it, and the answer to be learned.

A file is one JSON list; jsonl and parquet are read as well:

    {"query": "..", "documents": ["Title: text", ..], "answer": "..",
     "reranking_scores": [8.1, ..], "answers": ["..", ..], "document_ids": ["..", ..],
     "provenance": {..}}

The first four are ScaleDown's, the others ours, and optional. A document is exactly the text that
the teacher saw, its title in front.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gazetteer.data.jsonl import BadLineError
from gazetteer.errors import DataError
from gazetteer.ir.fields import (
    Object,
    as_id,
    list_of,
    mismatch,
    optional_list,
    optional_text,
    text_of,
    texts_of,
)
from gazetteer.ir.lines import read_objects
from gazetteer.ir.whole_files import written_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineRecord:
    """What the compressor and its reader learn from, for one query.

    Attributes:
        query: never blank.
        documents: passages, best first, each with its title in front; at least one.
        answer: the target, the teacher's or a gold one; "" where nobody has answered yet.
        reranking_scores: of a cross-encoder, one per document; None without.
        answers: every acceptable gold answer, for scoring; empty where none is known.
        document_ids: passage id of each document; empty where there are none.
        provenance: who retrieved, reranked and answered, with which settings.
    """

    query: str
    documents: tuple[str, ...]
    answer: str
    reranking_scores: tuple[float, ...] | None = None
    answers: tuple[str, ...] = ()
    document_ids: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


def read_records(path: Path, *, flag: str) -> list[OfflineRecord]:
    """Read a file of records.

    Args:
        path: a JSON list, jsonl or parquet.
        flag: named in errors.

    Raises:
        DataError: no record, or a bad one: in one line, file, place, field, found and expected.
    """
    records = list(read_objects(path, record_of, flag=flag))
    if not records:
        raise DataError(f"{path}: found no records ({flag})")
    return records


def record_of(value: Object) -> OfflineRecord:
    """The record in a JSON object.

    Raises:
        BadLineError: naming the field, what was found and what was expected.
    """
    query = text_of(value, "query")
    if not query.strip():
        raise BadLineError("field 'query': found a blank string, expected a query")
    documents = tuple(map(document_text, list_of(value, "documents")))
    if not documents:
        raise BadLineError("field 'documents': found an empty list, expected at least one")
    scores = value.get("reranking_scores")
    return OfflineRecord(
        query=query,
        documents=documents,
        answer=text_of(value, "answer"),
        reranking_scores=None if scores is None else _scores(value, len(documents)),
        answers=tuple(texts_of(value, "answers")) if value.get("answers") is not None else (),
        document_ids=_ids(value, len(documents)),
        provenance=_provenance(value),
    )


def document_text(document: object) -> str:
    """A document as the teacher and the student see it: a text, or an object's title and text.

    Raises:
        BadLineError: it is neither.
    """
    if isinstance(document, str):
        return document
    if not isinstance(document, dict):
        raise mismatch("documents", document, "strings, or objects with 'title' and 'text'")
    return titled(optional_text(document, "title") or "", text_of(document, "text"))


def titled(title: str, text: str) -> str:
    """Title and text of a passage as one document."""
    return f"{title}: {text}" if title else text


def _scores(value: Object, count: int) -> tuple[float, ...]:
    scores = list_of(value, "reranking_scores")
    _require_count("reranking_scores", scores, count)
    for score in scores:
        if not isinstance(score, int | float) or isinstance(score, bool):
            raise mismatch("reranking_scores", score, "numbers")
    return tuple(map(float, scores))


def _ids(value: Object, count: int) -> tuple[str, ...]:
    ids = optional_list(value, "document_ids")
    if ids:
        _require_count("document_ids", ids, count)
    return tuple(as_id(each, "document_ids") for each in ids)


def _require_count(name: str, found: Sequence[object], count: int) -> None:
    if len(found) != count:
        raise BadLineError(
            f"field '{name}': found {len(found)} members, expected one for each of the "
            f"{count} documents"
        )


def _provenance(value: Object) -> Mapping[str, Any]:
    provenance = value.get("provenance")
    if provenance is not None and not isinstance(provenance, dict):
        raise mismatch("provenance", provenance, "an object")
    return provenance or {}


def object_of(record: OfflineRecord) -> dict[str, Any]:
    """A record as it is written; optional fields only where there is something to say."""
    value: dict[str, Any] = {
        "query": record.query,
        "documents": list(record.documents),
        "answer": record.answer,
    }
    if record.reranking_scores is not None:
        value["reranking_scores"] = list(record.reranking_scores)
    if record.answers:
        value["answers"] = list(record.answers)
    if record.document_ids:
        value["document_ids"] = list(record.document_ids)
    if record.provenance:
        value["provenance"] = dict(record.provenance)
    return value


def write_records(path: Path, records: Iterable[OfflineRecord]) -> int:
    """Write records as one JSON list, a record at a time; the file appears whole or not at all.

    Returns:
        How many there were.

    Raises:
        DataError: it cannot be written.
    """
    count = 0
    with written_whole(path) as file:
        file.write("[")
        for record in records:
            text = json.dumps(object_of(record), ensure_ascii=False, indent=2, allow_nan=False)
            indented = "\n".join(f"  {line}" for line in text.split("\n"))
            file.write(f"{',' if count else ''}\n{indented}")
            count += 1
        file.write("\n]\n")
    return count
