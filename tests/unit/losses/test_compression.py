"""Losses of the compressor against the same numbers written out."""

import pytest
import torch

from gazetteer.losses.compression import (
    relevance_posterior_loss,
    relevance_regression_loss,
    token_distillation_loss,
)

MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_distillation_is_the_token_mean_of_the_divergence() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, requires_grad=True), torch.randn(2, 3, 5)
    teacher.requires_grad_()
    found = token_distillation_loss(student, teacher, MASK)
    cells = [
        float((p * (p / q).log()).sum())
        for query, token in ((0, 0), (0, 1), (1, 0))
        for p in [teacher[query, token].detach().softmax(0)]
        for q in [student[query, token].detach().softmax(0)]
    ]
    assert found.item() == pytest.approx(sum(cells) / 3, rel=1e-5)
    found.backward()
    assert teacher.grad is None and student.grad is not None
    assert student.grad[0, 2].abs().sum() == 0 < student.grad[0, 1].abs().sum()
    halved = token_distillation_loss(student, teacher, MASK, token_count=6.0)
    assert halved.item() == pytest.approx(found.item() / 2)
    assert token_distillation_loss(teacher, teacher, MASK).item() == pytest.approx(0, abs=1e-6)


def test_regression_is_over_passages_that_are_there() -> None:
    relevance = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0]], requires_grad=True)
    target = torch.tensor([[0.0, 4.0, 0.0], [1.0, 0.0, 0.0]])
    loss = relevance_regression_loss(relevance, target, MASK)
    assert loss.item() == pytest.approx((1 + 4 + 9) / 3)
    of_more = relevance_regression_loss(relevance, target, MASK, passage_count=7.0)
    assert of_more.item() == pytest.approx(2)
    loss.backward()
    assert relevance.grad is not None and relevance.grad[0, 2] == 0


def test_the_posterior_is_over_passages_that_are_there() -> None:
    relevance = torch.tensor([[0.3, -0.4, 5.0], [2.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    relevance.requires_grad_()
    likelihoods = torch.tensor([[-1.0, -2.0, 0.0], [-3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    mask = torch.cat([MASK, torch.zeros(1, 3, dtype=torch.bool)])
    found = relevance_posterior_loss(relevance, likelihoods, mask, reader_temperature=0.5)
    teacher, student = torch.tensor([-2.0, -4.0]).softmax(0), relevance[0, :2].softmax(0)
    expected = (teacher * (teacher / student).log()).sum().item() / 3
    assert found.item() == pytest.approx(expected, rel=1e-5)
    found.backward()
    assert relevance.grad is not None and relevance.grad.isfinite().all()
    assert relevance.grad[1:].abs().sum() == 0 < relevance.grad[0, 0].abs()


def test_a_sharp_posterior_stays_finite() -> None:
    relevance = torch.zeros(1, 3, requires_grad=True)
    likelihoods = torch.tensor([[0.0, -50.0, -90.0]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    loss = relevance_posterior_loss(relevance, likelihoods, mask, reader_temperature=0.01)
    assert loss.item() == pytest.approx(torch.tensor(3.0).log().item(), rel=1e-5)


def test_temperatures_are_positive() -> None:
    with pytest.raises(ValueError, match="reader_temperature"):
        relevance_posterior_loss(
            torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1).bool(), reader_temperature=0.0
        )
