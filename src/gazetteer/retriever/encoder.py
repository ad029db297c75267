"""One tower of the retriever: token ids in, one embedding out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from gazetteer.data.buckets import length_buckets, pad_bucket
from gazetteer.errors import CheckpointError
from gazetteer.records import TokenIds
from gazetteer.retriever.packed_weights import WORTH_TOKENS, packed_weights

TokenPooling = Literal["mean", "cls", "sqrt"]
Pooling = TokenPooling | Literal["first_decoder_token"]
FIRST_DECODER_TOKEN: Final = "first_decoder_token"
POOLINGS: tuple[Pooling, ...] = (*get_args(TokenPooling), FIRST_DECODER_TOKEN)
DECODER_START = 0
"""The one token T5's decoder is given: its padding, with which all T5 were trained to begin."""


def pool(
    states: Float[Tensor, "text token dim"],
    mask: Bool[Tensor, "text token"] | None,
    pooling: TokenPooling,
) -> Float[Tensor, "text dim"]:
    """Reduce token states to one vector.

    Args:
        states: hidden states; carries gradient.
        mask: True at real tokens; None where all are.
        pooling: "mean" over real tokens, "sqrt" (sum over the square root of their number) or
            "cls" (the first token).

    Source:
        Contriever's three poolings, arXiv:2112.09118; Atlas uses "mean". OpenMatch calls "cls"
        "first".
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
    """A BERT-like encoder or a T5, with pooling.

    Args:
        model: of transformers, with a decoder only for "first_decoder_token".
        pooling: see `pool`; or T5's way, the state of the one token its decoder is given.
        normalize: scale embeddings to length 1.
        head: projects what was pooled, before it is normalised; None leaves it as it is.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        pooling: Pooling,
        normalize: bool,
        head: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.pooling: Pooling = pooling
        self.normalize = normalize

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding: the head's, else the model's."""
        return int(self.model.config.hidden_size if self.head is None else self.head.out_features)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def weights(self) -> dict[str, Tensor]:
        """Every weight once: a state dict repeats T5's table of embeddings, files must not."""
        own = {name for name, _ in (*self.named_parameters(), *self.named_buffers())}
        return {name: tensor for name, tensor in self.state_dict().items() if name in own}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over what `weights` gave.

        Raises:
            CheckpointError: they are those of another tower.
        """
        keys = self.load_state_dict(dict(weights), strict=False)
        wrong = (set(keys.missing_keys) & self.weights().keys()) | set(keys.unexpected_keys)
        if wrong:
            raise CheckpointError(
                f"weights of another encoder: {min(wrong)} is in one of them only"
            )

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
        if self.pooling == FIRST_DECODER_TOKEN:
            embeddings = self._decoder_states(ids, mask)[:, 0]
        else:
            embeddings = pool(self._token_states(ids, mask), mask, self.pooling)
        if self.head is not None:
            embeddings = _project(embeddings, self.head)
        return nn.functional.normalize(embeddings, dim=-1) if self.normalize else embeddings

    def _token_states(
        self, ids: Int[Tensor, "text token"], mask: Bool[Tensor, "text token"] | None
    ) -> Float[Tensor, "text token hidden"]:
        attention_mask = None if mask is None else mask.long()
        states = self.model(input_ids=ids, attention_mask=attention_mask).last_hidden_state
        return states if torch.is_grad_enabled() else states.float()

    def _decoder_states(
        self, ids: Int[Tensor, "text token"], mask: Bool[Tensor, "text token"] | None
    ) -> Float[Tensor, "text 1 hidden"]:
        """T5's decoder sees the text, and one token that is always the same."""
        states = self.model(
            input_ids=ids,
            attention_mask=None if mask is None else mask.long(),
            decoder_input_ids=torch.full_like(ids[:, :1], DECODER_START),
            use_cache=False,
        ).last_hidden_state
        return states if torch.is_grad_enabled() else states.float()


def _project(embeddings: Float[Tensor, "text dim"], head: nn.Linear) -> Float[Tensor, "text out"]:
    """The head's product in the dtype of the embeddings, which may be wider than its own."""
    bias = head.bias if head.bias is None else head.bias.to(embeddings.dtype)
    return nn.functional.linear(embeddings, head.weight.to(embeddings.dtype), bias)


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
