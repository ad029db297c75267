"""One tower of the retriever: token ids in, one embedding out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from gazetteer.data.buckets import length_buckets, pad_bucket
from gazetteer.records import TokenIds
from gazetteer.retriever.packed_weights import WORTH_TOKENS, packed_weights

Pooling = Literal["mean", "cls", "sqrt"]


def pool(
    states: Float[Tensor, "text token dim"],
    mask: Bool[Tensor, "text token"] | None,
    pooling: Pooling,
) -> Float[Tensor, "text dim"]:
    """Reduce token states to one vector.

    Args:
        states: hidden states; carries gradient.
        mask: True at real tokens; None where all are.
        pooling: "mean" over real tokens, "sqrt" (sum over the square root of their number) or
            "cls" (the first token).

    Source:
        Contriever's three poolings, arXiv:2112.09118; Atlas uses "mean".
    """
    if pooling == "cls":
        return states[:, 0]
    if mask is None:
        mask = states.new_ones(states.shape[:2], dtype=torch.bool)
    else:
        states = states.masked_fill(~mask.unsqueeze(-1), 0.0)
    count = mask.sum(dim=1, keepdim=True).clamp_min(1)
    return states.sum(dim=1) / (count.sqrt() if pooling == "sqrt" else count)


class TextEncoder(nn.Module):
    """A BERT-like encoder with pooling.

    Args:
        model: a transformers encoder; its config gives the embedding size.
        pooling: see `pool`.
        normalize: scale embeddings to length 1.
    """

    def __init__(self, model: PreTrainedModel, *, pooling: Pooling, normalize: bool) -> None:
        super().__init__()
        self.model = model
        self.pooling: Pooling = pooling
        self.normalize = normalize

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding."""
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def forward(
        self, ids: Int[Tensor, "text token"], mask: Bool[Tensor, "text token"] | None
    ) -> Float[Tensor, "text dim"]:
        """Embeddings of padded texts.

        Args:
            ids: token ids, padded.
            mask: True at real tokens; None where all are, which is faster.

        Returns:
            With gradient, in the dtype of the weights. Under `torch.no_grad`, for an index and its
            queries, float32 pooled from token states of any dtype: rounded to bfloat16, the
            lengths of normalised embeddings would differ by as much as neighbouring scores do.
        """
        attention_mask = None if mask is None else mask.long()
        states = self.model(input_ids=ids, attention_mask=attention_mask).last_hidden_state
        if not torch.is_grad_enabled():
            states = states.float()
        embeddings = pool(states, mask, self.pooling)
        return nn.functional.normalize(embeddings, dim=-1) if self.normalize else embeddings


@dataclass(frozen=True, slots=True)
class EmbeddingBatch:
    """How many texts one encoder call may hold.

    Attributes:
        max_texts: `--per_gpu_embedder_batch_size`.
        max_padded_tokens: padding included; keeps memory flat when texts are long.
    """

    max_texts: int = 512
    max_padded_tokens: int = 16_384


def embed(
    encoder: TextEncoder, token_lists: Sequence[TokenIds], batch: EmbeddingBatch
) -> Float[Tensor, "text dim"]:
    """Embed texts in buckets of similar length; the result is in the order of the input.

    Args:
        encoder: one tower; in whatever mode (train or eval) the caller wants.
        token_lists: ids with special tokens, unpadded.
        batch: limits of one encoder call.

    Returns:
        One embedding per text, on the encoder's device. Carries gradient and has the encoder's
        dtype, but for calls under `torch.no_grad`: those give float32.
    """
    if not token_lists:
        dtype = torch.float32
        if torch.is_grad_enabled():
            dtype = next(encoder.model.parameters()).dtype
        return torch.zeros(0, encoder.embedding_dim, dtype=dtype, device=encoder.device)
    lengths = np.fromiter((len(ids) for ids in token_lists), dtype=np.int64, count=len(token_lists))
    buckets = length_buckets(
        lengths, max_rows=batch.max_texts, max_padded_tokens=batch.max_padded_tokens
    )
    pad_id = encoder.model.config.pad_token_id or 0
    pieces = []
    is_worth_packing = lengths.sum() >= WORTH_TOKENS and not torch.is_grad_enabled()
    with packed_weights(encoder.model) if is_worth_packing else nullcontext():
        for bucket in buckets:
            ids, mask = pad_bucket([token_lists[i] for i in bucket], pad_id)
            device = encoder.device
            # Sorted by length, so most buckets of a corpus need no padding.
            is_padded = lengths[bucket[0]] < lengths[bucket[-1]]
            pieces.append(
                encoder(
                    ids.to(device, non_blocking=True),
                    mask.to(device, non_blocking=True) if is_padded else None,
                )
            )
    order = np.argsort(np.concatenate(buckets), kind="stable")
    return torch.cat(pieces).index_select(0, torch.from_numpy(order).to(encoder.device))
