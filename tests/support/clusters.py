"""Vectors as encoders make them: in clusters, so that a quantiser has something to learn."""

from __future__ import annotations

import torch
from torch import Tensor


def clustered(count: int, dim: int, *, seed: int = 0, duplicates: int = 0) -> Tensor:
    """Vectors around 30 centres; the first `duplicates` rows after row 20 are equal to row 7."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(30, dim, generator=generator)
    places = torch.randint(30, (count,), generator=generator)
    vectors = centres[places] + 0.4 * torch.randn(count, dim, generator=generator)
    if duplicates:
        vectors[20 : 20 + duplicates] = vectors[7]
    return vectors


def queries_near(vectors: Tensor, count: int, *, seed: int = 0) -> Tensor:
    """Queries that resemble some of the vectors."""
    generator = torch.Generator().manual_seed(1000 + seed)
    rows = torch.randint(len(vectors), (count,), generator=generator)
    return vectors[rows] + 0.2 * torch.randn(count, vectors.shape[1], generator=generator)
