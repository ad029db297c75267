"""What lies between whatever encodes passages and whatever answers from them.

Encoder states, input embeddings or soft tokens: vectors of several passages of several queries,
kept without padding. Every use of them (fused, one passage alone, one passage left out) is a gather
from the same flat tensor, so a passage is encoded once however many ways it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gazetteer.reader.layout import lay_out
from gazetteer.records import TokenIds


@dataclass(frozen=True, slots=True)
class FusedStates:
    """Encoder states of whole sequences, padded only to the longest.

    Attributes:
        states: carries gradient if the encoder did.
        mask: True where a token stands.
        passage: which passage each token belongs to.
        lengths: tokens of each sequence, padding behind them; host, int64 (sequence).
    """

    states: Float[Tensor, "sequence token dim"]
    mask: Bool[Tensor, "sequence token"]
    passage: Int[Tensor, "sequence token"]
    lengths: np.ndarray

    def rows(self, part: slice) -> FusedStates:
        """Some of the sequences."""
        return FusedStates(
            self.states[part], self.mask[part], self.passage[part], self.lengths[part]
        )

    def repeated(self, times: int) -> FusedStates:
        """Each sequence so many times, one after the other."""
        states, mask, passage = (
            tensor.repeat_interleave(times, dim=0)
            for tensor in (self.states, self.mask, self.passage)
        )
        return FusedStates(states, mask, passage, self.lengths.repeat(times))


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
        # Padding repeats the first vector; where there is none at all, it is 0.
        flat = self.states if len(self.states) else self.states.new_zeros(1, self.states.shape[1])
        return FusedStates(
            flat.index_select(0, index.view(-1)).view(*index.shape, -1),
            torch.from_numpy(layout.mask).to(device, non_blocking=True),
            torch.from_numpy(layout.passage).to(device, non_blocking=True),
            lengths.sum(axis=1),
        )


def length_table(inputs: Sequence[Sequence[TokenIds]]) -> np.ndarray:
    """Tokens of each passage of each query, int64 (query, passage); 0 where there is none."""
    widest = max((len(passages) for passages in inputs), default=0)
    table = np.zeros((len(inputs), widest), dtype=np.int64)
    for row, passages in zip(table, inputs, strict=True):
        row[: len(passages)] = [len(ids) for ids in passages]
    return table
