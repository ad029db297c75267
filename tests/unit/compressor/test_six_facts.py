"""The six-facts gate, a row of each kind with one seed; all: python -m benchmarks.six_facts."""

import pytest

from benchmarks.six_facts import Result, accuracy, rows, train

ROWS = rows()
SHORT = 500
"""Steps that T5 and the plain encoder need; the others need all."""


@pytest.mark.parametrize(
    ("name", "steps"),
    [("t5-memory", SHORT), ("plain-mean", SHORT), ("modernbert-memory", 1200)],
)
def test_the_question_reaches_the_compressor(name: str, steps: int) -> None:
    """One vector of six facts answers what it was asked when it was made, and nothing else."""
    row = ROWS[f"{name}-asks"]
    model = train(row, seed=0, steps=steps)
    assert accuracy(model, row) >= row.least == 0.95
    assert accuracy(model, row, shift=1) <= 0.40


@pytest.mark.parametrize("name", ["t5-memory", "plain-mean"])
def test_without_the_question_one_vector_is_too_little(name: str) -> None:
    row = ROWS[f"{name}-blind"]
    assert accuracy(train(row, seed=0, steps=SHORT), row) <= row.most == 0.40


def test_every_kind_and_pooling_has_its_rows() -> None:
    assert {(row.kind, row.pooling) for row in ROWS.values()} == {
        (kind, pooling)
        for kind in ("n_layers", "encoder", "pool")
        for pooling in ("memory", "mean", "first")
    }


def test_a_seed_out_of_bounds_fails_its_row() -> None:
    row = ROWS["t5-memory-asks"]
    assert Result([0.99, 0.95], [0.15], 1.0).passes(row)
    assert not Result([0.99, 0.94], [0.15], 1.0).passes(row)
    assert not Result([0.99], [0.41], 1.0).passes(row)
    assert not Result([0.41], [], 1.0).passes(ROWS["t5-memory-blind"])
