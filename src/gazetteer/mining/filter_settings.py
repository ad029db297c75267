"""Filters as the command line asks for them: plain values, and what is built of these."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gazetteer.data.jsonl import BadLineError, Field, read_lines
from gazetteer.data.passage_rows import with_id
from gazetteer.errors import DataError
from gazetteer.ir.lines import read_fields
from gazetteer.ir.runs import read_run
from gazetteer.mining.filters import CONFIDENT_NEGATIVE, Filters
from gazetteer.mining.pair_scores import scores_of_cross_encoder, scores_of_run

ANSWERS_FLAG = "--answers"
QUERY_IDS = ("query_id", "qid", "_id", "id")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSettings:
    """The flags of the filters.

    Attributes:
        margin: `--positive_margin`.
        drops_duplicates: `--filter_duplicates`.
        drops_answers: there are `--answers`.
        cross_encoder: `--cross_encoder`.
        scores: `--cross_encoder_scores`.
        threshold: `--cross_encoder_threshold`.
    """

    margin: float | None = None
    drops_duplicates: bool = False
    drops_answers: bool = False
    cross_encoder: str | None = None
    scores: Path | None = None
    threshold: float = CONFIDENT_NEGATIVE


def build_filters(settings: FilterSettings) -> Filters:
    """The filters themselves.

    Raises:
        GazetteerError: a model or a file of scores cannot be read.
    """
    pair_scores = None
    if settings.cross_encoder is not None:
        pair_scores = scores_of_cross_encoder(settings.cross_encoder)
    elif settings.scores is not None:
        pair_scores = scores_of_run(read_run(settings.scores, flag="--cross_encoder_scores"))
    return Filters(
        margin=settings.margin,
        drops_duplicates=settings.drops_duplicates,
        drops_answers=settings.drops_answers,
        pair_scores=pair_scores,
        threshold=settings.threshold,
    )


def read_answers(path: Path) -> dict[str, tuple[str, ...]]:
    """Answers of each query.

    Args:
        path: jsonl with `answers` and an id, or OpenMatch's three columns: query id, question, and
            a list as Python writes it.

    Raises:
        DataError: a bad line.
    """
    if path.suffix == ".jsonl":
        answers = Field("answers", "texts", required=True)
        found = {}
        for line in read_lines(path, [answers], flag=ANSWERS_FLAG):
            query_id = with_id(line.value, QUERY_IDS)["id"]
            if not isinstance(query_id, str):
                raise DataError(f"{path}:{line.number}: found no query id ({ANSWERS_FLAG})")
            found[query_id] = tuple(line.value["answers"])
        return found
    return dict(read_fields(path, _answers, columns=(3,), flag=ANSWERS_FLAG))


def _answers(fields: list[str]) -> tuple[str, tuple[str, ...]]:
    try:
        answers = ast.literal_eval(fields[2])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        answers = None
    if not isinstance(answers, list | tuple) or not all(isinstance(a, str) for a in answers):
        raise BadLineError("column 3: expected a list of strings, as ['a', 'b']")
    return fields[0], tuple(answers)


def answers_of(answers: Mapping[str, tuple[str, ...]], query_id: str) -> tuple[str, ...]:
    """Answers of a query; none where the file has none."""
    return answers.get(query_id, ())
