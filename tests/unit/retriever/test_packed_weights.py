"""Packed weights change speed and nothing else, and leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gazetteer.retriever import packed_weights as module
from gazetteer.retriever.packed_weights import packed_weights


def layers(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 16, bias=False)).to(dtype)


def states(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(1)).to(dtype)


@torch.no_grad()
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float64, 0.0)]
)
def test_results_are_the_same(dtype: torch.dtype, tolerance: float) -> None:
    model, given = layers(dtype), states(dtype)
    expected = model(given)
    with packed_weights(model):
        found = model(given)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_weights_are_really_packed() -> None:
    model = layers()
    before = model(states())
    with packed_weights(model):
        nn.init.zeros_(model[2].weight)
        # The copy is what multiplies: a change inside is not seen.
        assert torch.allclose(model(states()), before, atol=1e-6)
    assert not model(states()).any()


def test_nothing_is_left_behind_even_by_an_error() -> None:
    model = layers()
    with pytest.raises(ZeroDivisionError), packed_weights(model):
        assert "forward" in vars(model[0])
        raise ZeroDivisionError
    assert not any("forward" in vars(part) for part in model.modules())


def test_calls_with_gradient_get_it() -> None:
    model = layers()
    model(states()).sum().backward()
    expected = model[0].weight.grad.clone()
    model.zero_grad()
    with packed_weights(model):
        model(states()).sum().backward()
    assert torch.equal(model[0].weight.grad, expected)


def test_layers_of_other_kinds_are_left_alone() -> None:
    class Doubled(nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(states)

    model = nn.Sequential(Doubled(32, 4))
    with packed_weights(model):
        assert "forward" not in vars(model[0])


@torch.no_grad()
def test_without_the_product_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_has_packed_product", lambda: False)
    model = layers()
    with packed_weights(model):
        assert not any("forward" in vars(part) for part in model.modules())


@torch.no_grad()
def test_a_shared_layer_is_packed_once_and_restored() -> None:
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, layer)
    given = torch.ones(2, 8)
    expected = model(given)
    with packed_weights(model):
        torch.testing.assert_close(model(given), expected)
    assert "forward" not in vars(layer)
