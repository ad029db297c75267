"""Lengths of vectors of any magnitude."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

SMALLEST_NORMAL = 2.0**-126
"""Of float32. What is smaller may lose its digits, or all of itself."""


def norms(vectors: Float[Tensor, "row dim"]) -> Float[Tensor, " row"]:
    """Euclidean length of each row, also where the squares of its numbers overflow or vanish.

    Not finite where a number is not, or where the length itself is too large for the dtype.
    """
    largest = vectors.abs().amax(dim=1, keepdim=True)
    unit = largest.masked_fill(largest < SMALLEST_NORMAL, SMALLEST_NORMAL)
    return (vectors / unit).norm(dim=1) * unit.squeeze(1)
