"""Losses of the retriever alone: values by hand, and what does not move them."""

import math

import pytest
import torch

from gazetteer.losses.contrastive import (
    contrastive_loss,
    margin_mse_loss,
    score_divergence_loss,
    truncate_embeddings,
)

SCORES = torch.tensor([[2.0, 0.0, 1.0], [1.0, 3.0, 0.0]])
TEACHER = torch.tensor([[5.0, 1.0, 3.0], [9.0, 8.0, 9.0]])


def log_sum_exp(*values):
    return math.log(sum(math.exp(value) for value in values))


def test_contrastive_loss_by_hand():
    loss = contrastive_loss(SCORES, torch.tensor([0, 1]), temperature=0.5)
    expected = (log_sum_exp(4, 0, 2) - 4 + log_sum_exp(2, 6, 0) - 6) / 2
    assert loss.item() == pytest.approx(expected)


def test_an_excluded_candidate_does_not_count():
    excluded = torch.tensor([[False, False, True], [False, False, False]])
    loss = contrastive_loss(SCORES, torch.tensor([0, 1]), temperature=1.0, excluded=excluded)
    expected = (log_sum_exp(2, 0) - 2 + log_sum_exp(1, 3, 0) - 3) / 2
    assert loss.item() == pytest.approx(expected)


def test_margins_by_hand():
    # Margins 2, 1 and -2, 1; the teacher's are 4, 2 and 1, 0.
    assert margin_mse_loss(SCORES, TEACHER).item() == pytest.approx((4 + 1 + 9 + 1) / 4)


def test_margins_need_a_negative():
    with pytest.raises(ValueError, match="a positive and a negative"):
        margin_mse_loss(SCORES[:, :1], TEACHER[:, :1])


def test_divergence_by_hand_with_two_temperatures():
    loss = score_divergence_loss(SCORES, TEACHER, temperature=0.5, teacher_temperature=2.0)
    expected = 0.0
    for row, teacher in zip(SCORES.tolist(), TEACHER.tolist(), strict=True):
        student = [value / 0.5 for value in row]
        wise = [value / 2.0 for value in teacher]
        for s, t in zip(student, wise, strict=True):
            log_p, log_t = s - log_sum_exp(*student), t - log_sum_exp(*wise)
            expected += math.exp(log_t) * (log_t - log_p) / 2
    assert loss.item() == pytest.approx(expected)


def test_the_teacher_gets_no_gradient_and_agreement_costs_nothing():
    teacher = TEACHER.clone().requires_grad_()
    scores = TEACHER.clone().requires_grad_()
    loss = score_divergence_loss(scores, teacher, temperature=1.0, teacher_temperature=1.0)
    (loss + margin_mse_loss(scores, teacher)).backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert teacher.grad is None


@pytest.mark.parametrize("count", [4, torch.tensor(4.0)])
def test_the_number_of_queries_may_be_given(count):
    positives = torch.tensor([0, 1])
    own = contrastive_loss(SCORES, positives, temperature=1.0)
    given = contrastive_loss(SCORES, positives, temperature=1.0, query_count=count)
    assert given.item() == pytest.approx(own.item() / 2)


def test_no_queries_cost_nothing_and_have_gradients():
    scores = torch.zeros(0, 3, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    loss = contrastive_loss(scores, none, temperature=1.0)
    loss = loss + margin_mse_loss(scores, scores.detach())
    loss = loss + score_divergence_loss(scores, scores, temperature=1.0, teacher_temperature=1.0)
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None


def test_losses_of_half_precision_are_float32():
    half = SCORES.bfloat16()
    assert contrastive_loss(half, torch.tensor([0, 1]), temperature=1.0).dtype == torch.float32
    assert margin_mse_loss(half, TEACHER).dtype == torch.float32


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperatures_are_positive(temperature):
    with pytest.raises(ValueError, match="temperature"):
        contrastive_loss(SCORES, torch.tensor([0, 1]), temperature=temperature)


def test_cut_embeddings_have_length_1_where_whole_ones_do():
    cut = truncate_embeddings(torch.tensor([[3.0, 4.0, 12.0]]), 2, normalize=True)
    assert cut[0].tolist() == pytest.approx([0.6, 0.8])
    cut = truncate_embeddings(torch.tensor([[3.0, 4.0, 12.0]]), 2, normalize=False)
    assert cut.tolist() == [[3.0, 4.0]]
    with pytest.raises(ValueError, match="between 1 and 3"):
        truncate_embeddings(torch.zeros(1, 3), 4, normalize=False)
