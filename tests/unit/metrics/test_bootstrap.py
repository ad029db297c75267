"""Intervals against theory: where the mean is normal, and where it is binomial."""

import numpy as np
import pytest

from gazetteer.metrics.bootstrap import bootstrap_interval


def test_the_interval_of_a_share_is_that_of_the_binomial() -> None:
    values = np.r_[np.ones(300), np.zeros(700)]
    low, high = bootstrap_interval(values)
    wide = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert (low, high) == (pytest.approx(0.3 - wide, abs=4e-3), pytest.approx(0.3 + wide, abs=4e-3))


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(300):
        low, high = bootstrap_interval(generator.exponential(size=60))
        inside += low <= 1.0 <= high
    assert 0.88 <= inside / 300 <= 0.98


def test_the_same_values_give_the_same_interval() -> None:
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values) == bootstrap_interval(values.copy())
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_one_value_and_equal_values_have_no_spread() -> None:
    assert bootstrap_interval(np.array([0.25])) == (0.25, 0.25)
    assert bootstrap_interval(np.full(9, 2.0)) == (2.0, 2.0)


def test_a_wider_share_is_a_wider_interval() -> None:
    values = np.random.default_rng(0).random(50)
    (low, high), (lower, higher) = (bootstrap_interval(values, share=s) for s in (0.5, 0.99))
    assert lower < low < high < higher


def test_many_values_are_drawn_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(100)
    monkeypatch.setattr("gazetteer.metrics.bootstrap.DRAWS_AT_ONCE", 250)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
