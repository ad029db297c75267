"""Runs: what a system returned for each query, as TREC writes it.

Six columns (query, Q0, document, rank, score, tag), or three: Tevatron's query, document and
score, or MS MARCO's query, document and rank. As in trec_eval the rank of the six is not looked
at, and equal scores are ordered by document id, descending.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from gazetteer.data.jsonl import BadLineError, describe
from gazetteer.errors import DataError
from gazetteer.ir.lines import read_fields
from gazetteer.ir.records import Run
from gazetteer.ir.whole_files import written_whole

logger = logging.getLogger(__name__)

TAG = "gazetteer"


def ranked(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Documents of a query in trec_eval's order: by score, then by id, both descending.

    Scores are compared in float32, ids as UTF-8.

    Source:
        trec_eval 9, which holds scores as float and compares ids by strcmp.
    """
    with np.errstate(over="ignore"):
        rounded = np.fromiter(scores.values(), np.float64, len(scores)).astype(np.float32)
    keyed = zip(rounded.tolist(), (each.encode() for each in scores), scores.items(), strict=True)
    return [hit for _, _, hit in sorted(keyed, reverse=True)]


def read_run(path: Path, *, flag: str) -> Run:
    """Read a run of six or three columns.

    In three columns the third is a rank if for every query it counts 1, 2, 3 and so on; the score
    is then its negative. A document that is there twice for a query keeps its best score, with a
    warning. Lines of a query need not be next to each other.

    Raises:
        DataError: a bad line, or no line at all.
    """
    run: Run = {}
    repeated, are_ranks = 0, True
    rows = read_fields(path, _hit, columns=(3, 6), flag=flag, any_whitespace=True)
    for query_id, document_id, score, may_be_rank in rows:
        found = run.setdefault(query_id, {})
        repeated += document_id in found
        found[document_id] = max(found.get(document_id, -math.inf), score)
        are_ranks = are_ranks and may_be_rank and score == len(found)
    if not run:
        raise DataError(f"{path}: found no lines of a run ({flag})")
    if repeated:
        logger.warning(
            "%s: %d lines name a document for the second time for their query; its best score "
            "counts (%s)", path, repeated, flag,
        )  # fmt: skip
    if are_ranks:
        logger.info("%s: the third column is read as ranks (%s)", path, flag)
        return {q: {d: -rank for d, rank in found.items()} for q, found in run.items()}
    return run


def _hit(fields: list[str]) -> tuple[str, str, float, bool]:
    """Query, document, score, and whether the score could as well be a rank."""
    is_short = len(fields) == 3
    query_id, document_id = fields[0], fields[1 if is_short else 2]
    shown = fields[2 if is_short else 4]
    if not query_id or not document_id:
        raise BadLineError("found an empty id, expected the ids of a query and a document")
    try:
        score = float(shown)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise BadLineError(f"found the score {describe(shown)}, expected a finite number")
    return query_id, document_id, score, is_short and shown.isdecimal()


def write_run(path: Path, run: Run, *, tag: str = TAG) -> None:
    """Write a run in TREC's six columns, each query's documents in trec_eval's order.

    Columns are set apart by spaces, or by tabs where an id has a space in it. Scores are as short
    as keeps them the same in float32. The file appears whole or not at all.

    Raises:
        DataError: an id that no such file can hold.
    """
    separator = " "
    for each in _ids(run):
        if not each or "\t" in each or "\n" in each or "\0" in each:
            raise DataError(
                f"{path}: found the id {describe(each)}, expected one that is not empty and has "
                "neither tab nor line end, which a run cannot hold"
            )
        if any(character.isspace() for character in each):
            separator = "\t"
    with written_whole(path) as file:
        for query_id, scores in run.items():
            for rank, (document_id, score) in enumerate(ranked(scores), 1):
                fields = (query_id, "Q0", document_id, str(rank), shortest(score), tag)
                file.write(separator.join(fields) + "\n")


def run_lines(query_id: str, scores: dict[str, float], depth: int, tag: str) -> list[str]:
    """Lines of a run for one query, in trec_eval's order: for runs too large to be held.

    Args:
        query_id: of the query.
        scores: by document id.
        depth: lines at most.
        tag: of the run.

    Raises:
        DataError: an id that no run can hold.
    """
    lines = []
    for rank, (document_id, score) in enumerate(ranked(scores)[:depth], 1):
        both = query_id + document_id
        if "\t" in both or "\n" in both or not query_id or not document_id:
            raise DataError(
                f"query {describe(query_id)}, document {describe(document_id)}: expected ids that "
                "are not empty and have neither tab nor line end, which a run cannot hold"
            )
        separator = "\t" if any(map(str.isspace, both)) else " "
        fields = (query_id, "Q0", document_id, str(rank), shortest(score), tag)
        lines.append(separator.join(fields) + "\n")
    return lines


def _ids(run: Run) -> Iterable[str]:
    for query_id, scores in run.items():
        yield query_id
        yield from scores


def shortest(score: float) -> str:
    """A score in as few digits as give the same float32 again, or float64 where it is one."""
    with np.errstate(over="ignore"):
        single = np.float32(score)
    return str(single) if float(single) == score else repr(float(score))
