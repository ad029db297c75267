"""Averages and intervals: units, order, and who saw what."""

import pytest

from gazetteer.evaluation.totals import Measured, Totals
from gazetteer.records import Example, Ranks
from tests.support.ranks import run_on_ranks

NAMES = ("f1", "eval_loss", "unseen")


def example(number: int) -> Example:
    return Example(example_id=number, query="")


def value(number: int) -> float:
    return (number * 37 % 100) / 100


def test_averages_are_in_percent_but_for_the_loss() -> None:
    totals = Totals()
    totals.add({"f1": 0.5}, example(0))
    totals.add({"f1": 1.0}, example(1))
    totals.add_unit({"eval_loss": 2.0}, 0)
    measured = totals.measured(NAMES)
    assert measured.averages == {"f1": 75.0, "eval_loss": 2.0}
    assert list(measured.intervals) == ["f1", "eval_loss"]
    assert measured.intervals["f1"] == (50.0, 100.0)


def test_examples_of_one_line_are_resampled_together() -> None:
    apart, together = Totals(), Totals(examples_per_line=4)
    for number in range(80):
        for totals in (apart, together):
            totals.add({"f1": float(number // 4 % 2)}, example(number))
    (low, high), (lower, higher) = (t.measured(NAMES).intervals["f1"] for t in (apart, together))
    assert (higher - lower) / (high - low) == pytest.approx(2, rel=0.25)
    assert apart.measured(NAMES).averages == together.measured(NAMES).averages == {"f1": 50.0}


def test_nothing_seen_is_nothing_measured() -> None:
    assert Totals().measured(NAMES) == Measured({}, {})


def measure(ranks: Ranks, backwards: bool = False) -> Measured:
    numbers = range(ranks.rank, 101, ranks.world_size)
    totals = Totals()
    for number in reversed(numbers) if backwards else numbers:
        totals.add({"f1": value(number)}, example(number))
    return totals.measured(NAMES)


def test_neither_the_workers_nor_their_order_matter() -> None:
    alone = measure(Ranks())
    assert measure(Ranks(), backwards=True) == alone
    assert run_on_ranks(measure, 3) == [alone] * 3
