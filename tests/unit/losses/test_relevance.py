"""Scores of layers: against loops, and whatever the padding."""

import pytest
import torch

from gazetteer.losses import relevance
from gazetteer.losses.relevance import (
    cross_encoder_scores,
    dual_encoder_scores,
    late_interaction_scores,
)


def test_dual_encoder_scores_every_pair():
    queries, passages = torch.randn(2, 3), torch.randn(4, 3)
    scores = dual_encoder_scores(queries.half(), passages.half())
    assert scores.dtype == torch.float32
    assert scores[1, 2].item() == pytest.approx((queries[1] @ passages[2]).item(), abs=1e-2)


def test_cross_encoder_scores_are_laid_out_query_by_query():
    head = torch.nn.Linear(3, 1)
    states = torch.randn(6, 3)
    scores = cross_encoder_scores(states, head, passages=3)
    assert torch.equal(scores, head(states).view(2, 3))


def late_interaction_inputs():
    queries, passages = torch.randn(2, 3, 5), torch.randn(4, 6, 5)
    query_mask = torch.tensor([[True, True, True], [True, False, True]])
    passage_mask = torch.arange(6) < torch.tensor([[6], [1], [3], [0]])
    return queries, query_mask, passages, passage_mask


def test_late_interaction_equals_loops_over_tokens():
    queries, query_mask, passages, passage_mask = late_interaction_inputs()
    scores = late_interaction_scores(queries, query_mask, passages, passage_mask)
    for q in range(2):
        for p in range(3):
            expected = sum(
                max((token @ other).item() for other in passages[p][passage_mask[p]])
                for token in queries[q][query_mask[q]]
            )
            assert scores[q, p].item() == pytest.approx(expected, rel=1e-5)
    assert scores[:, 3].tolist() == [0.0, 0.0]


def test_late_interaction_does_not_see_padding_or_blocks(monkeypatch):
    queries, query_mask, passages, passage_mask = late_interaction_inputs()
    expected = late_interaction_scores(queries, query_mask, passages, passage_mask)
    monkeypatch.setattr(relevance, "BLOCK_NUMBERS", 1)
    padded = torch.cat([passages, torch.full((4, 3, 5), 9.0)], dim=1)
    mask = torch.cat([passage_mask, torch.zeros(4, 3, dtype=torch.bool)], dim=1)
    assert torch.allclose(late_interaction_scores(queries, query_mask, padded, mask), expected)
