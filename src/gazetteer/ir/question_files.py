"""Questions with answers or evidence, and what was found for them: DPR, LEAD and KILT."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gazetteer.data.jsonl import BadLineError, describe
from gazetteer.errors import DataError
from gazetteer.ir.fields import (
    Object,
    as_object,
    id_of,
    list_of,
    optional_id,
    optional_list,
    optional_text,
    text_of,
    texts_of,
)
from gazetteer.ir.lines import Unique, read_fields, read_objects
from gazetteer.ir.records import Document, Qrels, Run
from gazetteer.ir.runs import ranked
from gazetteer.ir.training_files import write_objects
from gazetteer.ir.training_formats import number_in
from gazetteer.metrics.ranking import has_answer


@dataclass(frozen=True, slots=True)
class Question:
    """A question and what is known of its answer.

    Attributes:
        id: where the file has none, the number of the question in it, from 0.
        text: of the question.
        answers: every acceptable one; ids of relevant documents in LEAD's files.
    """

    id: str
    text: str
    answers: tuple[str, ...]


def read_questions(path: Path, *, flag: str) -> list[Question]:
    """Read DPR's and LEAD's tab-separated questions: question and list, or id, question and list.

    The list is written as Python writes it.

    Raises:
        DataError: a bad line, an id that is there twice, or no question at all.
    """
    unique = Unique("question id")
    count = 0

    def make(fields: list[str]) -> Question:
        nonlocal count
        *ids, text, answers = fields
        question_id = unique(ids[0] if ids else str(count))
        count += 1
        return Question(question_id, text, _python_list(answers))

    questions = list(read_fields(path, make, columns=(2, 3), flag=flag))
    if not questions:
        raise DataError(f"{path}: found no questions ({flag})")
    return questions


def _python_list(text: str) -> tuple[str, ...]:
    # A CSV writer puts a list with quotes inside into quotes, and doubles those.
    if text.startswith('"[') and text.endswith(']"'):
        text = text[1:-1].replace('""', '"')
    try:
        values = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        values = None
    if isinstance(values, tuple):
        values = list(values)
    if not isinstance(values, list) or not all(type(each) in (str, int) for each in values):
        raise BadLineError(f"found answers {describe(text)}, expected a list such as ['a', 'b']")
    return tuple(map(str, values))


def relevant_ids(questions: Iterable[Question]) -> Qrels:
    """Judgements of LEAD's test questions, whose lists hold the ids of relevant documents."""
    return {each.id: dict.fromkeys(each.answers, 1) for each in questions}


@dataclass(frozen=True, slots=True)
class Found:
    """A question, its answers, and passages with their scores, best first."""

    question: Question
    passages: tuple[tuple[Document, float], ...]


def read_dpr_output(path: Path, *, flag: str) -> list[Found]:
    """Read what DPR, Contriever and FiD write: questions with `ctxs`, as a list or as jsonl.

    Raises:
        DataError: a bad entry.
    """
    count = 0

    def make(value: Object) -> Found:
        nonlocal count
        question_id = optional_id(value, "id", "query_id") or str(count)
        count += 1
        answers = tuple(texts_of(value, "answers")) if value.get("answers") is not None else ()
        passages = tuple(
            (
                Document(
                    optional_id(each, "id", "passage_id"),
                    optional_text(each, "title") or "",
                    text_of(each, "text"),
                ),
                number_in(each, "score") or 0.0,
            )
            for each in (as_object(member, "ctxs") for member in list_of(value, "ctxs"))
        )
        return Found(Question(question_id, text_of(value, "question"), answers), passages)

    return list(read_objects(path, make, flag=flag))


def dpr_output(found: Iterable[Found]) -> list[dict[str, Any]]:
    """What DPR writes: every passage with its score and whether it has an answer."""
    return [
        {
            "id": each.question.id,
            "question": each.question.text,
            "answers": list(each.question.answers),
            "ctxs": [
                {
                    "id": document.id,
                    "title": document.title,
                    "text": document.text,
                    "score": score,
                    "has_answer": has_answer(document.text, each.question.answers),
                }
                for document, score in each.passages
            ],
        }
        for each in found
    ]


def read_kilt_evidence(path: Path, *, flag: str) -> dict[str, list[frozenset[str]]]:
    """Read KILT's `output`: for each query its sets of evidence, each of pages by `wikipedia_id`.

    Raises:
        DataError: a bad line, or an id that is there twice.
    """
    unique = Unique("query id")

    def make(value: Object) -> tuple[str, list[frozenset[str]]]:
        outputs = [as_object(each, "output") for each in optional_list(value, "output")]
        sets = [_pages(output) for output in outputs]
        return unique(id_of(value, "id")), list(dict.fromkeys(each for each in sets if each))

    return dict(read_objects(path, make, flag=flag))


def _pages(output: Object) -> frozenset[str]:
    evidence = [as_object(each, "provenance") for each in optional_list(output, "provenance")]
    return frozenset(id_of(each, "wikipedia_id") for each in evidence)


def page_qrels(evidence: Mapping[str, Sequence[frozenset[str]]]) -> Qrels:
    """Judgements of pages: one in any set of evidence is relevant. Queries without are left out."""
    return {
        query_id: {page: 1 for pages in sets for page in sorted(pages)}
        for query_id, sets in evidence.items()
        if sets
    }


def read_kilt_run(path: Path, *, flag: str) -> Run:
    """Read what a system returned in KILT's format: the first output's provenance is its ranking.

    Scores are negative ranks; a page that is there twice keeps its first place.

    Raises:
        DataError: a bad line, or an id that is there twice.
    """
    unique = Unique("query id")

    def make(value: Object) -> tuple[str, dict[str, float]]:
        outputs = [as_object(each, "output") for each in optional_list(value, "output")]
        evidence = optional_list(outputs[0], "provenance") if outputs else []
        pages = [id_of(as_object(each, "provenance"), "wikipedia_id") for each in evidence]
        ranking = {page: float(-rank) for rank, page in enumerate(dict.fromkeys(pages), 1)}
        return unique(id_of(value, "id")), ranking

    return dict(read_objects(path, make, flag=flag))


def write_kilt_output(path: Path, queries: Mapping[str, str], run: Run) -> int:
    """Write a run as KILT reads it: the ranking is the provenance of the first output.

    Args:
        path: the file; it appears whole or not at all.
        queries: text by id.
        run: of pages, by `wikipedia_id`.

    Returns:
        How many lines there were.
    """
    lines = (
        {
            "id": query_id,
            "input": text,
            "output": [
                {
                    "answer": "",
                    "provenance": [
                        {"wikipedia_id": page} for page, _ in ranked(run.get(query_id, {}))
                    ],
                }
            ],
        }
        for query_id, text in queries.items()
    )
    return write_objects(path, lines)
