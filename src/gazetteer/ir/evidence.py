"""Measures of KILT: pages found, against sets of evidence each of which is a whole answer.

A question may have several sets, and a set several pages, which are of use together only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gazetteer.ir.measures import Measured, counts_of
from gazetteer.ir.question_files import page_qrels
from gazetteer.ir.records import Run
from gazetteer.ir.runs import ranked

CUTOFFS = (1, 5, 20, 100)
R_PRECISION = "R-precision"
Evidence = Mapping[str, Sequence[frozenset[str]]]
"""By query: sets of page ids."""


def r_precision(sets: Sequence[frozenset[str]], ranking: Sequence[str]) -> float:
    """Share of a set's pages among the first pages, as many as it has; of the best such set.

    Args:
        sets: at least one, none empty.
        ranking: page ids, best first, each once.

    Source:
        KILT, arXiv:2009.02252.
    """
    return max(len(pages.intersection(ranking[: len(pages)])) / len(pages) for pages in sets)


def set_positions(sets: Sequence[frozenset[str]], ranking: Sequence[str]) -> list[int]:
    """Where each set that was found whole stands, from 1: where its last page is.

    The pages of a set take one place together, so that pages of whole and of begun sets do not push
    down what follows; any other page takes one.

    Source:
        KILT's own program, which calls it one point per set of evidence.
    """
    missing = [set(pages) for pages in sets]
    # A number is a set that is not whole; True one that is, False any other page.
    points: list[tuple[int, bool]] = []
    for page in ranking:
        touched = [number for number, pages in enumerate(missing) if page in pages]
        for number in touched:
            missing[number].remove(page)
            if (number, False) in points:
                points.remove((number, False))
            points.append((number, not missing[number]))
        if not touched:
            points.append((-1, False))
    return [place for place, (_, is_whole) in enumerate(points, 1) if is_whole]


def measure_pages(evidence: Evidence, run: Run) -> Measured:
    """R-precision, and recall of sets among the first k, of every question that has evidence.

    Args:
        evidence: sets by query; those without are left out.
        run: of pages; a question that it lacks counts 0.
    """
    qrels = page_qrels(evidence)
    order = {
        query_id: [page for page, _ in ranked(run[query_id])]
        for query_id in qrels
        if run.get(query_id)
    }
    names = (R_PRECISION, *(f"recall@{k}" for k in CUTOFFS))
    rows = [_measures(evidence[query_id], order.get(query_id, ())) for query_id in qrels]
    columns = np.array(rows, dtype=np.float64).reshape(len(rows), len(names)).T
    values = dict(zip(names, columns, strict=True))
    return Measured(tuple(qrels), values, counts_of(qrels, run, order))


def _measures(sets: Sequence[frozenset[str]], ranking: Sequence[str]) -> list[float]:
    positions = set_positions(sets, ranking)
    recalls = [sum(place <= k for place in positions) / len(sets) for k in CUTOFFS]
    return [r_precision(sets, ranking), *recalls]
