from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazetteer.index.shards import overlap, shard_range

COUNTS = st.integers(0, 10_000)
PARTS = st.integers(1, 64)


@given(COUNTS, PARTS)
def test_ranges_hold_each_row_once_in_order(count: int, parts: int) -> None:
    ranges = [shard_range(count, part, parts) for part in range(parts)]
    assert [row for part in ranges for row in part] == list(range(count))


@given(COUNTS, PARTS)
def test_ranges_are_as_even_as_possible(count: int, parts: int) -> None:
    sizes = {len(shard_range(count, part, parts)) for part in range(parts)}
    assert sizes <= {count // parts, -(-count // parts)}


@pytest.mark.parametrize("part", [-1, 3])
def test_a_part_that_is_not_there_is_refused(part: int) -> None:
    with pytest.raises(ValueError, match=rf"0\.\.2, got {part}"):
        shard_range(10, part, 3)


RANGES = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: range(*sorted(pair)))


@given(RANGES, RANGES)
def test_overlap_holds_the_rows_of_both(first: range, second: range) -> None:
    assert set(overlap(first, second)) == set(first) & set(second)
