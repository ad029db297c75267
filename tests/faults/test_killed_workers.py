"""Workers of torchrun are killed: the run goes on by itself, and ends with the same bits."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gazetteer.records import Ranks
from tests.faults.torchrun import SETTINGS, Elastic, Outcome
from tests.support.ranks import run_on_ranks
from tests.support.runs import make_world, run_train

STEPS, SAVE = 60, 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("killed-workers"))


def undisturbed(ranks: Ranks, world: Path) -> None:
    run_train(world, ranks, name="whole", total_steps=STEPS, save_freq=SAVE, **SETTINGS)


def killed(world: Path, name: str, steps: list[int], chance: random.Random) -> Outcome:
    """A run in which a worker is killed after each of these steps."""
    run = Elastic(world, name, len(steps), total_steps=STEPS, save_freq=SAVE)
    try:
        for step in steps:
            run.wait_for_begin()
            run.wait_for_step(step)
            time.sleep(chance.random() * 0.1)
            run.kill(chance)
        run.wait_for_begin()
        return run.finish()
    finally:
        run.end()


def test_killed_at_random_steps(world: Path, is_long: bool, fault_row) -> None:
    run_on_ranks(undisturbed, 2, world, timeout_seconds=400)
    runs, kills = (4, 5) if is_long else (1, 1)
    chance, lost = random.Random(7), 0
    for number in range(runs):
        steps = sorted(chance.sample(range(1, STEPS - 8), kills))
        assert killed(world, f"killed{number}", steps, chance).kills == kills
        for file in ("reader/model.safetensors", "reader_optimiser.safetensors"):
            first, second = (
                load_file(world / "experiments" / name / "checkpoint/latest" / file)
                for name in ("whole", f"killed{number}")
            )
            lost += not all(first[name].equal(second[name]) for name in first)
    how = f"kill -9 of a worker under torchrun, {runs} runs of {STEPS} steps: equal bits in the end"
    fault_row("kill -9", runs * kills, lost, how)
    assert lost == 0


@pytest.mark.slow
def test_effective_training_time(world: Path, is_long: bool, fault_row) -> None:
    if not is_long:
        pytest.skip("ten minutes: --long")
    minutes, chance = 10, random.Random(3)
    size = {"per_gpu_batch_size": 64, "text_maxlength": 128, "log_freq": 10}
    # Where one kill is due a minute, a checkpoint every few seconds loses least (Young 1974).
    rhythm = {"save_freq": 30, "async_save": True, "eval_freq": 1_000_000}
    run = Elastic(world, "minutes", minutes, total_steps=1_000_000, **size, **rhythm)
    try:
        for _ in range(minutes):
            run.wait_for_begin()
            time.sleep(60)
            run.kill(chance)
    finally:
        run.end()
    outcome = run.outcome()
    ratio = outcome.effective_seconds / outcome.seconds
    how = f"one kill a minute for {minutes} minutes: effective training time ratio {ratio:.3f}"
    fault_row("kill -9", minutes, int(ratio < 0.9), how)
    assert ratio >= 0.9
