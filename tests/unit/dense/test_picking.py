"""Which passages are trained on when."""

from collections import Counter
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from gazetteer.dense.picking import Picker

COUNTS = st.integers(1, 12)
NUMBERS = st.integers(0, 10**6)


@given(COUNTS, NUMBERS, NUMBERS)
def test_each_positive_comes_once_in_so_many_epochs(count, seed, line):
    picker = Picker(negatives=1, seed=seed)
    found = [picker.positive(range(count), line, epoch) for epoch in range(count)]
    assert sorted(found) == list(range(count))


@given(COUNTS, COUNTS, NUMBERS, NUMBERS)
def test_negatives_come_equally_often(count, wanted, seed, line):
    picker = Picker(negatives=wanted, seed=seed)
    windows = [picker.pick_negatives(range(count), line, epoch) for epoch in range(count)]
    assert all(len(window) == wanted for window in windows)
    assert set(Counter(chain.from_iterable(windows)).values()) == {wanted}
    if wanted <= count:
        assert all(len(set(window)) == wanted for window in windows)


def test_lines_seeds_and_epochs_differ():
    orders = {
        tuple(Picker(negatives=6, seed=seed).pick_negatives(range(30), line, epoch))
        for seed in (0, 1)
        for line in (0, 1)
        for epoch in (0, 1)
    }
    starts = {Picker(negatives=1, seed=0).positive(range(30), line, 0) for line in range(30)}
    assert len(orders) == 8
    assert len(starts) > 10


def test_without_shuffling_the_first_are_taken():
    picker = Picker(negatives=3, seed=0, shuffles_positives=False, shuffles_negatives=False)
    assert picker.positive("ab", 5, 7) == "a"
    assert picker.pick_negatives("vwxyz", 5, 7) == ["v", "w", "x"]
    assert picker.pick_negatives("vw", 5, 7) == ["v", "w", "v"]


def test_no_negatives_are_none():
    assert Picker(negatives=3, seed=0).pick_negatives([], 0, 0) == []
    assert Picker(negatives=0, seed=0).pick_negatives(range(4), 0, 3) == []
