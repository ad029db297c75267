"""Training files as others write them: what a line says. `training_exports.py` writes them.

`read_training_lines` knows a format by the fields of its first line. Passages named by id only
(Tevatron v2, LEAD, PyLate, id triples) come without text: `passage_lookup.py` finds it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gazetteer.data.jsonl import BadLineError, describe
from gazetteer.ir.collections import is_tab_separated
from gazetteer.ir.fields import (
    Object,
    as_id,
    as_object,
    as_score,
    as_text,
    as_tokens,
    id_of,
    list_of,
    members,
    mismatch,
    optional_id,
    optional_list,
    optional_text,
    score_of,
    text_of,
    texts_of,
)
from gazetteer.ir.lines import OnBad, read_fields, read_objects, refuse
from gazetteer.ir.records import Candidate, TrainingLine
from gazetteer.ir.training_files import own_line, with_positive

logger = logging.getLogger(__name__)

TEACHER = "teacher"
"""Source of a passage that a teacher scored."""


def dpr_line(value: Object) -> TrainingLine | None:
    """DPR's and LEAD's: passages with text, or ids alone. None without positives, as in DPR."""
    positives, negatives, hard = (
        [_dpr_passage(each, name, source) for each in optional_list(value, name)]
        for name, source in (
            ("positive_ctxs", ""),
            ("negative_ctxs", "negative"),
            ("hard_negative_ctxs", "hard_negative"),
        )
    )
    query_id, query = optional_id(value, "query_id", "id"), text_of(value, "question")
    if not positives:
        return None
    return TrainingLine(query_id, query, None, tuple(positives), (*hard, *negatives))


def _dpr_passage(value: object, name: str, source: str) -> Candidate:
    if not isinstance(value, dict):
        return Candidate(as_id(value, name), None, None, source)
    return Candidate(
        id=optional_id(value, "passage_id", "psg_id", "id"),
        score=number_in(value, "score"),
        rank=None,
        source=source,
        title=optional_text(value, "title") or "",
        text=text_of(value, "text"),
    )


def number_in(value: Object, name: str) -> float | None:
    """A number, which DPR also writes as text; None where there is none."""
    found = value.get(name)
    if isinstance(found, str):
        try:
            return float(found)
        except ValueError:
            raise mismatch(name, found, "a number") from None
    return as_score(found, name)


def tevatron_line(value: Object) -> TrainingLine:
    """Tevatron's first form: passages with id, title and text."""
    query = value.get("query")
    positives, negatives = (
        tuple(
            Candidate(
                id=optional_id(passage, "docid"),
                score=as_score(passage.get("score"), "score"),
                rank=None,
                source="",
                title=optional_text(passage, "title") or "",
                text=text_of(passage, "text"),
            )
            for passage in (as_object(each, name) for each in optional_list(value, name))
        )
        for name in ("positive_passages", "negative_passages")
    )
    tokens = as_tokens(query, "query") if isinstance(query, list) else None
    text = text_of(value, "query") if tokens is None else None
    return TrainingLine(optional_id(value, "query_id"), text, tokens, positives, negatives)


def tevatron_ids_line(value: Object) -> TrainingLine:
    """Tevatron's second form: passages by id."""
    positives, negatives = (
        _by_id(optional_list(value, name), name)
        for name in ("positive_document_ids", "negative_document_ids")
    )
    text = optional_text(value, "query_text")
    return TrainingLine(id_of(value, "query_id"), text, None, positives, negatives)


def flag_embedding_line(value: Object) -> TrainingLine:
    """FlagEmbedding's: texts, with the scores of a teacher where there are some."""
    positives, negatives = (
        _scored_texts(
            texts_of(value, name) if value.get(name) is not None else [],
            value,
            f"{name}_scores",
            f"{name}_id",
        )
        for name in ("pos", "neg")
    )
    query_id = optional_id(value, "query_id")
    return TrainingLine(query_id, text_of(value, "query"), None, positives, negatives)


def _scored_texts(
    texts: Sequence[str], value: Object, scores: str, ids: str
) -> tuple[Candidate, ...]:
    rows = zip(
        texts, members(value, scores, len(texts)), members(value, ids, len(texts)), strict=True
    )
    return tuple(
        Candidate(
            id="" if passage_id is None else as_id(passage_id, ids),
            score=as_score(score, scores),
            rank=None,
            source="" if score is None else TEACHER,
            text=text,
        )
        for text, score, passage_id in rows
    )


def columns_line(value: Object) -> TrainingLine:
    """sentence-transformers': the order of the columns says what each one is.

    A query, a positive, then negatives; with `scores`, a query and passages with a teacher's score
    each; with `label` or `score`, that of the pair, or the margin of the triple.
    """
    texts = [as_text(each, name) for name, each in value.items() if name not in _COLUMN_LABELS]
    if len(texts) < 2:
        raise BadLineError(f"found {len(texts)} columns of text, expected a query and a passage")
    query, *passages = texts
    if value.get("scores") is not None:
        return _ranked(query, None, [_text(each) for each in passages], value)
    label = next((value[name] for name in ("label", "score") if value.get(name) is not None), None)
    if label is None:
        scores: list[float | None] = [None] * len(passages)
    elif len(passages) == 1:
        if label == 0 and "label" in value:
            raise BadLineError("field 'label': found 0, expected only pairs that belong together")
        scores = [as_score(label, "score")]
    elif len(passages) == 2:
        scores = [as_score(label, "score"), 0.0]
    else:
        raise BadLineError("found one score and several negatives, expected a list 'scores'")
    first, *others = (_text(each, score) for each, score in zip(passages, scores, strict=True))
    return TrainingLine("", query, None, (first,), tuple(others))


_COLUMN_LABELS = frozenset(("label", "score", "scores"))


def _text(text: str, score: float | None = None) -> Candidate:
    return Candidate("", score, None, "" if score is None else TEACHER, text=text)


def scored_ids_line(value: Object) -> TrainingLine:
    """PyLate's: ids of passages, and a teacher's score of each."""
    candidates = _by_id(list_of(value, "document_ids"), "document_ids")
    query = optional_text(value, "query")
    line = _ranked(query, None, candidates, value)
    return TrainingLine(id_of(value, "query_id"), query, None, line.positives, line.negatives)


def scored_tokens_line(value: Object) -> TrainingLine:
    """OpenMatch's list-wise distillation: token ids of passages, and a teacher's score of each."""
    tokens = [as_tokens(each, "docs") for each in list_of(value, "docs")]
    candidates = [Candidate("", None, None, "", tokens=each) for each in tokens]
    return _ranked(None, as_tokens(value.get("query"), "query"), candidates, value)


def margin_line(value: Object) -> TrainingLine:
    """OpenMatch's pair-wise distillation: `score` is how far the teacher puts them apart."""
    positive, negative = (
        Candidate("", score, None, TEACHER, tokens=as_tokens(value.get(name), name))
        for name, score in (("positive", score_of(value, "score")), ("negative", 0.0))
    )
    return TrainingLine("", None, as_tokens(value.get("query"), "query"), (positive,), (negative,))


def _ranked(
    query: str | None,
    tokens: tuple[int, ...] | None,
    candidates: Sequence[Candidate],
    value: Object,
) -> TrainingLine:
    """A line of which a teacher says all: the passage it likes best is the positive."""
    if not candidates or value.get("scores") is None:
        raise BadLineError("found no passages or no 'scores', expected one score per passage")
    scores = members(value, "scores", len(candidates))
    scored = [
        Candidate(each.id, _required(score), None, TEACHER, text=each.text, tokens=each.tokens)
        for each, score in zip(candidates, scores, strict=True)
    ]
    best = max(range(len(scored)), key=lambda place: scored[place].score or 0.0)
    others = (*scored[:best], *scored[best + 1 :])
    return TrainingLine("", query, tokens, (scored[best],), others)


def _required(score: object) -> float:
    number = as_score(score, "scores")
    if number is None:
        raise mismatch("scores", None, "numbers")
    return number


def systems_line(value: Object) -> TrainingLine:
    """msmarco-hard-negatives': ids, the negatives by the system that found them, best first."""
    found = value.get("neg")
    if not isinstance(found, dict):
        raise mismatch("neg", found, "an object of lists of ids")
    negatives = tuple(
        Candidate(as_id(each, system), None, rank, system)
        for system in found
        for rank, each in enumerate(list_of(found, system), 1)
    )
    positives = _by_id(list_of(value, "pos"), "pos")
    return TrainingLine(id_of(value, "qid"), None, None, positives, negatives)


def _by_id(ids: Sequence[object], name: str) -> tuple[Candidate, ...]:
    return tuple(Candidate(as_id(each, name), None, None, "") for each in ids)


@dataclass(frozen=True, slots=True)
class Format:
    """A format of training files.

    Attributes:
        keys: fields by which it is known; the first format that has all of its own counts.
        parse: a line of it.
    """

    keys: frozenset[str]
    parse: Callable[[Object], TrainingLine | None]


FORMATS: dict[str, Format] = {
    "gazetteer": Format(frozenset({"positives"}), own_line),
    "openmatch-pairs": Format(frozenset({"positive", "negative", "score"}), margin_line),
    "openmatch-lists": Format(frozenset({"docs", "scores"}), scored_tokens_line),
    "tevatron": Format(frozenset({"positive_passages"}), tevatron_line),
    "tevatron-ids": Format(frozenset({"positive_document_ids"}), tevatron_ids_line),
    "dpr": Format(frozenset({"question", "positive_ctxs"}), dpr_line),
    "msmarco-hard-negatives": Format(frozenset({"qid", "pos", "neg"}), systems_line),
    "flag-embedding": Format(frozenset({"query", "pos"}), flag_embedding_line),
    "pylate": Format(frozenset({"query_id", "document_ids", "scores"}), scored_ids_line),
    "sentence-transformers": Format(frozenset(), columns_line),
}


def known_format(value: Object) -> str:
    """The format of a line, by its fields.

    Raises:
        BadLineError: it is none of them.
    """
    for name, kind in FORMATS.items():
        is_pair = name == "openmatch-pairs" and not isinstance(value.get("query"), list)
        if kind.keys and kind.keys <= value.keys() and not is_pair:
            return name
    texts = [name for name, each in value.items() if isinstance(each, str)]
    if len(texts) >= 2 and value.keys() - set(texts) <= _COLUMN_LABELS:
        return "sentence-transformers"
    raise BadLineError(
        f"found fields {', '.join(map(describe, list(value)[:10]))}; expected those of a training "
        f"file: {', '.join(FORMATS)}"
    )


def read_training_lines(
    path: Path, *, flag: str, form: str | None = None, on_bad: OnBad = refuse
) -> Iterator[TrainingLine]:
    """Read a training file, one line at a time.

    Args:
        path: jsonl, a JSON list, or parquet; `.tsv` holds triples, of ids or of texts.
        flag: named in errors.
        form: a name in `FORMATS`; None = known by the first line.
        on_bad: what a bad line does.

    Raises:
        DataError: a bad line, unless `on_bad` leaves it out.
    """
    if is_tab_separated(path):
        yield from read_triples(path, flag=flag, on_bad=on_bad)
        return
    left_out = 0

    def parse(value: Object) -> TrainingLine | None:
        nonlocal form, left_out
        form = form or known_format(value)
        line = FORMATS[form].parse(value)
        if line is None:
            left_out += 1
            return None
        return with_positive(line)

    yield from read_objects(path, parse, flag=flag, on_bad=on_bad)
    if left_out:
        logger.warning("%s: %d lines left out: they have no positives (%s)", path, left_out, flag)


def read_triples(
    path: Path, *, flag: str, are_ids: bool | None = None, on_bad: OnBad = refuse
) -> Iterator[TrainingLine]:
    """Read triples of MS MARCO: query, positive and negative, as ids or as texts.

    Args:
        path: tab-separated, three columns.
        flag: named in errors.
        are_ids: None = they are if the first line has no white space within its columns.
        on_bad: what a bad line does.
    """

    def parse(fields: list[str]) -> TrainingLine:
        nonlocal are_ids
        if are_ids is None:
            are_ids = all(len(field.split()) == 1 for field in fields)
        query, *passages = fields
        if not are_ids:
            first, second = (_text(each) for each in passages)
            return TrainingLine("", query, None, (first,), (second,))
        first, second = _by_id(passages, "triple")
        return TrainingLine(as_id(query, "triple"), None, None, (first,), (second,))

    return read_fields(path, parse, columns=(3,), flag=flag)
