"""`--dry_run` of several workers: each tries out its step by itself."""

from __future__ import annotations

from pathlib import Path

from gazetteer.dense.step_on_meta import measure_training
from gazetteer.dry_run import plan, run_memory
from gazetteer.records import Ranks
from tests.support.dense_runs import dense_options_of, make_dense_world
from tests.support.ranks import run_on_ranks
from tests.support.runs import make_world, options_of


def plans(ranks: Ranks, world: Path, dense: Path) -> list[int]:
    """Peaks of a run with a reader, of the same with its state spread, and of a dense run."""
    options = [
        options_of(world, "train", train_retriever=True),
        options_of(world, "train", train_retriever=True, shard_grads=True),
        dense_options_of(dense, negatives_x_device=True),
    ]
    assert any(line.startswith("memory per worker: ") for line in plan(options[0], ranks))
    return [run_memory(each, ranks, measure_training).peak for each in options]


def test_every_worker_finds_the_same(tmp_path: Path) -> None:
    world, dense = make_world(tmp_path / "world"), make_dense_world(tmp_path / "dense")
    first, second = run_on_ranks(plans, 2, world, dense)
    assert first == second
    assert first[1] < first[0]
