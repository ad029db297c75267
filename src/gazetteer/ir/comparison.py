"""Two runs against the same judgements: is one better, and on which queries."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from gazetteer.ir.measures import Measured
from gazetteer.ir.whole_files import written_whole
from gazetteer.metrics.bootstrap import bootstrap_interval
from gazetteer.optional_packages import import_optional

RESAMPLES = 9_999
DRAWS_AT_ONCE = 1 << 20
"""Signs drawn at a time: some megabytes, however many queries there are."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure of two runs.

    Attributes:
        name: of the measure.
        first: mean of the first run.
        second: mean of the second run.
        interval: 95 % bootstrap interval of the mean difference, second minus first.
        t_test: p of the paired t-test, two-sided; None for fewer than two queries.
        randomisation: p of the paired randomisation test, two-sided.
        wins: queries on which the second run is better.
        ties: queries on which they are equal.
        losses: queries on which the first run is better.
    """

    name: str
    first: float
    second: float
    interval: tuple[float, float]
    t_test: float | None
    randomisation: float
    wins: int
    ties: int
    losses: int


def compare(first: Measured, second: Measured, *, seed: int = 0) -> list[Comparison]:
    """Compare two runs measured alike, measure by measure.

    Args:
        first: measured against the same judgements, with the same measures.
        second: likewise.
        seed: of the randomisation test.

    Raises:
        GazetteerError: scipy is not installed.

    Source:
        Smucker, Allan and Carterette, "A comparison of statistical significance tests for
        information retrieval evaluation", CIKM 2007.
    """
    assert first.query_ids == second.query_ids
    return [
        _compare(name, values, second.values[name], seed) for name, values in first.values.items()
    ]


def _compare(
    name: str,
    first: Float64[np.ndarray, " query"],
    second: Float64[np.ndarray, " query"],
    seed: int,
) -> Comparison:
    differences = second - first
    return Comparison(
        name=name,
        first=float(first.mean()),
        second=float(second.mean()),
        interval=bootstrap_interval(differences),
        t_test=t_test(differences),
        randomisation=randomisation_test(differences, seed),
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
    )


def t_test(differences: Float64[np.ndarray, " query"]) -> float | None:
    """Two-sided p of Student's t-test that the mean difference is 0; None for a single query."""
    if len(differences) < 2:
        return None
    if not differences.any():
        return 1.0
    stats = import_optional("scipy.stats", "tests of significance need scipy")
    with warnings.catch_warnings():
        # Differences that are all the same: p is 0, which is what comes out.
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(stats.ttest_1samp(differences, 0.0).pvalue)


def randomisation_test(differences: Float64[np.ndarray, " query"], seed: int = 0) -> float:
    """Two-sided p of the paired randomisation test: how often random signs give such a mean.

    Exact where there are no more than 10,000 ways to set the signs, else of 9,999 draws.
    """
    # Queries without a difference have no sign, and only cost draws.
    changed = differences[differences != 0]
    count = len(changed)
    is_exact = 2**count <= RESAMPLES + 1
    draws = 2**count if is_exact else RESAMPLES
    generator = np.random.default_rng(seed)
    # Sums of the same numbers in another order differ by so much.
    needed = abs(changed.sum()) - 1e-12 * np.abs(changed).sum()
    extreme, at_once = 0, max(1, DRAWS_AT_ONCE // max(count, 1))
    for first in range(0, draws, at_once):
        rows = min(at_once, draws - first)
        if is_exact:
            flips = np.arange(first, first + rows)[:, None] >> np.arange(count) & 1
        else:
            flips = generator.integers(2, size=(rows, count), dtype=np.int8)
        extreme += int((np.abs((1.0 - 2.0 * flips) @ changed) >= needed).sum())
    # A draw counts the signs that were found, too: p is never 0.
    return extreme / draws if is_exact else (extreme + 1) / (draws + 1)


def differing_queries(first: Measured, second: Measured, name: str) -> list[tuple[str, float]]:
    """Queries and their difference in a measure, second minus first, the best of the second first.

    Equal differences keep the order of the judgements.
    """
    differences = second.values[name] - first.values[name]
    order = np.argsort(-differences, kind="stable").tolist()
    return [(first.query_ids[place], float(differences[place])) for place in order]


def write_differences(path: Path, first: Measured, second: Measured) -> None:
    """Write every measure of every query, of both runs and their difference, under a header.

    The file appears whole or not at all; queries are in the order of the judgements.
    """
    names = [f"{name} {side}" for name in first.values for side in ("first", "second", "delta")]
    with written_whole(path) as file:
        file.write("\t".join(("query_id", *names)) + "\n")
        for place, query_id in enumerate(first.query_ids):
            numbers: Sequence[float] = [
                number
                for name, values in first.values.items()
                for number in _three(values[place], second.values[name][place])
            ]
            file.write("\t".join((query_id, *(f"{number:.6f}" for number in numbers))) + "\n")


def _three(first: float, second: float) -> tuple[float, float, float]:
    return first, second, second - first
