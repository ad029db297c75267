"""How far an average would move with other examples of the same kind: bootstrap intervals."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

RESAMPLES = 1_000
DRAWS_AT_ONCE = 1 << 20
"""Numbers drawn at a time: some megabytes, however many values there are."""


def bootstrap_interval(
    values: Float64[np.ndarray, " value"], *, seed: int = 0, share: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean: resample the values with replacement, 1,000 times.

    The same for the same values in the same order.

    Args:
        values: one per independent example, at least one.
        seed: of the draws.
        share: of the resampled means that are inside.

    Returns:
        Lower and upper end, in the unit of the values.

    Source:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    generator, count = np.random.default_rng(seed), len(values)
    at_once = max(DRAWS_AT_ONCE // count, 1)
    means = np.empty(RESAMPLES)
    for first in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - first)
        drawn = generator.integers(count, size=(rows, count), dtype=np.uint32)
        means[first : first + rows] = values[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)
