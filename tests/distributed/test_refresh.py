"""Refreshes by processes set aside: real trainings on gloo ranks."""

import json
import time
from pathlib import Path

import pytest
import torch

from gazetteer.records import Ranks
from tests.support.ranks import run_on_ranks
from tests.support.runs import make_world, run_train

DEDICATED = {
    "refresh_mode": "dedicated",
    "refresh_index": "5",
    "train_retriever": True,
    "lr_retriever": 1e-2,
    "total_steps": 30,
    "accumulation_steps": 2,
    "save_freq": 1000,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def watched_run(ranks: Ranks, world: Path, name: str, **flags) -> list[dict] | int:
    """Train; what each version was that this trainer adopted, and when; or the exit code."""
    from gazetteer.indexing.embedding import RowEmbedder
    from gazetteer.indexing.keeper import IndexKeeper

    if ranks.is_set_aside:
        return run_train(world, ranks, name=name, **flags)
    now, adopted = [0], []
    original_tend, original_serve = IndexKeeper.tend, IndexKeeper._serve

    def tend(keeper: IndexKeeper, step: int, **due) -> bool:
        now[0] = step
        if keeper.in_progress is not None:
            time.sleep(0.02)  # Tiny models train faster than another process is scheduled.
        return original_tend(keeper, step, **due)

    def serve(keeper: IndexKeeper, version, vectors) -> None:
        tower = keeper._tower_with(version.weights)
        expected = torch.empty_like(vectors)
        RowEmbedder(tower, keeper._tokens, keeper.index.rows, keeper._retriever.batch,
                    out=expected, chunks=None).embed_all(show_progress=False)  # fmt: skip
        original_serve(keeper, version, vectors)
        adopted.append(
            {
                "ordered": version.step,
                "adopted": now[0],
                "weights": version.identity.encoder.weights,
                "error": float((keeper.index.embeddings - expected).abs().max()),
                "rows": len(vectors),
            }
        )

    IndexKeeper.tend, IndexKeeper._serve = tend, serve
    try:
        run_train(world, ranks, name=name, **flags)
    finally:
        IndexKeeper.tend, IndexKeeper._serve = original_tend, original_serve
    return adopted


def job(ranks, world):
    return watched_run(ranks, world, "dedicated", **DEDICATED)


def test_versions_are_adopted_whole_at_the_same_step(world: Path) -> None:
    first, second, code = run_on_ranks(job, 3, world, set_aside=1)
    assert code == 0
    assert len(first) >= 3
    assert [version["rows"] for version in (first[0], second[0])] == [20, 20]
    for one, other in zip(first, second, strict=True):
        for fact in ("ordered", "adopted", "weights"):
            assert one[fact] == other[fact]
        # The very vectors that a blocking refresh with the same weights would give.
        assert max(one["error"], other["error"]) < 1e-6
        assert one["ordered"] < one["adopted"]
    assert len({version["weights"] for version in first}) == len(first)
    log = (world / "experiments" / "dedicated" / "run.log").read_text()
    for version in first:
        assert f"searching the index of step {version['ordered']}" in log
    # Nothing is left of them, and metrics are those of two workers.
    assert not (world / "experiments" / "dedicated" / "refresh").exists()
    state = world / "experiments" / "dedicated" / "checkpoint" / "latest" / "state.json"
    assert json.loads(state.read_text())["position"]["examples"] == 30 * 2 * 2
