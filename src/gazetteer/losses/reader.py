"""The reader's own loss, and the average over target tokens that other losses share."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gazetteer.losses.precision import at_least_float32

IGNORED_LABEL = -100
"""Label of a position that teaches nothing: padding and prompt tokens."""


def target_mask_of(labels: Int[Tensor, "query target"]) -> Bool[Tensor, "query target"]:
    """Mark the positions whose label counts."""
    return labels != IGNORED_LABEL


def reader_loss(
    logits: Float[Tensor, "query target vocab"],
    labels: Int[Tensor, "query target"],
    *,
    token_count: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """Teach the reader the target: cross-entropy, averaged over target tokens.

    Args:
        logits: scores of the vocabulary at each target position. Carries gradient.
        labels: token ids; -100 where ignored.
        token_count: what to divide by, see `average_over_tokens`.

    Returns:
        Scalar in nats, float32 (float64 for float64 logits); 0 without any target token.

    Source:
        Atlas: the loss of T5, token-mean over the labels that are not ignored.
    """
    total = F.cross_entropy(
        at_least_float32(logits).flatten(0, 1),
        labels.flatten(),
        ignore_index=IGNORED_LABEL,
        reduction="sum",
    )
    return average_over_tokens(total, target_mask_of(labels), token_count)


def average_over_tokens(
    total: Float[Tensor, ""],
    target_mask: Bool[Tensor, "query target"],
    token_count: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """Divide a sum over target tokens by their number.

    Ranks hold different numbers of tokens, so the mean over ranks of local averages is not the
    average over all tokens. Passing (tokens of all ranks) / (world size) to every rank makes it
    so, for the value and, after gradients are averaged over ranks, for the gradient.

    Args:
        total: the sum, over this rank's target tokens. Carries gradient.
        target_mask: this rank's target tokens; counted when `token_count` is None.
        token_count: the divisor to use instead, on any device. No gradient.

    Returns:
        Scalar in the dtype of `total`; `total` itself where the divisor is 0.
    """
    count = target_mask.sum() if token_count is None else token_count
    if not isinstance(count, Tensor):
        return total / (count or 1.0)
    count = count.detach().to(total)
    return total / torch.where(count > 0, count, 1.0)
