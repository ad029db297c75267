from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gazetteer.index import pair_scores as module
from gazetteer.index.pair_scores import has_sampled_products, pair_scores, rounding_bound


@pytest.fixture(params=["sampled", "gathered"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to score pairs; the second is that of a GPU."""
    if request.param == "gathered":
        monkeypatch.setattr(module, "has_sampled_products", lambda: False)
        monkeypatch.setattr(module, "WIDEST", 200)
    return request.param


@pytest.fixture
def fresh_check() -> Iterator[None]:
    has_sampled_products.cache_clear()
    yield
    has_sampled_products.cache_clear()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("pairs", [0, 1, 5, 300])
def test_pairs_in_any_order_are_scored_within_the_bound(pairs: int) -> None:
    vectors, queries = torch.randn(90, 33), torch.randn(4, 33)
    query, row = torch.randint(0, 4, (pairs,)), torch.randint(0, 90, (pairs,))
    scores = pair_scores(vectors, queries, query, row)
    exact = (vectors.double()[row] * queries.double()[query]).sum(dim=1)
    bound = rounding_bound(queries, vectors.norm(dim=1).max())
    assert scores.shape == (pairs,)
    assert scores.dtype == torch.float32
    assert ((scores.double() - exact).abs() <= bound[query] / 2).all()


def test_this_torch_multiplies_at_places(fresh_check: None) -> None:
    assert has_sampled_products()


def test_products_that_are_wrong_are_not_used(
    monkeypatch: pytest.MonkeyPatch, fresh_check: None
) -> None:
    def wrong(places: Tensor, *_: object, beta: float) -> Tensor:
        return places

    monkeypatch.setattr(torch.sparse, "sampled_addmm", wrong)
    assert not has_sampled_products()


def test_a_torch_that_cannot_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, fresh_check: None
) -> None:
    def missing(*_: object, beta: float) -> Tensor:
        raise RuntimeError("built without MKL")

    monkeypatch.setattr(torch.sparse, "sampled_addmm", missing)
    assert not has_sampled_products()
