"""From the states of whole sequences to a few vectors of each: three poolings, no parameters.

Index arithmetic is done in numpy on the host; the device sees one gather.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gazetteer.compressor.settings import Pooling
from gazetteer.reader.layout import TokenLayout, lay_out

TOKENS, MEMORY, RELEVANCE = 0, 1, 2
"""The pieces of a sequence, in this order."""


def vector_counts(
    tokens: np.ndarray, passage_tokens: np.ndarray, *, most: int, rate: float | None
) -> np.ndarray:
    """How many vectors each sequence becomes: at least one, and no more than it has tokens.

    Args:
        tokens: of each sequence, query and passage; each at least 1.
        passage_tokens: of its passage alone.
        most: vectors of one sequence.
        rate: passage tokens for each vector; None: `most` whatever the length.
    """
    if rate is None:
        return np.minimum(tokens, most)
    wanted = np.array([math.ceil(count / rate) for count in passage_tokens], dtype=np.int64)
    return np.minimum(np.maximum(wanted, 1), np.minimum(tokens, most))


def pool(
    pooling: Pooling,
    states: Float[Tensor, "sequence token width"],
    layout: TokenLayout,
    lengths: np.ndarray,
    counts: np.ndarray,
) -> Float[Tensor, "vector width"]:
    """Keep the vectors of each sequence, one sequence after the other.

    Args:
        pooling: memory: the states of the memory tokens; first: of the first tokens; mean: the
            averages of `counts` spans of equal length, which overlap by a token where the length
            is no multiple (adaptive pooling).
        states: the model's last; carries gradient.
        layout: where the pieces of each sequence are.
        lengths: tokens of each sequence, without learned ones.
        counts: vectors of each sequence.
    """
    flat = states.flatten(0, 1)
    if pooling == "mean":
        return _span_means(flat, states.shape[1], lengths, counts)
    kept = layout.mask & (layout.passage == MEMORY)
    if pooling == "first":
        kept = np.arange(states.shape[1]) < counts[:, None]
    return flat.index_select(0, _to(kept.reshape(-1).nonzero()[0], flat))


def relevance_states(
    states: Float[Tensor, "sequence token width"], layout: TokenLayout
) -> Float[Tensor, "sequence width"]:
    """The state of each sequence's relevance token."""
    places = (layout.mask & (layout.passage == RELEVANCE)).reshape(-1).nonzero()[0]
    flat = states.flatten(0, 1)
    return flat.index_select(0, _to(places, flat))


def _span_means(
    flat: Float[Tensor, "token width"], width: int, lengths: np.ndarray, counts: np.ndarray
) -> Float[Tensor, "vector width"]:
    rows = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    length, count = lengths[rows], counts[rows]
    starts = number * length // count
    stops = -(-(number + 1) * length // count)
    spans = lay_out((rows * width + starts)[:, None], (stops - starts)[:, None])
    found = flat.index_select(0, _to(spans.index.reshape(-1), flat)).view(*spans.index.shape, -1)
    mask = _to(spans.mask, flat).unsqueeze(2)
    return (found * mask).sum(dim=1) / mask.sum(dim=1)


def _to(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like.device, non_blocking=True)
