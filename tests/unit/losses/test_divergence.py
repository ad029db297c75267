"""The three distillation losses: one divergence, three reader signals."""

import math

import pytest
import torch
from torch import Tensor

from gazetteer.losses import (
    attention_distillation_loss,
    leave_one_out_distillation_loss,
    perplexity_distillation_loss,
)
from gazetteer.losses.divergence import reader_to_retriever_divergence

DISTILLATION_LOSSES = [
    perplexity_distillation_loss,
    attention_distillation_loss,
    leave_one_out_distillation_loss,
]
EQUAL_TEMPERATURES = {"retriever_temperature": 1.0, "reader_temperature": 1.0}


def random_inputs(queries: int, passages: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, queries, passages)
    scores, signal = torch.randn(shape, generator=generator, dtype=torch.float64)
    return scores, signal


def softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def divergence_by_hand(
    scores: list[list[float]], signal: list[list[float]], score_t: float, signal_t: float
) -> float:
    """KL per query, summed, over the number of cells: floats and loops only."""
    total = 0.0
    for score_row, signal_row in zip(scores, signal, strict=True):
        retriever, reader = softmax(score_row, score_t), softmax(signal_row, signal_t)
        total += sum(q * math.log(q / p) for q, p in zip(reader, retriever, strict=True))
    return total / (len(scores) * len(scores[0]))


@pytest.mark.parametrize("loss", DISTILLATION_LOSSES)
def test_value_equals_the_formula_by_hand(loss):
    scores, signal = random_inputs(3, 4)
    expected = divergence_by_hand(scores.tolist(), signal.tolist(), 0.7, 0.3)
    value = loss(scores, signal, retriever_temperature=0.7, reader_temperature=0.3)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_value_for_atlas_default_number_of_passages_is_one_fortieth_of_the_textbook():
    """A reader sure of one of 40 passages against an indifferent retriever: log(40) / 40."""
    signal = torch.zeros(1, 40)
    signal[0, 7] = 1000.0
    value = reader_to_retriever_divergence(torch.zeros(1, 40), signal, **EQUAL_TEMPERATURES)
    assert value.item() == pytest.approx(math.log(40) / 40, rel=1e-6)


@pytest.mark.parametrize("loss", DISTILLATION_LOSSES)
def test_is_zero_without_gradient_where_distributions_agree(loss):
    scores, _ = random_inputs(3, 4)
    scores.requires_grad_()
    signal = 2.0 * scores.detach() + 5.0
    value = loss(scores, signal, retriever_temperature=0.5, reader_temperature=1.0)
    value.backward()
    assert abs(value.item()) < 1e-12
    assert scores.grad.abs().max() < 1e-12


@pytest.mark.parametrize("loss", DISTILLATION_LOSSES)
def test_gradient_pulls_up_the_passage_with_the_higher_signal(loss):
    scores = torch.zeros(1, 3, requires_grad=True)
    loss(scores, torch.tensor([[-2.0, 3.0, -2.0]]), **EQUAL_TEMPERATURES).backward()
    assert scores.grad[0, 1] < 0 < scores.grad[0, 0]


def test_gradient_equals_finite_differences():
    scores, signal = random_inputs(2, 3)
    assert torch.autograd.gradcheck(
        lambda s: reader_to_retriever_divergence(
            s, signal, retriever_temperature=0.5, reader_temperature=0.8
        ),
        scores.requires_grad_(),
    )


@pytest.mark.parametrize("loss", DISTILLATION_LOSSES)
def test_signal_is_a_constant(loss):
    scores, signal = random_inputs(2, 3)
    scores.requires_grad_()
    signal.requires_grad_()
    loss(scores, signal, **EQUAL_TEMPERATURES).backward()
    assert signal.grad is None
    assert scores.grad.abs().sum() > 0


def test_smaller_reader_temperature_trusts_the_best_passage_more():
    signal = torch.tensor([[0.1, 0.0, 0.0]])
    values = [
        reader_to_retriever_divergence(
            torch.zeros(1, 3), signal, retriever_temperature=1.0, reader_temperature=temperature
        ).item()
        for temperature in (1.0, 0.1, 0.01)
    ]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(math.log(3) / 3, rel=1e-2)


def test_smaller_retriever_temperature_makes_a_wrong_ranking_dearer():
    scores, signal = torch.tensor([[0.0, 0.2]]), torch.tensor([[5.0, 0.0]])
    mild, sharp = (
        reader_to_retriever_divergence(
            scores, signal, retriever_temperature=temperature, reader_temperature=1.0
        )
        for temperature in (1.0, 0.1)
    )
    assert sharp > mild


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_inputs_are_computed_in_float32(dtype):
    scores, signal = (tensor.to(dtype) for tensor in random_inputs(2, 5))
    temperatures = {"retriever_temperature": 0.01, "reader_temperature": 0.01}
    value = reader_to_retriever_divergence(scores, signal, **temperatures)
    assert value.dtype == torch.float32
    exact = reader_to_retriever_divergence(scores.double(), signal.double(), **temperatures)
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_average_over_workers_with_equally_many_queries_is_the_whole(parts):
    scores, signal = random_inputs(6, 4)
    temperatures = {"retriever_temperature": 0.1, "reader_temperature": 0.1}
    whole = reader_to_retriever_divergence(scores, signal, **temperatures)
    pieces = [
        reader_to_retriever_divergence(s, g, **temperatures)
        for s, g in zip(scores.chunk(parts), signal.chunk(parts), strict=True)
    ]
    assert torch.stack(pieces).mean().item() == pytest.approx(whole.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["retriever_temperature", "reader_temperature"])
@pytest.mark.parametrize("loss", DISTILLATION_LOSSES)
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_temperature_that_is_not_positive_is_refused_by_name(loss, name, value):
    scores, signal = random_inputs(1, 2)
    with pytest.raises(ValueError, match=name):
        loss(scores, signal, **{**EQUAL_TEMPERATURES, name: value})
