import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazetteer.refresh_schedule import (
    FOREVER,
    RefreshRange,
    covers,
    first_gap,
    is_refresh_step,
    parse_refresh_schedule,
)


def refreshed(text, steps, *, train_retriever=True, freeze_steps=-1):
    schedule = parse_refresh_schedule(text)
    return [
        step for step in steps if is_refresh_step(schedule, step, train_retriever, freeze_steps)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-1", [RefreshRange(0, FOREVER, FOREVER)]),
        ("100", [RefreshRange(0, FOREVER, 100)]),
        ("100000000000", [RefreshRange(0, FOREVER, 100000000000)]),
        ("0-1000:500", [RefreshRange(0, 1000, 500)]),
        (
            "0-1000:500,1000-10000:2000",
            [RefreshRange(0, 1000, 500), RefreshRange(1000, 10000, 2000)],
        ),
        (" 0-10:5 , 10-20:1 ", [RefreshRange(0, 10, 5), RefreshRange(10, 20, 1)]),
    ],
)
def test_schedules_are_read(text, expected):
    assert parse_refresh_schedule(text) == tuple(expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' is not start-end:rate"),
        ("often", "'often' is not start-end:rate"),
        ("-2", "'-2' is not"),
        ("1.5", "'1.5' is not"),
        ("0-10", "'0-10' is not"),
        ("0-10:5,", "'' is not"),
        ("0-10:-1", "'0-10:-1' is not"),
        ("٣", "is not"),
        ("0", "rate 0"),
        ("0-10:0", "rate 0"),
        ("10-10:5", "ends before it starts"),
        ("0-10:5,20-10:5", "'20-10:5' ends before it starts"),
    ],
)
def test_malformed_schedules_are_refused_with_the_part_that_is_wrong(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_refresh_schedule(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-1", [0]),
        ("100", [0, 100, 200, 300]),
        ("0-100:50,100-300:100", [0, 50, 100, 200]),
        ("30-300:100", [0, 30, 130, 230]),
    ],
)
def test_refresh_steps_count_from_the_start_of_their_range(text, expected):
    assert refreshed(text, range(350)) == expected


def test_the_end_of_a_range_is_outside_it():
    assert refreshed("0-100:50", [50, 100]) == [50]


def test_the_first_range_that_contains_the_step_decides():
    assert refreshed("0-100:50,0-200:30", range(1, 200)) == [50, 120, 150, 180]


def test_never_means_one_refresh_in_two_to_the_32_steps():
    assert refreshed("-1", [FOREVER - 1, FOREVER]) == []


def test_without_retriever_training_only_step_zero_builds():
    assert refreshed("10", range(30), train_retriever=False) == [0]


def test_a_frozen_retriever_is_not_refreshed_until_it_thaws():
    assert refreshed("10", range(41), freeze_steps=20) == [0, 20, 30, 40]


def test_covers_tells_steps_no_range_speaks_about():
    schedule = parse_refresh_schedule("5-10:1,20-30:1")
    assert [step for step in range(31) if not covers(schedule, step)] == [
        *range(5),
        *range(10, 20),
        30,
    ]


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 8)), min_size=1, max_size=4),
    st.integers(0, 8),
    st.integers(0, 16),
)
def test_the_first_gap_is_the_first_run_of_steps_that_nothing_covers(ranges, start, end):
    schedule = tuple(RefreshRange(first, first + length, 1) for first, length in ranges)
    bare = [step for step in range(start, end) if not covers(schedule, step)]
    gap = first_gap(schedule, start, end)
    expected = [step for i, step in enumerate(bare) if step == bare[0] + i]
    assert list(gap or ()) == expected
