"""Training files for others to read: a line in the form of each, as a JSON object."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gazetteer.data.jsonl import BadLineError, describe
from gazetteer.errors import DataError
from gazetteer.ir.records import Candidate, TrainingLine
from gazetteer.ir.training_files import own_record, write_objects


def dpr_record(line: TrainingLine) -> dict[str, Any]:
    """A line as DPR writes it."""
    lists: dict[str, list[dict[str, Any]]] = {
        "positive_ctxs": [_dpr_context(each) for each in line.positives],
        "negative_ctxs": [],
        "hard_negative_ctxs": [],
    }
    for each in line.negatives:
        name = "negative_ctxs" if each.source == "negative" else "hard_negative_ctxs"
        lists[name].append(_dpr_context(each))
    known = {"query_id": line.query_id} if line.query_id else {}
    return {**known, "question": _query_text(line), "answers": [], **lists}


def _dpr_context(candidate: Candidate) -> dict[str, Any]:
    context: dict[str, Any] = {"title": candidate.title, "text": _text_of(candidate)}
    if candidate.score is not None:
        context["score"] = candidate.score
    if candidate.id:
        context["passage_id"] = candidate.id
    return context


def tevatron_record(line: TrainingLine) -> dict[str, Any]:
    """A line as Tevatron's first form has it."""
    passages = [
        [_tevatron_passage(each) for each in side] for side in (line.positives, line.negatives)
    ]
    return {
        "query_id": line.query_id,
        "query": _query_text(line),
        "positive_passages": passages[0],
        "negative_passages": passages[1],
    }


def _tevatron_passage(candidate: Candidate) -> dict[str, Any]:
    score = {} if candidate.score is None else {"score": candidate.score}
    text = _text_of(candidate)
    return {"docid": candidate.id, "title": candidate.title, "text": text, **score}


def tevatron_ids_record(line: TrainingLine) -> dict[str, Any]:
    """A line as Tevatron's second form has it."""
    return {
        "query_id": line.query_id,
        "query_text": _query_text(line),
        "positive_document_ids": [each.id for each in line.positives],
        "negative_document_ids": [each.id for each in line.negatives],
    }


def flag_embedding_record(line: TrainingLine) -> dict[str, Any]:
    """A line as FlagEmbedding has it; scores only where every passage has one."""
    record: dict[str, Any] = {"query": _query_text(line)}
    sides = {"pos": line.positives, "neg": line.negatives}
    record |= {name: [_joined(each) for each in side] for name, side in sides.items()}
    if all(each.score is not None for side in sides.values() for each in side):
        scores = {f"{name}_scores": [each.score for each in side] for name, side in sides.items()}
        record |= scores
    return record


def columns_record(line: TrainingLine) -> dict[str, Any]:
    """A line as sentence-transformers reads it; of several positives the first is written."""
    record = {"anchor": _query_text(line), "positive": _joined(line.positives[0])}
    numbered = enumerate(line.negatives, 1)
    return record | {f"negative_{number}": _joined(each) for number, each in numbered}


def _query_text(line: TrainingLine) -> str:
    if line.query is None:
        raise BadLineError(f"query {describe(line.query_id)}: found no text, expected one to write")
    return line.query


def _text_of(candidate: Candidate) -> str:
    if candidate.text is None:
        found = describe(candidate.id)
        raise BadLineError(f"passage {found}: found no text, expected one to write")
    return candidate.text


def _joined(candidate: Candidate) -> str:
    text = _text_of(candidate)
    return f"{candidate.title} {text}" if candidate.title else text


RECORDS: dict[str, Callable[[TrainingLine], dict[str, Any]]] = {
    "gazetteer": own_record,
    "dpr": dpr_record,
    "tevatron": tevatron_record,
    "tevatron-ids": tevatron_ids_record,
    "flag-embedding": flag_embedding_record,
    "sentence-transformers": columns_record,
}
"""Formats that are written, by the names of `FORMATS`."""


def write_training_file(path: Path, lines: Iterable[TrainingLine], form: str) -> int:
    """Write jsonl for others; the file appears whole or not at all.

    Args:
        path: the file.
        lines: with the texts that the format holds.
        form: a name in `RECORDS`.

    Returns:
        How many lines there were.

    Raises:
        DataError: a line lacks a text.
    """
    try:
        return write_objects(path, map(RECORDS[form], lines))
    except BadLineError as error:
        raise DataError(f"{path}: {error}") from None
