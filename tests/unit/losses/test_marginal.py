"""Marginal likelihood losses: per token (`emdr`) and per sequence (`emdr2`)."""

import math

import pytest
import torch
import torch.nn.functional as F

from gazetteer.losses import sequence_marginal_loss, token_marginal_loss

MASK = torch.tensor(
    [[True, True, True, True], [True, True, False, False], [False, True, True, False]]
)


def random_inputs(dtype=torch.float64):
    """Scores (3, 2) and log-probabilities (3, 2, 4) of labels from a vocabulary of 5."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(3, 2, generator=generator, dtype=dtype)
    logits = torch.randn(3, 2, 4, 5, generator=generator, dtype=dtype)
    return scores, F.log_softmax(logits, dim=-1)[..., 0]


def priors_by_hand(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def token_marginal_by_hand(scores, log_probs, mask, temperature: float) -> float:
    total, tokens = 0.0, 0
    for query, row in enumerate(scores.tolist()):
        prior = priors_by_hand(row, temperature)
        for position in range(mask.shape[1]):
            if mask[query, position]:
                likelihood = sum(
                    p * math.exp(log_probs[query, k, position]) for k, p in enumerate(prior)
                )
                total -= math.log(likelihood)
                tokens += 1
    return total / tokens


def sequence_marginal_by_hand(scores, log_probs, mask, temperature: float) -> float:
    total = 0.0
    for query, row in enumerate(scores.tolist()):
        likelihood = 0.0
        for k, p in enumerate(priors_by_hand(row, temperature)):
            positions = [t for t in range(mask.shape[1]) if mask[query, t]]
            likelihood += p * math.prod(math.exp(log_probs[query, k, t]) for t in positions)
        total -= math.log(likelihood)
    return total / len(scores)


BY_HAND = [
    (token_marginal_loss, token_marginal_by_hand),
    (sequence_marginal_loss, sequence_marginal_by_hand),
]
LOSSES = [token_marginal_loss, sequence_marginal_loss]


@pytest.mark.parametrize(("loss", "by_hand"), BY_HAND)
def test_value_equals_the_formula_by_hand(loss, by_hand):
    scores, log_probs = random_inputs()
    value = loss(scores, log_probs, MASK, retriever_temperature=0.6)
    assert value.item() == pytest.approx(by_hand(scores, log_probs, MASK, 0.6), rel=1e-12)


def test_per_token_and_per_sequence_differ_on_the_same_input():
    scores = torch.zeros(1, 2)
    log_probs = torch.log(torch.tensor([[[0.9, 0.1], [0.1, 0.9]]]))
    mask = torch.ones(1, 2, dtype=torch.bool)
    per_token = token_marginal_loss(scores, log_probs, mask, retriever_temperature=1.0)
    per_sequence = sequence_marginal_loss(scores, log_probs, mask, retriever_temperature=1.0)
    assert per_token.item() == pytest.approx(-math.log(0.5))
    assert per_sequence.item() == pytest.approx(-math.log(0.09), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_equals_finite_differences(loss):
    scores, log_probs = random_inputs()
    assert torch.autograd.gradcheck(
        lambda s: loss(s, log_probs, MASK, retriever_temperature=0.5), scores.requires_grad_()
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_reaches_scores_and_not_the_reader(loss):
    scores, log_probs = random_inputs()
    scores.requires_grad_()
    log_probs.requires_grad_()
    loss(scores, log_probs, MASK, retriever_temperature=1.0).backward()
    assert log_probs.grad is None
    assert scores.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_zero_where_all_passages_are_equally_good(loss):
    scores, log_probs = random_inputs()
    scores.requires_grad_()
    same = log_probs[:, :1].expand(-1, 2, -1)
    loss(scores, same, MASK, retriever_temperature=0.1).backward()
    assert scores.grad.abs().max() < 1e-12


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rubbish", [-123.0, float("-inf"), float("nan")])
def test_masked_positions_do_not_matter_whatever_they_hold(loss, rubbish):
    scores, log_probs = random_inputs()
    expected = loss(scores, log_probs, MASK, retriever_temperature=1.0)
    spoilt = log_probs.masked_fill(~MASK.unsqueeze(1), rubbish)
    scores.requires_grad_()
    value = loss(scores, spoilt, MASK, retriever_temperature=1.0)
    value.backward()
    assert value.item() == expected.item()
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_target_without_tokens_teaches_nothing(loss):
    scores, log_probs = random_inputs()
    scores.requires_grad_()
    value = loss(scores, log_probs, torch.zeros_like(MASK), retriever_temperature=1.0)
    value.backward()
    assert abs(value.item()) < 1e-12
    assert scores.grad.abs().max() < 1e-12


def test_padding_adds_no_rounding_noise_to_the_token_average():
    scores = torch.randn(5, 40, generator=torch.Generator().manual_seed(6)).requires_grad_()
    padding = torch.zeros(5, 7, dtype=torch.bool)
    value = token_marginal_loss(scores, torch.zeros(5, 40, 7), padding, retriever_temperature=1.0)
    value.backward()
    assert value.item() == 0
    assert scores.grad.abs().max() == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_smaller_temperature_approaches_the_best_scored_passage_alone(loss):
    scores, log_probs = random_inputs()
    best = scores.argmax(dim=1, keepdim=True)
    alone = log_probs.take_along_dim(best.unsqueeze(-1), dim=1)
    expected = loss(scores[:, :1], alone, MASK, retriever_temperature=1.0)
    value = loss(scores, log_probs, MASK, retriever_temperature=1e-3)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_computed_in_float32(loss, dtype):
    scores, log_probs = (tensor.to(dtype) for tensor in random_inputs())
    value = loss(scores, log_probs, MASK, retriever_temperature=0.01)
    exact = loss(scores.double(), log_probs.double(), MASK, retriever_temperature=0.01)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)


def test_very_unlikely_long_targets_stay_finite():
    log_probs = torch.full((1, 2, 300), -50.0)
    mask = torch.ones(1, 300, dtype=torch.bool)
    value = sequence_marginal_loss(torch.zeros(1, 2), log_probs, mask, retriever_temperature=1.0)
    assert value.item() == pytest.approx(15_000.0)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_token_average_over_workers_is_the_whole_given_the_global_count(parts):
    scores, log_probs = random_inputs()
    whole = token_marginal_loss(scores, log_probs, MASK, retriever_temperature=0.3)
    # torch.tensor_split gives uneven parts: workers differ in queries and in tokens.
    pieces = zip(
        scores.tensor_split(parts),
        log_probs.tensor_split(parts),
        MASK.tensor_split(parts),
        strict=True,
    )
    count = MASK.sum() / parts
    values = [
        token_marginal_loss(s, g, m, retriever_temperature=0.3, token_count=count)
        for s, g, m in pieces
    ]
    assert torch.stack(values).mean().item() == pytest.approx(whole.item(), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_temperature_that_is_not_positive_is_refused_by_name(loss):
    scores, log_probs = random_inputs()
    with pytest.raises(ValueError, match="retriever_temperature must be positive, got 0"):
        loss(scores, log_probs, MASK, retriever_temperature=0.0)
