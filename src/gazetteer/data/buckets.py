"""Texts of similar length together: how batches waste little on padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gazetteer.records import TokenIds


def length_buckets(
    lengths: np.ndarray, *, max_rows: int, max_padded_tokens: int
) -> list[np.ndarray]:
    """Group texts by length, longest last.

    Args:
        lengths: tokens of each text.
        max_rows: texts per bucket.
        max_padded_tokens: texts x longest of a bucket; a single longer text gets its own.

    Returns:
        Positions in `lengths`, every one exactly once.
    """
    if max_rows < 1 or max_padded_tokens < 1:
        raise ValueError(f"limits must be positive, got {max_rows} and {max_padded_tokens}")
    order = np.argsort(lengths, kind="stable")
    buckets, start = [], 0
    for stop in range(1, len(order) + 1):
        count = stop - start
        # Sorted, so the next text would be the longest of the bucket.
        if (
            stop == len(order)
            or count == max_rows
            or (count + 1) * int(lengths[order[stop]]) > max_padded_tokens
        ):
            buckets.append(order[start:stop])
            start = stop
    return buckets


def pad_bucket(
    token_lists: Sequence[TokenIds], pad_id: int
) -> tuple[Int[Tensor, "text token"], Bool[Tensor, "text token"]]:
    """Pad to the longest of these texts, at the end.

    Returns:
        Token ids (int64) and a mask that is True at real tokens, on the CPU.
    """
    lengths = np.fromiter((len(ids) for ids in token_lists), dtype=np.int64, count=len(token_lists))
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    padded = np.full(mask.shape, pad_id, dtype=np.int64)
    if len(token_lists):
        padded[mask] = np.concatenate(token_lists)
    return torch.from_numpy(padded), torch.from_numpy(mask)
