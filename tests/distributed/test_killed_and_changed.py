"""A run that is killed, and goes on with another number of workers, reads what one worker reads."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from gazetteer.records import Ranks
from tests.support.ranks import run_on_ranks
from tests.support.runs import logged, make_world, run_train
from tests.support.tiny_data import write_jsonl

LEGS = ((3, 3), (1, 7), (2, None))
"""Workers, and the step at which all of them are killed."""
COMMON: dict[str, Any] = {
    "shuffle": True,
    # More than two epochs; neither they nor the workers divide evenly into steps.
    "global_batch_size": 5,
    "total_steps": 10,
    "save_freq": 2,
    "warmup_steps": 1,
}
TEXTS = {"train_data": "texts.jsonl", "eval_data": None, "train_retriever": True}
KINDS: dict[str, dict[str, Any]] = {
    "closed book": {"closed_book": True},
    "cut texts": TEXTS | {"task": "lm"},
    # Killed in the middle of an accumulation.
    "accumulated": {"train_retriever": True, "accumulation_steps": 3, "per_gpu_batch_size": 1},
    "set aside": {"train_retriever": True, "refresh_index": "3"},
}


class KilledError(Exception):
    """No worker does anything more."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("world"))
    lines = (folder / "passages.jsonl").read_text().splitlines()
    write_jsonl(folder / "texts.jsonl", [json.loads(line) for line in lines[:22]])
    return folder


def leg(
    ranks: Ranks, world: Path, name: str, flags: dict[str, Any], last: int | None
) -> dict[int, list[tuple]]:
    """Train until a step; by step what this worker read: epoch, example, and what became of it."""
    from gazetteer.training import loop

    passes_of, micro_batch = loop.next_passes, loop._micro_batch
    read: dict[int, list[tuple]] = defaultdict(list)

    def noted(run):
        passes = passes_of(run)
        for draw in (draw for each in passes for draw in each.draws):
            (example,) = run.batches.build((draw,)).examples
            place = (draw.epoch, draw.index, example.query, example.target)
            read[run.state.position.micro_batches].append(place)
        return passes

    def mortal(run, *args, **kwargs):
        if run.state.position.micro_batches == last:
            raise KilledError
        micro_batch(run, *args, **kwargs)

    loop.next_passes, loop._micro_batch = noted, mortal
    try:
        run_train(world, ranks, name=name, **COMMON | flags)
    except KilledError:
        pass
    finally:
        loop.next_passes, loop._micro_batch = passes_of, micro_batch
    return dict(read)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_continued_by_other_numbers_of_workers(world: Path, kind: str) -> None:
    flags = {n: world / v if n == "train_data" else v for n, v in KINDS[kind].items()}
    name, set_aside = kind.replace(" ", "-"), int(kind == "set aside")
    mode = {"refresh_mode": "dedicated"} if set_aside else {}
    kept: dict[int, list[tuple]] = {}
    for size, last in LEGS:
        job = (leg, size + set_aside, world, name, flags | mode, last)
        found: dict[int, list[tuple]] = defaultdict(list)
        for read in run_on_ranks(*job, set_aside=set_aside):
            for step, places in read.items():
                found[step] += places
        # What was read after the last checkpoint counts for nothing.
        kept |= found
    one = leg(Ranks(), world, f"{name}-one", flags, None)
    assert sorted(kept) == sorted(one)
    for step, places in one.items():
        assert sorted(kept[step]) == sorted(places), step
    read = [place[:2] for places in kept.values() for place in places]
    assert len(read) == len(set(read)) == 10 * 5
    if not set_aside:  # When a version is adopted there is up to the clock.
        expected, losses = (logged(world, n) for n in (f"{name}-one", name))
        assert list(losses) == list(expected)
        for step, record in expected.items():
            total = record["loss/train_loss"]
            assert losses[step]["loss/train_loss"] == pytest.approx(total, rel=1e-5), step
