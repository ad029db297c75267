from __future__ import annotations

import pytest
import torch

from gazetteer.index import ShardedIndex, shard_range
from gazetteer.records import Ranks


def test_hits_are_the_best_passages_in_order() -> None:
    index = ShardedIndex(3, Ranks(), torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]))
    hits = index.search(torch.tensor([[1.0, 0.5], [0.0, -1.0]]), 2)
    assert hits.rows.tolist() == [[2, 0], [0, 1]]
    assert hits.scores.tolist() == [[3.0, 1.0], [0.0, -1.0]]


def test_no_more_hits_than_passages() -> None:
    index = ShardedIndex(2, Ranks(), torch.eye(2))
    assert index.search(torch.ones(4, 2), 7).rows.tolist() == [[0, 1]] * 4
    assert index.search(torch.ones(0, 2), 7).rows.shape == (0, 2)


def test_an_index_without_passages_has_no_hits() -> None:
    hits = ShardedIndex(0, Ranks(), torch.zeros(0, 3)).search(torch.ones(2, 3), 5)
    assert hits.rows.shape == hits.scores.shape == (2, 0)


def test_queries_of_another_precision_are_taken_and_leave_no_gradient() -> None:
    index = ShardedIndex(2, Ranks(), torch.eye(2, dtype=torch.float16))
    assert index.embeddings.dtype == torch.float32
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        queries = torch.tensor([[1.0, 2.0]], dtype=dtype, requires_grad=True)
        hits = index.search(queries, 1)
        assert hits.rows.tolist() == [[1]]
        assert not hits.scores.requires_grad


def test_new_vectors_replace_the_old_ones_whole() -> None:
    index = ShardedIndex(2, Ranks(), torch.tensor([[1.0], [2.0]]))
    index.replace(torch.tensor([[1e6], [2.0]]))
    hits = index.search(torch.ones(1, 1), 2)
    assert hits.rows.tolist() == [[0, 1]]
    assert hits.scores.tolist() == [[1e6, 2.0]]


def test_an_index_that_was_not_filled_says_so() -> None:
    index = ShardedIndex(5, Ranks())
    assert not index.is_filled
    with pytest.raises(ValueError, match="embed the corpus or load"):
        index.search(torch.ones(1, 2), 1)
    index.replace(torch.ones(5, 2))
    assert index.is_filled


def test_embeddings_must_be_those_of_the_rank_s_rows() -> None:
    ranks = Ranks(rank=1, world_size=3)
    assert ShardedIndex(10, ranks).rows == shard_range(10, 1, 3) == range(3, 6)
    with pytest.raises(ValueError, match="got 4 embeddings for 3 rows"):
        ShardedIndex(10, ranks, torch.ones(4, 2))


@pytest.mark.parametrize("top_k", [0, -1])
def test_fewer_than_one_hit_is_refused(top_k: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, got {top_k}"):
        ShardedIndex(1, Ranks(), torch.ones(1, 1)).search(torch.ones(1, 1), top_k)
