"""The dense step on 1, 2 and 3 gloo ranks: gradients and loss are those of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gazetteer.dense.grad_cache import ChunkSizes
from gazetteer.dense.step import DenseLesson, DenseStep
from gazetteer.dense.towers import Towers
from gazetteer.distributed.replicas import replicate, without_averaging
from gazetteer.records import Ranks
from gazetteer.stats import WeightedStats
from tests.support.dense_batches import PASSAGES, dense_batch, tiny_retriever
from tests.support.dense_runs import make_dense_world, run_dense
from tests.support.ranks import run_on_ranks

SHARES = {1: [range(6)], 2: [range(4), range(4, 6)], 3: [range(1), range(1, 6), range(6, 6)]}
"""Queries of each rank: uneven, and none at all."""
LESSONS = {
    "gathered": DenseLesson(loss="infonce", passages=PASSAGES, temperature=0.5, gathers=True),
    "sizes": DenseLesson(
        loss="infonce", passages=PASSAGES, gathers=True, dims=(32, 8), normalizes=True
    ),
    "known": DenseLesson(loss="infonce", passages=PASSAGES, gathers=True),
    "teacher": DenseLesson(loss="kl", passages=PASSAGES),
    "margins": DenseLesson(loss="margin_mse", passages=PASSAGES),
}
CHUNKS = {"whole": None, "chunks": ChunkSizes(1, 4)}


def everything(ranks: Ranks) -> dict[str, Any]:
    return {
        f"{name} {how}": learn(
            ranks, lesson, chunks, [SHARES[ranks.world_size][ranks.rank]], keyed=name == "known"
        )
        for name, lesson in LESSONS.items()
        for how, chunks in CHUNKS.items()
    } | {
        f"accumulated {how}": learn(ranks, LESSONS["gathered"], chunks, accumulated(ranks))
        for how, chunks in CHUNKS.items()
    }


def accumulated(ranks: Ranks) -> list[range]:
    """Two micro-batches: queries 0 to 2, then 3 to 5."""
    return [range(3)[ranks.rank :: ranks.world_size], range(3, 6)[ranks.rank :: ranks.world_size]]


def learn(
    ranks: Ranks,
    lesson: DenseLesson,
    chunks: ChunkSizes | None,
    shares: list[range],
    *,
    keyed: bool = False,
) -> tuple[float, torch.Tensor]:
    """Loss as it would be logged, and averaged gradients."""
    retriever = tiny_retriever(normalize=lesson.normalizes).double()
    step = DenseStep(replicate(Towers(retriever), ranks), lesson, chunks)
    stats = WeightedStats()
    for number, share in enumerate(shares):
        with without_averaging(step, number < len(shares) - 1):
            loss, numbers = step(dense_batch(share, scored=True, keyed=keyed), True)
            (loss / len(shares)).backward()
        stats.add("loss", numbers["loss/train_loss"], weight=len(share))
    gradients = [p.grad.flatten() for p in retriever.parameters() if p.grad is not None]
    return stats.averages()["loss"], torch.cat(gradients)


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return everything(Ranks())


@pytest.mark.parametrize("world_size", [2, 3])
def test_gradients_and_loss_are_those_of_one_process(world_size, alone):
    for rank, found in enumerate(run_on_ranks(everything, world_size)):
        for name, (loss, gradient) in found.items():
            expected_loss, expected = alone[name]
            assert loss == pytest.approx(expected_loss, abs=1e-6), (rank, name)
            assert expected.abs().max() > 1e-3
            assert (gradient - expected).abs().max() < 1e-6, (rank, name)


def numbers(world: Path, size: int, kind: str, name: str) -> dict[int, float]:
    """A number by step, as logged by so many workers."""
    lines = (world / "experiments" / f"on{size}" / "metrics.jsonl").read_text().splitlines()
    records = [record for line in lines if name in (record := json.loads(line))]
    return {record["step"]: record[name] for record in records if record["kind"] == kind}


def whole_run(ranks: Ranks, world: Path) -> None:
    """Two epochs over 20 lines, 6 at once: at the end 4 are left, and of three ranks one has 1."""
    name = f"on{ranks.world_size}"
    batch = 6 // ranks.world_size
    settings = {"per_gpu_batch_size": batch, "num_train_epochs": 2, "shuffle": True}
    settings |= {"negatives_x_device": True, "eval_data": world / "dev.jsonl", "eval_freq": 3}
    settings |= {"dev_queries": world / "collection", "dev_passages": 9}
    run_dense(world, ranks, name=name, **settings)


def test_a_run_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    world = make_dense_world(tmp_path)
    whole_run(Ranks(), world)
    for size in (2, 3):
        run_on_ranks(whole_run, size, world, timeout_seconds=240)
        for kind, name in (
            ("train", "loss/train_loss"),
            ("eval", "dev.jsonl/eval_loss"),
            ("eval", "collection/nDCG@10"),
        ):
            alone, together = (numbers(world, n, kind, name) for n in (1, size))
            assert len(alone) >= 2
            assert together == pytest.approx(alone, rel=1e-3), name
