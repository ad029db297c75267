"""The reader: a T5 that encodes passages apart and decodes over all of them at once.

Stock transformers classes, no vendored model. Encoder states are kept without padding; every use
of them (fused, one passage alone, one passage left out) is a gather from the same flat tensor, so
a passage is encoded once however many ways it is read.

Source: fusion in the decoder, arXiv:2007.01282.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import MT5ForConditionalGeneration, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from gazetteer.data.buckets import length_buckets, pad_bucket
from gazetteer.reader.layout import lay_out
from gazetteer.records import TokenIds

T5Model = T5ForConditionalGeneration | MT5ForConditionalGeneration
"""The same to us: transformers keeps the second as a copy of the first."""


@dataclass(frozen=True, slots=True)
class FusedStates:
    """Encoder states of whole sequences, padded only to the longest.

    Attributes:
        states: carries gradient if the encoder did.
        mask: True where a token stands.
        passage: which passage each token belongs to.
    """

    states: Float[Tensor, "sequence token dim"]
    mask: Bool[Tensor, "sequence token"]
    passage: Int[Tensor, "sequence token"]


@dataclass(frozen=True, slots=True)
class EncodedPassages:
    """Encoder states of the passages of several queries, without padding.

    Attributes:
        states: every token of every passage, in no particular order of passages.
        starts: where each passage begins in `states`; host, int64 (query, passage).
        lengths: its number of tokens; 0 where a query has fewer passages. Host, same shape.
    """

    states: Float[Tensor, "token dim"]
    starts: np.ndarray
    lengths: np.ndarray

    def fused(self) -> FusedStates:
        """All passages of a query as one sequence, one per query."""
        return self._gather(self.starts, self.lengths)

    def apart(self) -> FusedStates:
        """Each passage as a sequence of its own: (query x passage) sequences, query-major."""
        return self._gather(self.starts.reshape(-1, 1), self.lengths.reshape(-1, 1))

    def detached(self) -> EncodedPassages:
        """The same states as constants."""
        return EncodedPassages(self.states.detach(), self.starts, self.lengths)

    def followed_by(self, more: EncodedPassages) -> EncodedPassages:
        """These passages, then `more` passages of the same queries."""
        return EncodedPassages(
            torch.cat([self.states, more.states]),
            np.concatenate([self.starts, more.starts + len(self.states)], axis=1),
            np.concatenate([self.lengths, more.lengths], axis=1),
        )

    def first(self, count: int) -> EncodedPassages:
        """The first `count` passages of each query, sharing the states."""
        return EncodedPassages(self.states, self.starts[:, :count], self.lengths[:, :count])

    def _gather(self, starts: np.ndarray, lengths: np.ndarray) -> FusedStates:
        layout = lay_out(starts, lengths)
        device = self.states.device
        index = torch.from_numpy(layout.index).to(device, non_blocking=True)
        states = self.states.index_select(0, index.view(-1)).view(*index.shape, -1)
        return FusedStates(
            states,
            torch.from_numpy(layout.mask).to(device, non_blocking=True),
            torch.from_numpy(layout.passage).to(device, non_blocking=True),
        )


class FusionReader(nn.Module):
    """T5 over retrieved passages.

    Args:
        model: any T5 of transformers (v1.0, v1.1, lm-adapt, flan, mT5).
        max_padded_tokens: how many tokens, padding included, one encoder call may hold.
    """

    def __init__(self, model: T5Model, *, max_padded_tokens: int) -> None:
        super().__init__()
        self.model = model
        self.max_padded_tokens = max_padded_tokens

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.shared.weight.device

    @property
    def vocab_size(self) -> int:
        """Number of output tokens."""
        return self.model.config.vocab_size

    @property
    def width(self) -> int:
        """Size of the vectors it decodes over."""
        return self.model.config.d_model

    @property
    def decoder_start_id(self) -> int:
        """The token every answer begins after."""
        start = self.model.config.decoder_start_token_id
        assert start is not None, "every T5 has one"
        return start

    def encode(self, inputs: Sequence[Sequence[TokenIds]]) -> EncodedPassages:
        """Encode every passage of every query once, in buckets of similar length.

        Args:
            inputs: for each query, the token ids of each of its passages. Queries may have
                different numbers of passages.

        Returns:
            States with gradient, unless called under `torch.no_grad`.
        """
        lengths = _length_table(inputs)
        flat_lengths = lengths.reshape(-1)
        tokens = [ids for passages in inputs for ids in passages]
        slots = np.flatnonzero(flat_lengths)
        starts = np.zeros_like(flat_lengths)
        pieces: list[Tensor] = []
        position = 0
        buckets = length_buckets(
            flat_lengths[slots], max_rows=len(slots) or 1, max_padded_tokens=self.max_padded_tokens
        )
        for bucket in buckets:
            pieces.append(self._encode_bucket([tokens[i] for i in bucket]))
            ends = position + np.cumsum(flat_lengths[slots[bucket]])
            starts[slots[bucket]] = ends - flat_lengths[slots[bucket]]
            position = int(ends[-1])
        dim = self.model.config.d_model
        empty = torch.zeros(0, dim, dtype=self.model.shared.weight.dtype, device=self.device)
        states = torch.cat(pieces) if pieces else empty
        return EncodedPassages(states, starts.reshape(lengths.shape), lengths)

    def _encode_bucket(self, token_lists: Sequence[TokenIds]) -> Float[Tensor, "token dim"]:
        ids, mask = pad_bucket(token_lists, self.model.config.pad_token_id or 0)
        # On the host: on a GPU, asking which tokens are real would wait for the device.
        real = mask.view(-1).nonzero().squeeze(1)
        ids, mask, real = (t.to(self.device, non_blocking=True) for t in (ids, mask, real))
        states = self.model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return states.flatten(0, 1).index_select(0, real)

    def decode(
        self,
        context: FusedStates,
        decoder_input_ids: Int[Tensor, "sequence target"],
        mask: Bool[Tensor, "sequence token"] | None = None,
    ) -> Float[Tensor, "sequence target vocab"]:
        """Logits of each target token given the context. `mask` replaces the context's own."""
        attention_mask = context.mask if mask is None else mask
        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=context.states),  # type: ignore[arg-type]
            attention_mask=attention_mask.long(),
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        ).logits

    def shift_right(self, tokens: Int[Tensor, "sequence target"]) -> Int[Tensor, "sequence target"]:
        """Decoder inputs that predict `tokens`: start token first, last token dropped."""
        start = torch.full_like(tokens[:, :1], self.decoder_start_id)
        return torch.cat([start, tokens[:, :-1]], dim=1)


def sequence_chunks(
    sequences: int, target_length: int, vocab_size: int, *, max_logits: int = 64_000_000
) -> Iterator[slice]:
    """Cut a batch of sequences so that one chunk's logits stay below `max_logits` numbers.

    64 million float32 logits are 256 MB: scoring 40 passages of a large batch at once would
    otherwise need gigabytes for a tensor that is reduced at once.
    """
    size = max(1, max_logits // max(1, target_length * vocab_size))
    for start in range(0, sequences, size):
        yield slice(start, min(start + size, sequences))


def _length_table(inputs: Sequence[Sequence[TokenIds]]) -> np.ndarray:
    widest = max((len(passages) for passages in inputs), default=0)
    table = np.zeros((len(inputs), widest), dtype=np.int64)
    for row, passages in zip(table, inputs, strict=True):
        row[: len(passages)] = [len(ids) for ids in passages]
    return table
