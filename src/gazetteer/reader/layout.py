"""Where each token of each passage sits: index arithmetic for pad-free encoder states.

Pure numpy on the host, so that the device only ever sees finished gather indices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """How to read sequences out of a flat (token, dim) tensor.

    Attributes:
        index: flat position of each token, int64, shape (sequence, longest). 0 where padded.
        mask: True where a token stands, shape (sequence, longest).
        passage: which passage of its sequence a token belongs to, int64, same shape. 0 where
            padded.
    """

    index: np.ndarray
    mask: np.ndarray
    passage: np.ndarray


def lay_out(starts: np.ndarray, lengths: np.ndarray) -> TokenLayout:
    """Concatenate the passages of each row, and pad the rows to the longest.

    Args:
        starts: flat position of each passage's first token, int64 (sequence, passage).
        lengths: tokens of each passage, int64, same shape; 0 where there is no passage.

    Returns:
        A layout whose row s holds passages 0, 1, ... of row s one after the other.
    """
    sequences, passages = lengths.shape
    totals = lengths.sum(axis=1)
    mask = np.arange(max(int(totals.max(initial=0)), 1)) < totals[:, None]
    flat_lengths = lengths.reshape(-1)
    # Position of every token inside its own passage, then shifted to where the passage starts.
    ends = np.cumsum(flat_lengths)
    within = np.arange(ends[-1] if ends.size else 0) - np.repeat(ends - flat_lengths, flat_lengths)
    index = np.zeros(mask.shape, dtype=np.int64)
    index[mask] = np.repeat(starts.reshape(-1), flat_lengths) + within
    passage = np.zeros(mask.shape, dtype=np.int64)
    passage[mask] = np.repeat(np.tile(np.arange(passages), sequences), flat_lengths)
    return TokenLayout(index, mask, passage)
