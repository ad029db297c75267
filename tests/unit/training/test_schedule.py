"""Learning-rate factors against Atlas's values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazetteer.training.schedule import learning_rate_factor

WARMUP, TOTAL = 100, 500
KINDS = ["linear", "cosine", "fixed"]


@pytest.mark.parametrize(
    ("kind", "step", "factor"),
    [
        ("cosine", 0, 0.0),
        ("cosine", 50, 0.5),
        ("cosine", 100, 1.0),
        ("cosine", 200, 0.931),
        ("cosine", 300, 0.736),
        ("cosine", 400, 0.444),
        ("cosine", 500, 0.1),
        ("cosine", 528, 0.1),
        ("cosine", 5000, 0.1),
        ("linear", 0, 0.1),
        ("linear", 50, 0.55),
        ("linear", 100, 1.0),
        ("linear", 300, 0.55),
        ("linear", 500, 0.1),
        ("linear", 520, 0.055),
        ("linear", 5000, 0.0),
        ("fixed", 0, 0.0),
        ("fixed", 50, 0.5),
        ("fixed", 100, 1.0),
        ("fixed", 5000, 1.0),
    ],
)
def test_factor_is_that_of_atlas(kind, step, factor):
    value = learning_rate_factor(kind, step, warmup_steps=WARMUP, total_steps=TOTAL)
    assert value == pytest.approx(factor, abs=5e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_without_warmup_the_first_step_is_at_the_peak(kind):
    assert learning_rate_factor(kind, 0, warmup_steps=0, total_steps=10) == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_schedule_may_be_all_warmup(kind):
    assert learning_rate_factor(kind, 10, warmup_steps=10, total_steps=10) == 1.0
    before = learning_rate_factor(kind, 9, warmup_steps=10, total_steps=10)
    assert 0.89 < before < 1.0


def test_zero_steps_of_everything_is_legal():
    assert learning_rate_factor("linear", 0, warmup_steps=0, total_steps=0) == 1.0


@given(
    kind=st.sampled_from(KINDS),
    step=st.integers(0, 3000),
    warmup_steps=st.integers(0, 1000),
    total_steps=st.integers(0, 2000),
)
def test_factor_stays_between_zero_and_one_and_never_rises_after_the_warmup(
    kind, step, warmup_steps, total_steps
):
    now, later = (
        learning_rate_factor(kind, s, warmup_steps=warmup_steps, total_steps=total_steps)
        for s in (step, step + 1)
    )
    assert 0.0 <= now <= 1.0
    assert later > now if step < warmup_steps else later <= now
