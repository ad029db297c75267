"""LEAD's losses: values by hand, weights of the paper, and who gets gradient."""

import math

import pytest
import torch
from torch import Tensor

from gazetteer.losses.layers import (
    final_distillation_loss,
    layer_distillation_loss,
    layer_losses,
    layer_weights,
)


def random_scores(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


def divergence_by_hand(target: list[float], found: list[float]) -> float:
    """KL of one query from its scores: floats and loops only."""
    pairs = zip(softmax(target), softmax(found), strict=True)
    return sum(t * math.log(t / f) for t, f in pairs)


def mean_divergence(target: Tensor, found: Tensor) -> float:
    rows = zip(target.tolist(), found.tolist(), strict=True)
    return sum(divergence_by_hand(t, f) for t, f in rows) / len(target)


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (1.0, [0.002, 0.007, 0.048, 0.356, 0.587]),
        (10.0, [0.146, 0.162, 0.197, 0.241, 0.254]),
    ],
)
def test_weights_are_those_of_the_paper(temperature, expected):
    losses = torch.tensor([6.0, 5.0, 3.0, 1.0, 0.5], requires_grad=True)
    weights = layer_weights(losses, layer_temperature=temperature)
    assert weights.tolist() == pytest.approx(expected, abs=6e-4)
    assert weights.sum().item() == pytest.approx(1.0)
    assert not weights.requires_grad


def test_a_layer_that_finds_the_positives_weighs_most():
    scores = torch.zeros(3, 2, 4)
    positive = torch.tensor([1, 3])
    for layer, margin in enumerate((0.0, 4.0, 2.0)):
        scores[layer, torch.arange(2), positive] = margin
    losses = layer_losses(scores, positive)
    assert losses[0].item() == pytest.approx(math.log(4))
    assert layer_weights(losses, layer_temperature=1.0).argsort().tolist() == [0, 2, 1]


def test_layer_loss_equals_the_formula_by_hand():
    student, teacher = random_scores(2, 3, 4), random_scores(2, 3, 4, seed=1)
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    value = layer_distillation_loss(student, teacher, weights, teacher_temperature=0.5)
    expected = sum(
        weight * mean_divergence(2 * t, s)
        for weight, t, s in zip(weights.tolist(), teacher, student, strict=True)
    )
    assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("teacher_learns", [False, True])
def test_final_loss_equals_the_formula_by_hand(teacher_learns):
    student, teacher = random_scores(3, 4), random_scores(3, 4, seed=1)
    value = final_distillation_loss(
        student, teacher, teacher_temperature=0.5, teacher_learns=teacher_learns
    )
    expected = mean_divergence(2 * teacher, student)
    if teacher_learns:
        expected += mean_divergence(student, 2 * teacher)
    assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("teacher_learns", [False, True])
def test_the_teacher_gets_gradient_only_where_it_learns(teacher_learns):
    student = random_scores(2, 3, 4).requires_grad_()
    teacher = random_scores(2, 3, 4, seed=1).requires_grad_()
    settings = {"teacher_temperature": 1.0, "teacher_learns": teacher_learns}
    loss = layer_distillation_loss(student, teacher, torch.ones(2), **settings)
    loss = loss + final_distillation_loss(student[0], teacher[0], **settings)
    loss.backward()
    assert student.grad.abs().sum() > 0
    assert (teacher.grad is not None) == teacher_learns


def test_without_layers_nothing_is_added():
    empty = torch.zeros(0, 3, 4, requires_grad=True)
    loss = layer_distillation_loss(empty, empty, torch.zeros(0), teacher_temperature=1.0)
    assert loss.item() == 0.0


def test_half_precision_scores_are_compared_in_float32():
    student, teacher = random_scores(1, 2, 5).half(), random_scores(1, 2, 5, seed=1).half()
    settings = {"teacher_temperature": 0.1}
    value = layer_distillation_loss(student, teacher, torch.ones(1), **settings)
    exact = layer_distillation_loss(student.double(), teacher.double(), torch.ones(1), **settings)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_temperatures_that_are_not_positive_are_refused_by_name(value):
    scores = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="teacher_temperature"):
        final_distillation_loss(scores, scores, teacher_temperature=value)
    with pytest.raises(ValueError, match="layer_temperature"):
        layer_weights(torch.zeros(1), layer_temperature=value)
