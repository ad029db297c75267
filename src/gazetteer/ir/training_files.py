"""Training files: one query with its positives and negatives per line of jsonl.

Two forms are ours. With token ids a line is OpenMatch's, with more keys that OpenMatch does not
look at:

    {"query_id": "12", "query": [ids], "positives": [[ids], ..], "negatives": [[ids], ..],
     "query_text": "..", "positive_ids": ["d1", ..], "negative_ids": [..],
     "negative_scores": [.. or null], "negative_ranks": [..], "negative_sources": ["bm25", ..]}

Otherwise it is the reference form, where a passage without text is looked up by its id:

    {"query_id": "12", "query": "..", "positives": [{"id": "d1", "title": "..", "text": ".."}],
     "negatives": [{"id": "d7", "score": 11.5, "rank": 3, "source": "bm25"}, ..]}

What others write is in `training_formats.py`; `read_training_lines` there reads all of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gazetteer.data.jsonl import BadLineError
from gazetteer.ir.fields import (
    Object,
    as_id,
    as_object,
    as_rank,
    as_score,
    as_text,
    as_tokens,
    list_of,
    members,
    optional_id,
    optional_list,
    optional_text,
    text_of,
)
from gazetteer.ir.records import Candidate, TrainingLine
from gazetteer.ir.whole_files import written_whole

SIDES = ("positive", "negative")


def own_line(value: Object) -> TrainingLine:
    """A line in either of our forms, or a plain one of OpenMatch.

    Raises:
        BadLineError: naming the field, what was found and what was expected.
    """
    query = value.get("query")
    if isinstance(query, str):
        text, tokens = query, None
    else:
        text = optional_text(value, "query_text")
        tokens = None if query is None else as_tokens(query, "query")
    if value.get("query_tokens") is not None:
        tokens = as_tokens(value["query_tokens"], "query_tokens")
    query_id = optional_id(value, "query_id")
    if text is None and tokens is None and not query_id:
        raise BadLineError("found no field 'query', expected a text, token ids or a 'query_id'")
    positives, negatives = (_candidates(value, side) for side in SIDES)
    return with_positive(TrainingLine(query_id, text, tokens, positives, negatives))


def with_positive(line: TrainingLine) -> TrainingLine:
    """The line itself. Raises BadLineError where it has nothing to learn from."""
    if not line.positives:
        raise BadLineError("found no positives, expected at least one")
    return line


def _candidates(value: Object, side: str) -> tuple[Candidate, ...]:
    name = f"{side}s"
    found = list_of(value, name) if side == "positive" else optional_list(value, name)
    if not found or isinstance(found[0], list):
        return _tokenised(value, side, found)
    return tuple(_referenced(as_object(each, name), name) for each in found)


def _tokenised(value: Object, side: str, found: Sequence[object]) -> tuple[Candidate, ...]:
    def column(name: str) -> list[Any]:
        return members(value, f"{side}_{name}", len(found))

    rows = zip(
        found,
        *map(column, ("ids", "scores", "ranks", "sources", "titles", "texts")),
        strict=True,
    )
    return tuple(
        Candidate(
            id="" if passage_id is None else as_id(passage_id, f"{side}_ids"),
            score=as_score(score, f"{side}_scores"),
            rank=as_rank(rank, f"{side}_ranks"),
            source="" if source is None else as_text(source, f"{side}_sources"),
            title="" if title is None else as_text(title, f"{side}_titles"),
            text=None if text is None else as_text(text, f"{side}_texts"),
            tokens=as_tokens(tokens, f"{side}s"),
        )
        for tokens, passage_id, score, rank, source, title, text in rows
    )


def _referenced(value: Object, name: str) -> Candidate:
    candidate = Candidate(
        id=optional_id(value, "id"),
        score=as_score(value.get("score"), "score"),
        rank=as_rank(value.get("rank"), "rank"),
        source=optional_text(value, "source") or "",
        title=optional_text(value, "title") or "",
        text=None if value.get("text") is None else text_of(value, "text"),
        tokens=None if value.get("tokens") is None else as_tokens(value["tokens"], "tokens"),
    )
    if not candidate.id and candidate.text is None and candidate.tokens is None:
        raise BadLineError(f"field '{name}': found a passage with neither id, text nor tokens")
    return candidate


def own_record(line: TrainingLine) -> dict[str, Any]:
    """A line as the JSON object that `own_line` reads: OpenMatch's form if all of it is tokens."""
    candidates = (*line.positives, *line.negatives)
    has_tokens = all(candidate.tokens is not None for candidate in candidates)
    if line.query_tokens is not None and has_tokens:
        return _openmatch_record(line, line.query_tokens)
    record: dict[str, Any] = {"query_id": line.query_id} if line.query_id else {}
    if line.query is not None:
        record["query"] = line.query
    if line.query_tokens is not None:
        record["query_tokens"] = line.query_tokens
    for side, passages in zip(SIDES, (line.positives, line.negatives), strict=True):
        record[f"{side}s"] = [_reference(candidate) for candidate in passages]
    return record


def _openmatch_record(line: TrainingLine, query_tokens: tuple[int, ...]) -> dict[str, Any]:
    record: dict[str, Any] = {"query_id": line.query_id} if line.query_id else {}
    record["query"] = query_tokens
    for side, passages in zip(SIDES, (line.positives, line.negatives), strict=True):
        record[f"{side}s"] = [candidate.tokens for candidate in passages]
    if line.query is not None:
        record["query_text"] = line.query
    for side, passages in zip(SIDES, (line.positives, line.negatives), strict=True):
        for name, read in _COLUMNS.items():
            values = [read(candidate) for candidate in passages]
            if any(value is not None for value in values):
                record[f"{side}_{name}"] = values
    return record


_COLUMNS: Mapping[str, Callable[[Candidate], Any]] = {
    "ids": lambda candidate: candidate.id or None,
    "scores": lambda candidate: candidate.score,
    "ranks": lambda candidate: candidate.rank,
    "sources": lambda candidate: candidate.source or None,
    "titles": lambda candidate: candidate.title or None,
    "texts": lambda candidate: candidate.text,
}


def _reference(candidate: Candidate) -> dict[str, Any]:
    fields = {
        "id": candidate.id or None,
        "title": candidate.title or None,
        "text": candidate.text,
        "tokens": candidate.tokens,
        "score": candidate.score,
        "rank": candidate.rank,
        "source": candidate.source or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def write_training_lines(path: Path, lines: Iterable[TrainingLine]) -> int:
    """Write a training file; it appears whole or not at all.

    Returns:
        How many lines there were.
    """
    return write_objects(path, map(own_record, lines))


def write_objects(path: Path, objects: Iterable[Mapping[str, Any]]) -> int:
    """Write jsonl; the file appears whole or not at all. Returns the number of lines."""
    count = 0
    with written_whole(path) as file:
        for value in objects:
            file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count
