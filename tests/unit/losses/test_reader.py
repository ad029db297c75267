"""The reader's token-mean cross-entropy and its denominator."""

import math

import pytest
import torch

from gazetteer.losses import IGNORED_LABEL, reader_loss, target_mask_of
from gazetteer.losses.reader import average_over_tokens

LABELS = torch.tensor([[1, 0, 2], [3, IGNORED_LABEL, IGNORED_LABEL], [2, 2, IGNORED_LABEL]])


def random_logits(dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, 3, 4, generator=generator, dtype=dtype)


def reader_loss_by_hand(logits, labels) -> float:
    losses = []
    for row, labels_of_row in zip(logits.tolist(), labels.tolist(), strict=True):
        for scores, label in zip(row, labels_of_row, strict=True):
            if label != IGNORED_LABEL:
                losses.append(math.log(sum(map(math.exp, scores))) - scores[label])
    return sum(losses) / len(losses)


def test_value_equals_the_formula_by_hand():
    value = reader_loss(random_logits(), LABELS)
    assert value.item() == pytest.approx(reader_loss_by_hand(random_logits(), LABELS), rel=1e-12)


def test_mask_marks_the_labels_that_count():
    assert target_mask_of(LABELS).sum(dim=1).tolist() == [3, 1, 2]


def test_gradient_equals_finite_differences():
    assert torch.autograd.gradcheck(
        lambda logits: reader_loss(logits, LABELS), random_logits().requires_grad_()
    )


def test_ignored_positions_get_no_gradient():
    logits = random_logits().requires_grad_()
    reader_loss(logits, LABELS).backward()
    assert logits.grad[LABELS == IGNORED_LABEL].abs().max() == 0
    assert logits.grad[LABELS != IGNORED_LABEL].abs().min() > 0


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_average_over_workers_is_the_whole_given_the_global_count(parts, as_tensor):
    logits = random_logits().requires_grad_()
    whole = reader_loss(logits, LABELS)
    (whole_gradient,) = torch.autograd.grad(whole, logits)
    count = target_mask_of(LABELS).sum() / parts
    values = [
        reader_loss(part, labels, token_count=count if as_tensor else float(count))
        for part, labels in zip(logits.tensor_split(parts), LABELS.tensor_split(parts), strict=True)
    ]
    average = torch.stack(values).mean()
    (gradient,) = torch.autograd.grad(average, logits)
    assert average.item() == pytest.approx(whole.item(), rel=1e-6)
    torch.testing.assert_close(gradient, whole_gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("count", [None, 0.0, torch.tensor(0), torch.tensor(0.0)])
def test_batch_without_target_tokens_gives_zero_and_a_zero_gradient(count):
    logits = random_logits().requires_grad_()
    value = reader_loss(logits, torch.full((3, 3), IGNORED_LABEL), token_count=count)
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("count", [0.25, torch.tensor(0.25), torch.tensor(0.25).double()])
def test_less_than_one_token_per_worker_is_divided_by_exactly(count):
    """One token on four workers: the worker that has it divides by a quarter."""
    total = average_over_tokens(torch.tensor(2.0), torch.ones(1, 1, dtype=torch.bool), count)
    assert total.item() == 8.0
    assert total.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits = random_logits(dtype)
    value = reader_loss(logits, LABELS)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(reader_loss(logits.double(), LABELS).item(), rel=1e-5)
