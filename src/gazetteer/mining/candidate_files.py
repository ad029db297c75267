"""Candidates out of files: lists of negatives, `qid<TAB>pid,pid,...`, and runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from gazetteer.data.jsonl import describe
from gazetteer.errors import DataError
from gazetteer.ir.records import Candidate
from gazetteer.mining.grouped_lines import Stretch, decoded, read_stretches

CandidateKind = Literal["negatives", "run"]
FLAGS: dict[CandidateKind, str] = {"negatives": "--negative_file", "run": "--hn_file"}
RUN_COLUMNS = (3, 6)
"""`qid pid score`, or `qid pid rank`; TREC's `qid Q0 pid rank score tag`."""


def read_candidates(
    path: Path, stretches: Sequence[Stretch], kind: CandidateKind
) -> list[Candidate]:
    """The candidates of one query, best first where the file ranks them.

    Raises:
        DataError: a line is not what it should be.
    """
    lines = (
        (number, decoded(path, number, line, FLAGS[kind]))
        for number, line in read_stretches(path, stretches)
    )
    return _run(path, lines) if kind == "run" else _negatives(path, lines)


def _negatives(path: Path, lines: Iterable[tuple[int, str]]) -> list[Candidate]:
    found = []
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != 2:
            raise DataError(
                f"{path}:{number}: found {len(fields)} columns, expected 2, split at tabs "
                f"(query id, document ids with commas between them) ({FLAGS['negatives']})"
            )
        ids = (one.strip() for one in fields[1].split(","))
        found += [Candidate(one, None, None, path.name) for one in ids if one]
    return found


def _run(path: Path, lines: Iterable[tuple[int, str]]) -> list[Candidate]:
    found = [_run_line(path, number, line) for number, line in lines]
    if _are_ranks(found):
        return [replace(c, score=None, rank=rank) for rank, c in enumerate(found, 1)]
    # Stable: among equal scores the file's order stays.
    found.sort(key=lambda candidate: -(candidate.score or 0.0))
    return [replace(candidate, rank=rank) for rank, candidate in enumerate(found, 1)]


def _run_line(path: Path, number: int, line: str) -> Candidate:
    fields = line.split("\t")
    if len(fields) not in RUN_COLUMNS:
        fields = line.split()
    if len(fields) not in RUN_COLUMNS:
        raise DataError(
            f"{path}:{number}: found {len(fields)} columns, expected 6 (query id, Q0, document "
            f"id, rank, score, tag) or 3 (query id, document id, score) ({FLAGS['run']})"
        )
    is_trec = len(fields) == 6
    text = fields[4] if is_trec else fields[2]
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise DataError(
            f"{path}:{number}: found {describe(text)} as the score, expected a number "
            f"({FLAGS['run']})"
        )
    # What has three columns and no score says so by its rank being none yet.
    return Candidate(
        fields[2] if is_trec else fields[1],
        score,
        0 if is_trec else None,
        fields[5] if is_trec else path.name,
    )


def _are_ranks(candidates: Sequence[Candidate]) -> bool:
    """Whether the last of three columns counts 1, 2, 3, ..., as in runs of MS MARCO."""
    counted = [float(place) for place in range(1, len(candidates) + 1)]
    is_short = all(candidate.rank is None for candidate in candidates)
    return is_short and [candidate.score for candidate in candidates] == counted
