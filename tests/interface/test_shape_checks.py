"""Shape annotations are checked while tests run; a wrong one would otherwise go unnoticed."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from gazetteer.index.flat import search_flat
from gazetteer.records import Hits


def test_a_wrong_shape_raises() -> None:
    with pytest.raises(TypeCheckError, match="dim"):
        search_flat(torch.zeros(3, 4), torch.zeros(2, 5), 1)


def test_a_wrong_shape_in_a_record_raises() -> None:
    with pytest.raises(TypeCheckError, match="hit"):
        Hits(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 4))


def test_a_wrong_dtype_raises() -> None:
    with pytest.raises(TypeCheckError, match="rows"):
        Hits(torch.zeros(2, 3), torch.zeros(2, 3))
