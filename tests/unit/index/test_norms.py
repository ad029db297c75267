from __future__ import annotations

import pytest
import torch

from gazetteer.index.norms import norms


@pytest.mark.parametrize("size", [1e-37, 1e-30, 1e-20, 1.0, 1e20, 1e36])
def test_lengths_of_any_magnitude(size: float) -> None:
    vectors = torch.randn(20, 9)
    expected = (vectors * size).double().norm(dim=1).float()
    assert torch.allclose(norms(vectors * size), expected, rtol=1e-5, atol=0)


def test_zeros_and_what_is_no_number() -> None:
    vectors = torch.zeros(3, 4)
    vectors[1, 2], vectors[2, 0] = float("nan"), float("inf")
    found = norms(vectors)
    assert found[0] == 0
    assert not found[1:].isfinite().any()
