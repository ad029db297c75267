"""Which candidates become negatives: a seeded draw, of which filters see only what is drawn."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gazetteer.ir.records import Candidate
from gazetteer.mining.filters import JUDGED, Asked, Filters, not_judged

EXAMINED = "candidates examined"
WithTexts = Callable[[Sequence[Candidate]], Sequence[Candidate]]
"""The same candidates with title and text."""


def listed_once(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The first of all candidates with the same id."""
    first: dict[str, Candidate] = {}
    for candidate in candidates:
        first.setdefault(candidate.id, candidate)
    return list(first.values())


def unjudged(candidates: Sequence[Candidate], asked: Asked) -> tuple[list[Candidate], Counter[str]]:
    """Candidates without the query's positives, and how many of those there were."""
    verdicts = not_judged(candidates, {positive.id for positive in asked.positives})
    kept = [candidate for candidate, stays in zip(candidates, verdicts, strict=True) if stays]
    return kept, Counter({JUDGED: len(candidates) - len(kept)})


def shuffled(candidates: Sequence[Candidate], query_id: str, seed: int) -> list[Candidate]:
    """Candidates in an order that depends on seed and query alone, not on other queries."""
    order = list(candidates)
    random.Random(f"{seed} {query_id}").shuffle(order)
    return order


@dataclass(slots=True)
class _Draw:
    """How far one query is."""

    asked: Asked
    waiting: list[Candidate]
    kept: list[Candidate] = field(default_factory=list)


def choose(
    queries: Sequence[tuple[Asked, Sequence[Candidate]]],
    wanted: int,
    filters: Filters,
    with_texts: WithTexts,
) -> tuple[list[list[Candidate]], Counter[str]]:
    """The first candidates of each query that pass the filters.

    Texts are asked for in rounds, each for all queries that still want some: no more candidates are
    looked at than it takes.

    Args:
        queries: each with its candidates in the order in which they are to be tried; positives
            with text where filters read texts.
        wanted: negatives per query; fewer where candidates run out.
        filters: those beside that of judged passages.
        with_texts: called where filters read texts.

    Returns:
        Negatives of each query, and counts: candidates examined, and dropped for each reason.
    """
    draws = [_Draw(asked, list(candidates)) for asked, candidates in queries]
    counts: Counter[str] = Counter()
    while active := [draw for draw in draws if draw.waiting and len(draw.kept) < wanted]:
        parts = [draw.waiting[: wanted - len(draw.kept)] for draw in active]
        drawn = [candidate for part in parts for candidate in part]
        counts[EXAMINED] += len(drawn)
        if filters.reads_texts:
            drawn = list(with_texts(drawn))
        start = 0
        for draw, part in zip(active, parts, strict=True):
            found, dropped = filters.apply(draw.asked, drawn[start : start + len(part)], draw.kept)
            start += len(part)
            draw.waiting = draw.waiting[len(part) :]
            draw.kept += found
            counts += dropped
    return [draw.kept for draw in draws], counts
