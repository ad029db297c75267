from __future__ import annotations

import torch

from gazetteer.index.candidates import Candidates
from gazetteer.index.shards import EMPTY_ROW


def some() -> Candidates:
    return Candidates(
        torch.tensor([2, 0, 2, 2, 0]),
        torch.tensor([5, 1, 7, 9, 3]),
        torch.tensor([0.5, 0.1, 0.7, 0.9, 0.3]),
        queries=4,
    )


def test_a_table_has_a_line_for_each_query() -> None:
    rows, scores = some().table()
    empty, none = EMPTY_ROW, float("-inf")
    assert rows.tolist() == [[1, 3, empty], [empty] * 3, [5, 7, 9], [empty] * 3]
    expected = torch.tensor([[0.1, 0.3, none], [none] * 3, [0.5, 0.7, 0.9], [none] * 3])
    assert torch.equal(scores, expected)


def test_a_table_and_back() -> None:
    rows, _ = some().table()
    back = Candidates.of_table(rows)
    assert back.queries == 4
    assert set(zip(back.query.tolist(), back.row.tolist(), strict=True)) == {
        (0, 1), (0, 3), (2, 5), (2, 7), (2, 9),
    }  # fmt: skip


def test_no_candidates_make_an_empty_table() -> None:
    nothing = some().where(torch.zeros(5, dtype=torch.bool))
    assert len(nothing) == 0
    assert nothing.table()[0].shape == (4, 0)
    empty = torch.zeros(0, dtype=torch.int64)
    assert Candidates(empty, empty, torch.zeros(0), 0).table()[0].shape == (0, 0)


def test_lists_are_joined_and_picked_from() -> None:
    both = Candidates.joined([some(), some().where(torch.tensor([True, False, True, False, True]))])
    assert both.row.tolist() == [5, 1, 7, 9, 3, 5, 7, 3]
    assert both.query.tolist() == [2, 0, 2, 2, 0, 2, 2, 0]
