"""Linear layers on a CPU with weights in the layout that its matrix product reads fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

WORTH_TOKENS = 2_048
"""Packing costs as much as about 50 tokens of encoding, and saves an eighth of it."""
USUAL_ROWS = 1_024
"""Tokens in one product; other numbers are right as well."""


@contextmanager
def packed_weights(model: nn.Module) -> Iterator[None]:
    """Within, linear layers multiply by packed copies of their weights; afterwards as before.

    torch would otherwise arrange the weights, and spread the bias over the result, in every call.
    Results are those of the same arithmetic in the same precision. Has no effect on calls that
    need a gradient, on a GPU, and where torch or the processor lacks what it takes.

    Args:
        model: anything with `nn.Linear` inside; its weights must stay as they are meanwhile.
    """
    layers = [layer for layer in model.modules() if _can_be_packed(layer)]
    try:
        for layer in layers:
            # An attribute of the object stands before the method of its class.
            layer.forward = _packed_forward(layer)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _can_be_packed(layer: nn.Module) -> bool:
    if type(layer) is not nn.Linear or "forward" in vars(layer) or not _has_packed_product():
        return False
    if layer.weight.device.type != "cpu":
        return False
    if layer.weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return layer.weight.dtype == torch.float32


def _has_packed_product() -> bool:
    """What torch.compile uses on CPUs as well; not promised to stay, so it is looked for."""
    names = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in names
    )


def _packed_forward(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    assert isinstance(layer, nn.Linear)
    weight, bias = layer.weight.detach(), layer.bias
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, USUAL_ROWS)
    if bias is not None:
        bias = bias.detach()

    def forward(states: Tensor) -> Tensor:
        if torch.is_grad_enabled() or states.dtype != weight.dtype:
            return nn.functional.linear(states, layer.weight, layer.bias)
        return torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")

    return forward
