"""A test collection searched by several workers gives the run and the measures of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from gazetteer.ir.runs import read_run
from gazetteer.records import Ranks
from tests.support.ranks import run_on_ranks
from tests.support.runs import logged, make_world, run_evaluate
from tests.support.tiny_data import write_collection

pytest.importorskip("ir_measures")


def job(ranks: Ranks, world: Path) -> None:
    run_evaluate(world, ranks, name=f"judged{ranks.world_size}", retrieve_only=True, task=None,
                 reader_model_type=None, eval_data=world / "toy", passages=None, n_context=9,
                 write_results=True)  # fmt: skip


def test_a_collection_is_searched_alike_by_all_numbers_of_workers(tmp_path: Path) -> None:
    world = make_world(tmp_path, corpus=1, train=1, dev=1)
    # Seven queries, two at a time: on three workers one is without queries in the end.
    write_collection(world / "toy", documents=30, queries=7)
    job(Ranks(), world)
    run_on_ranks(job, 3, world)
    folders = [world / "experiments" / f"judged{n}" for n in (1, 3)]
    assert logged(world, "judged3", "eval") == logged(world, "judged1", "eval")
    for name in ("toy-step-0.tsv", "toy-step-0.jsonl"):
        first, second = ((folder / name).read_bytes() for folder in folders)
        assert first == second
    one, three = (read_run(folder / "toy-step-0.trec", flag="--f") for folder in folders)
    assert list(one) == list(three)
    for query, found in one.items():
        # Queries are embedded in other batches, which may change the last digit.
        assert list(found) == list(three[query])
        assert found == pytest.approx(three[query], rel=1e-5)
