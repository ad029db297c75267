"""Cross-attention of the reader, recorded and reduced to one number per passage.

Nothing here trains: the numbers are signals for the retriever (adist) or statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gazetteer.reader.fusion import T5Model

ATTENTION_SCALE = 256
"""Atlas divides summed attention by 256 x layers x target tokens (its adist and std modes)."""


@dataclass(slots=True)
class CrossAttention:
    """What one decoder pass attended to, layer by layer.

    Attributes:
        weights: attention probabilities, each (sequence, head, target, token).
        values: value vectors, each (sequence, token, head x head dim).
    """

    weights: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)


@contextmanager
def record_cross_attention(model: T5Model) -> Iterator[CrossAttention]:
    """Record every decoder layer's cross-attention while the context is open.

    Attention probabilities exist only in the eager implementation, so the decoder (not the
    encoder, which has its own config) is switched to it for as long as the context is open.
    """
    recorded = CrossAttention()
    config = model.decoder.config
    previous = config._attn_implementation
    with ExitStack() as hooks:
        for block in model.decoder.block:
            attention = block.get_submodule("layer.1.EncDecAttention")
            hooks.callback(attention.register_forward_hook(_keep_weights(recorded)).remove)
            hooks.callback(
                attention.get_submodule("v").register_forward_hook(_keep_values(recorded)).remove
            )
        config._attn_implementation = "eager"
        try:
            yield recorded
        finally:
            config._attn_implementation = previous


def _keep_weights(recorded: CrossAttention):  # noqa: ANN202 - a hook
    def hook(_module: nn.Module, _inputs: tuple, outputs: tuple) -> None:
        recorded.weights.append(outputs[2].detach())

    return hook


def _keep_values(recorded: CrossAttention):  # noqa: ANN202 - a hook
    def hook(_module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        recorded.values.append(output.detach())

    return hook


def token_relevance(
    recorded: CrossAttention, kind: str, target_mask: Bool[Tensor, "sequence target"]
) -> Float[Tensor, "sequence target token"]:
    """Attention each target token pays to each passage token, averaged over heads.

    Args:
        recorded: one decoder pass.
        kind: "probs" (the probabilities), "norms" (probability times the length of the value
            vector) or "scores" (log-probability, that is, the score before the softmax up to a
            constant per target token).
        target_mask: True at real target tokens; others contribute 0.

    Returns:
        Sum over layers, float32.
    """
    total: Tensor | None = None
    for weights, values in zip(recorded.weights, recorded.values, strict=True):
        layer = _layer_relevance(weights.float(), values.float(), kind)
        total = layer if total is None else total + layer
    if total is None:
        raise ValueError("no cross-attention was recorded")
    return total * target_mask.unsqueeze(-1)


def _layer_relevance(weights: Tensor, values: Tensor, kind: str) -> Tensor:
    if kind == "probs":
        return weights.mean(dim=1)
    if kind == "scores":
        return weights.clamp_min(torch.finfo(torch.float32).tiny).log().mean(dim=1)
    heads = weights.shape[1]
    norms = values.unflatten(-1, (heads, -1)).norm(dim=-1)  # (sequence, token, head)
    return (weights * norms.permute(0, 2, 1).unsqueeze(2)).mean(dim=1)


def passage_attention(
    recorded: CrossAttention,
    context_mask: Bool[Tensor, "sequence token"],
    passage: Int[Tensor, "sequence token"],
    target_mask: Bool[Tensor, "sequence target"],
    *,
    passages: int,
    kind: str = "norms",
    reduction: str = "sum",
) -> Float[Tensor, "sequence passage"]:
    """How much attention each passage received while the target was decoded.

    "norms" summed is the signal of attention distillation (Atlas `evalnormsum`): over layers,
    target tokens and the passage's tokens, the head-mean of attention x value length, divided by
    256 x layers x target tokens.

    Args:
        recorded: one decoder pass over `passages` fused passages.
        context_mask: True at real passage tokens.
        passage: which passage each token belongs to.
        target_mask: True at target tokens that count.
        passages: number of passages per sequence.
        kind: see `token_relevance`.
        reduction: over a passage's tokens: "sum", "avg", "first", or the mean of its "top5",
            "top10", "top20" tokens (of all its tokens if it has fewer).

    Returns:
        One number per passage, float32, no gradient.

    Source:
        arXiv:2012.04584 section 3; reference behaviour of Atlas for the constants.
    """
    relevance = token_relevance(recorded, kind, target_mask).sum(dim=1)
    relevance = relevance.masked_fill(~context_mask, 0.0)
    layers = len(recorded.weights)
    target_tokens = target_mask.sum(dim=1).clamp_min(1)
    relevance = relevance / (ATTENTION_SCALE * layers * target_tokens.unsqueeze(1))
    if reduction.startswith("top"):
        return _top_tokens(relevance, context_mask, passage, passages, int(reduction[3:]))
    sums = _sum_per_passage(relevance, passage, passages)
    if reduction == "avg":
        return sums / _sum_per_passage(context_mask.float(), passage, passages).clamp_min(1)
    if reduction == "first":
        return _sum_per_passage(relevance * _is_first(passage, context_mask), passage, passages)
    return sums


def passage_attention_by_layer(
    recorded: CrossAttention,
    context_mask: Bool[Tensor, "sequence token"],
    passage: Int[Tensor, "sequence token"],
    target_mask: Bool[Tensor, "sequence target"],
    *,
    passages: int,
) -> Float[Tensor, "layer sequence passage"]:
    """Attention each passage received in each decoder layer; their mean is `passage_attention`.

    Args:
        recorded: one decoder pass over `passages` fused passages.
        context_mask: True at real passage tokens.
        passage: which passage each token belongs to.
        target_mask: True at target tokens that count.
        passages: number of passages per sequence.

    Returns:
        Lowest layer first, float32, no gradient.
    """
    layers = zip(recorded.weights, recorded.values, strict=True)
    return torch.stack(
        [
            passage_attention(
                CrossAttention([weights], [values]), context_mask, passage, target_mask,
                passages=passages,
            )
            for weights, values in layers
        ]
    )  # fmt: skip


def _sum_per_passage(values: Tensor, passage: Tensor, passages: int) -> Tensor:
    return values.new_zeros(len(values), passages).scatter_add_(1, passage, values)


def _is_first(passage: Tensor, mask: Tensor) -> Tensor:
    first = torch.ones_like(mask)
    first[:, 1:] = passage[:, 1:] != passage[:, :-1]
    return first & mask


def _top_tokens(values: Tensor, mask: Tensor, passage: Tensor, passages: int, top: int) -> Tensor:
    columns = []
    for index in range(passages):
        mine = mask & (passage == index)
        best = values.masked_fill(~mine, float("-inf")).topk(min(top, values.shape[1])).values
        real = best.isfinite()
        columns.append(best.masked_fill(~real, 0).sum(1) / real.sum(1).clamp_min(1))
    return torch.stack(columns, dim=1)


def attention_statistics(
    recorded: CrossAttention,
    context_mask: Bool[Tensor, "sequence token"],
    passage: Int[Tensor, "sequence token"],
    target_mask: Bool[Tensor, "sequence target"],
    *,
    passages: int,
) -> dict[str, Float[Tensor, "sequence passage"]]:
    """Every attention statistic by name, for `--compute_crossattention_stats`.

    Names are kind + reduction ("normssum", "probstop5", ...). Atlas logs correlations under the
    same names; its "nosep" and "woquery" variants are not offered (see docs/decisions).
    """
    return {
        f"{kind}{reduction}": passage_attention(
            recorded, context_mask, passage, target_mask,
            passages=passages, kind=kind, reduction=reduction,
        )
        for kind in ("scores", "probs", "norms")
        for reduction in ("sum", "avg", "first", "top5", "top10", "top20")
    }  # fmt: skip
