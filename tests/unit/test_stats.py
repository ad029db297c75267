from __future__ import annotations

import time
from itertools import count

import pytest
import torch

from gazetteer.stats import Stopwatch, WeightedStats


def test_averages_are_weighted() -> None:
    stats = WeightedStats()
    stats.add("loss", 1.0, weight=3)
    stats.add("loss", torch.tensor(5.0), weight=1)
    stats.add("seconds", 2.0)
    stats.add("seconds", 4.0)
    assert stats.averages() == {"loss": 2.0, "seconds": 3.0}


def test_many_small_numbers_keep_their_digits() -> None:
    stats = WeightedStats()
    stats.add("loss", 1e8)
    for _ in range(1000):
        stats.add("loss", 1.0)
    assert stats.averages()["loss"] == pytest.approx((1e8 + 1000) / 1001, rel=1e-12)


def test_names_without_weight_are_left_out() -> None:
    stats = WeightedStats()
    assert stats.averages() == {}
    stats.add("empty batch", 0.0, weight=0)
    assert stats.averages() == {}


def test_values_do_not_keep_the_graph_alive() -> None:
    weight = torch.ones((), requires_grad=True)
    stats = WeightedStats()
    stats.add("loss", weight * 2)
    assert stats.averages() == {"loss": 2.0}
    assert not any(torch.as_tensor(value).requires_grad for value, _ in stats._values["loss"])


def test_a_stopwatch_adds_up_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count(start=10, step=2)
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    clock = Stopwatch()
    with clock.time("forward"):
        pass
    with clock.time("forward"), clock.time("inner"):
        pass
    assert clock.seconds == {"forward": 8.0, "inner": 2.0}


def test_a_stopwatch_counts_what_ends_in_an_error() -> None:
    clock = Stopwatch()
    with pytest.raises(ValueError), clock.time("backward"):
        raise ValueError
    assert clock.seconds["backward"] >= 0
