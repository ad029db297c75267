"""Relevance scores out of the states of one transformer layer, one function per kind of model.

A score needs nothing but states of its own model, so the layers of two models can be compared
whatever their widths and tokenizers are. What is done with the scores is in `losses/layers.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gazetteer.losses.precision import at_least_float32

PADDING_SCORE = -9e9
"""Stands for a document token that is none. Source: LEAD's late interaction."""
BLOCK_NUMBERS = 32_000_000
"""Token similarities held at once: 128 MB in float32."""


def dual_encoder_scores(
    queries: Float[Tensor, "query dim"], passages: Float[Tensor, "passage dim"]
) -> Float[Tensor, "query passage"]:
    """Dot products of every query with every passage.

    Args:
        queries: one vector each: the pooled states of one layer, or the embeddings.
        passages: likewise, of the same layer.

    Returns:
        At least float32. Carries the gradient of both.

    Source:
        LEAD takes the first token's state of every layer (arXiv:2212.05225).
    """
    return at_least_float32(queries) @ at_least_float32(passages).T


def late_interaction_scores(
    queries: Float[Tensor, "query query_token dim"],
    query_mask: Bool[Tensor, "query query_token"],
    passages: Float[Tensor, "passage passage_token dim"],
    passage_mask: Bool[Tensor, "passage passage_token"],
) -> Float[Tensor, "query passage"]:
    """Sum over query tokens of the best dot product with any token of the passage.

    Args:
        queries: token states of one layer, as they are; of the last one, scaled to length 1.
        query_mask: True at tokens that are summed over, expansion tokens included.
        passages: likewise.
        passage_mask: True at tokens that may be the best; more padding changes nothing.

    Returns:
        At least float32; 0 for a passage without a token. Carries the gradient of both.

    Source:
        ColBERT (arXiv:2004.12832), layer by layer in LEAD (arXiv:2212.05225).
    """
    queries, passages = at_least_float32(queries), at_least_float32(passages)
    row = max(1, query_mask.numel() * passages.shape[1])
    blocks = zip(
        passages.split(max(1, BLOCK_NUMBERS // row)),
        passage_mask.split(max(1, BLOCK_NUMBERS // row)),
        strict=True,
    )
    columns = [
        _best_token_sums(queries, query_mask, block, block_mask) for block, block_mask in blocks
    ]
    return torch.cat(columns, dim=1)


def _best_token_sums(
    queries: Tensor, query_mask: Tensor, passages: Tensor, passage_mask: Tensor
) -> Tensor:
    similarities = torch.einsum("qid,pjd->qpij", queries, passages)
    similarities = similarities.masked_fill(~passage_mask[None, :, None, :], PADDING_SCORE)
    best = similarities.amax(dim=3).masked_fill(~query_mask[:, None, :], 0.0)
    return best.sum(dim=2).masked_fill(~passage_mask.any(dim=1), 0.0)


def cross_encoder_scores(
    first_states: Float[Tensor, "pair dim"], head: Callable[[Tensor], Tensor], *, passages: int
) -> Float[Tensor, "query passage"]:
    """Scores of (query, passage) pairs that were read together.

    Args:
        first_states: state of the first token, query by query, `passages` pairs of each.
        head: makes one number of such a state; the same one for every layer.
        passages: in the list of each query.

    Returns:
        At least float32. Carries the gradient of both.

    Source:
        LEAD: one linear layer, shared by all transformer layers (arXiv:2212.05225).
    """
    return at_least_float32(head(first_states)).view(-1, passages)
