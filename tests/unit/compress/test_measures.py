from __future__ import annotations

import numpy as np
import pytest

from gazetteer.compress.measures import (
    MEASURES,
    Answered,
    answer_match,
    difference_interval,
    measure,
    ratio_interval,
)


def test_long_and_short_answers_are_told_apart() -> None:
    long = measure("It is the city of Oslo, in Norway.", ["Oslo", "Christiania"])
    assert (long["exact_match"], long["answer_match"]) == (0.0, 1.0)
    assert long["token_f1"] == 0.25  # seven words, "the" does not count
    assert long["answer_length"] == 8
    short = measure("the oslo!", ["Oslo"])
    assert [short[name] for name in MEASURES] == [1.0, 1.0, pytest.approx(2 / 3), 1.0, 2.0]


def test_an_answer_occurs_as_whole_words() -> None:
    assert answer_match("born in 1984", ["198"]) == 0.0
    assert answer_match("", ["the"]) == 0.0, "of this answer nothing is left"


def test_one_measure_per_question() -> None:
    said = Answered(("q", "r"), ("a b", "c"), (("a b",), ("d",)))
    assert said.measured()["exact_match"].tolist() == [1.0, 0.0]


def test_pairs_say_more_than_averages() -> None:
    """Both vary widely from question to question, their difference hardly."""
    hard = np.random.default_rng(1).random(200)
    low, high = difference_interval(hard * 0.9, hard)
    assert -0.06 < low < high < -0.04
    kept = ratio_interval(hard * 0.9, hard)
    assert kept is not None and kept == (pytest.approx(0.9), pytest.approx(0.9))


def test_nothing_is_a_share_of_nothing() -> None:
    assert ratio_interval(np.ones(3), np.array([0.0, 0.0, 0.0])) is None
