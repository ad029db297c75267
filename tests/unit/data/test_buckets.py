"""Buckets hold every text once, within their limits, and padding is undone by the mask."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gazetteer.data.buckets import length_buckets, pad_bucket

lengths = st.lists(st.integers(0, 60), max_size=40).map(lambda values: np.array(values, dtype=int))
limits = st.tuples(st.integers(1, 9), st.integers(1, 150))


@given(lengths, limits)
def test_every_text_is_in_exactly_one_bucket(sizes: np.ndarray, limit: tuple[int, int]) -> None:
    buckets = length_buckets(sizes, max_rows=limit[0], max_padded_tokens=limit[1])
    assert sorted(np.concatenate([*buckets, []]).tolist()) == list(range(len(sizes)))
    assert all(len(bucket) for bucket in buckets)


@given(lengths, limits)
def test_buckets_keep_their_limits(sizes: np.ndarray, limit: tuple[int, int]) -> None:
    max_rows, max_tokens = limit
    for bucket in length_buckets(sizes, max_rows=max_rows, max_padded_tokens=max_tokens):
        assert len(bucket) <= max_rows
        assert len(bucket) == 1 or len(bucket) * sizes[bucket].max() <= max_tokens


@given(lengths, limits)
def test_buckets_are_sorted_and_as_full_as_they_can_be(
    sizes: np.ndarray, limit: tuple[int, int]
) -> None:
    max_rows, max_tokens = limit
    buckets = length_buckets(sizes, max_rows=max_rows, max_padded_tokens=max_tokens)
    in_order = np.concatenate([*buckets, np.array([], dtype=int)]).astype(int)
    assert sizes[in_order].tolist() == sorted(sizes.tolist())
    for bucket, following in pairwise(buckets):
        joined = len(bucket) + 1
        assert joined > max_rows or joined * sizes[following[0]] > max_tokens


def test_texts_of_equal_length_keep_their_order() -> None:
    (bucket,) = length_buckets(np.array([2, 1, 2, 1]), max_rows=9, max_padded_tokens=99)
    assert bucket.tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize(("rows", "tokens"), [(0, 5), (5, 0), (-1, 5)])
def test_limits_must_be_positive(rows: int, tokens: int) -> None:
    with pytest.raises(ValueError, match="limits must be positive"):
        length_buckets(np.array([1]), max_rows=rows, max_padded_tokens=tokens)


@given(st.lists(st.lists(st.integers(1, 9), max_size=7), max_size=6), st.sampled_from([0, -1]))
def test_padding_is_undone_by_the_mask(texts: list[list[int]], pad_id: int) -> None:
    ids, mask = pad_bucket([np.array(text, dtype=np.int32) for text in texts], pad_id)
    assert ids.dtype == torch.int64
    assert mask.dtype == torch.bool
    assert ids.shape == mask.shape == (len(texts), max(map(len, texts), default=0))
    assert [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)] == texts
    assert bool((ids[~mask] == pad_id).all())
    # Real tokens come first.
    assert [row.tolist() for row in mask] == [
        [place < len(text) for place in range(mask.shape[1])] for text in texts
    ]
