"""Which rows become the negatives of a line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from gazetteer.dense.mining import (
    FROM_BEFORE,
    KEPT,
    WITHOUT,
    Judged,
    MiningSettings,
    choose_rows,
)
from gazetteer.mining.filters import DUPLICATE, JUDGED, NEAR_POSITIVE

FOUND = np.asarray([7, 3, 9, 1, 5, 8])
SCORES = np.asarray([10.0, 9.8, 9.5, 9.0, 5.0, 1.0])


def tokens_of(rows: np.ndarray) -> Sequence[np.ndarray]:
    """Rows 1 and 5 say the same."""
    return [np.asarray([2, 1 if row == 5 else row, 3]) for row in rows]


def chosen(
    judged: Judged | None = None, before: Sequence[int] = (), seed: int = 0, **settings: object
) -> tuple[list[int], dict[str, int]]:
    defaults = {"negatives": 3, "depth": 6, "margin": None, "new_texts": False, "memory": 0.0}
    rows, counts = choose_rows(
        FOUND,
        SCORES,
        judged or Judged(np.asarray([], dtype=np.int64), ()),
        np.asarray(before, dtype=np.int64),
        MiningSettings(**(defaults | settings), seed=0, query_tokens=8),  # type: ignore[arg-type]
        np.random.default_rng(seed),
        tokens_of,
    )
    return rows.tolist(), dict(counts)


def test_positives_are_never_negatives_and_the_rest_is_drawn() -> None:
    judged = Judged(np.asarray([3, 77, 8]), ())
    draws = [chosen(judged, seed=seed) for seed in range(20)]
    assert all(set(rows) <= {7, 9, 1, 5} and len(set(rows)) == 3 for rows, _ in draws)
    assert len({tuple(rows) for rows, _ in draws}) > 5
    assert chosen(judged) == chosen(judged)
    assert draws[0][1] == {JUDGED: 2, KEPT: 3, FROM_BEFORE: 0, WITHOUT: 0}


def test_what_scores_too_close_to_the_positive_is_dropped() -> None:
    rows, counts = chosen(Judged(np.asarray([7]), ()), margin=0.05, negatives=6)
    assert sorted(rows) == [1, 5, 8, 9]
    assert counts[NEAR_POSITIVE] == 1
    # A query whose positive was not found keeps its candidates.
    assert len(chosen(Judged(np.asarray([77]), ()), margin=0.05, negatives=6)[0]) == 6


def test_texts_of_positives_that_are_no_passages_are_known_by_their_tokens() -> None:
    judged = Judged(np.asarray([], dtype=np.int64), (np.asarray([2, 9, 3]),))
    rows, counts = chosen(judged, negatives=6)
    assert sorted(rows) == [1, 3, 5, 7, 8]
    assert counts[DUPLICATE] == 1
    rows, counts = chosen(Judged(np.asarray([5]), ()), negatives=6, new_texts=True)
    assert (sorted(rows), counts[DUPLICATE]) == ([3, 7, 8, 9], 1)
    rows, counts = chosen(negatives=6, new_texts=True)
    assert (len(rows), counts[DUPLICATE]) == (5, 1)


@pytest.mark.parametrize(("memory", "expected"), [(0.0, 0), (0.5, 2), (1.0, 3)])
def test_a_share_stays_from_the_last_time(memory: float, expected: int) -> None:
    before = [100, 9, 101, 3]
    rows, counts = chosen(Judged(np.asarray([3]), ()), before, memory=memory, negatives=4)
    assert counts[FROM_BEFORE] == len([row for row in rows if row in (100, 9, 101)][:expected])
    assert counts[FROM_BEFORE] == expected
    assert len(set(rows)) == 4
    assert 3 not in rows


def test_nothing_may_be_left() -> None:
    rows, counts = chosen(Judged(FOUND, ()))
    assert rows == []
    assert counts[WITHOUT] == 1
