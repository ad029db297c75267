from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gazetteer.compress.costs import Race, kept_bytes, race
from tests.support.tiny_causal import tiny_llama
from tests.support.tiny_models import tiny_t5


def test_a_network_compared_with_itself_is_as_fast() -> None:
    model, ids = tiny_llama(), torch.ones(1, 8, dtype=torch.long)
    calls: list[int] = []

    @torch.no_grad()
    def work(number: int) -> None:
        calls.append(number)
        model(ids)

    timed = race(work, work, warm_up=3, trials=40, finish=lambda: None)
    low, high = timed.interval(share=0.9999)
    assert low <= 1.0 <= high, "wrong once in ten thousand"
    assert timed.baseline.shape == timed.other.shape == (40,)
    assert calls[:4] == [0, 0, 1, 1] and len(calls) == 86


def test_the_one_that_goes_first_changes() -> None:
    """What is slow the first time in a round is slow for both as often."""
    order: list[str] = []
    race(
        lambda _: order.append("a"),
        lambda _: order.append("b"),
        warm_up=0,
        trials=3,
        finish=lambda: None,
    )
    assert "".join(order) == "abbaab"


def test_twice_as_fast_is_twice() -> None:
    seconds = np.array([0.1, 0.2, 0.4])
    timed = Race(2 * seconds, seconds)
    assert timed.speedup == pytest.approx(2.0)
    assert timed.interval() == (pytest.approx(2.0), pytest.approx(2.0))
    slow = race(
        lambda _: time.sleep(0.002), lambda _: None, warm_up=0, trials=5, finish=lambda: None
    )
    assert slow.speedup > 2


def test_kept_bytes_are_those_of_the_shapes() -> None:
    model = tiny_llama(layers=3)
    with kept_bytes(model) as found, torch.no_grad():
        model(torch.ones(1, 7, dtype=torch.long), use_cache=True)
    # Keys and values, layers, heads of them, length of a head, tokens, float32.
    assert set(found) == {2 * 3 * 2 * 8 * 7 * 4}
    with kept_bytes(model) as found, torch.no_grad():
        model(torch.ones(1, 7, dtype=torch.long), use_cache=False)
    assert found == []


def test_kept_bytes_of_a_t5_are_those_of_both_attentions() -> None:
    model = tiny_t5(layers=2)
    with kept_bytes(model) as found, torch.no_grad():
        model(
            input_ids=torch.ones(1, 9, dtype=torch.long),
            decoder_input_ids=torch.ones(1, 2, dtype=torch.long),
            use_cache=True,
        )
    assert found[-1] == 2 * 2 * 2 * 16 * (9 + 2) * 4


def test_flops_of_two_equal_calls_are_equal() -> None:
    model, ids = tiny_llama(), torch.ones(1, 8, dtype=torch.long)
    counts = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(ids)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
