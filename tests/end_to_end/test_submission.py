"""Runs that submit themselves, by submitit's executor without Slurm."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.processes import processes_with
from tests.support.runs import make_world, run_train, words_of

ROOT = Path(__file__).resolve().parents[2]
STEPS = 60


def start(world: Path, name: str, **flags: object) -> subprocess.Popen[str]:
    words = words_of(world, "train", name=name, total_steps=STEPS, **flags)
    launch = ("--launcher", "submitit_local", "--slurm_wait")
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words, *launch],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def test_an_interrupted_job_goes_on_by_itself(world: Path) -> None:
    with start(world, "again") as job:
        metrics = world / "experiments" / "again" / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
            assert job.poll() is None
            time.sleep(0.05)
        assert job.stdout is not None
        found = re.match(r"job (\d+): (.+)\n", job.stdout.readline())
        assert found is not None
        (task,) = processes_with(f"SUBMITIT_LOCAL_JOB_ID={found[1]}")
        os.kill(task, signal.SIGUSR2)
        assert job.wait(timeout=240) == 0
    folder = world / "experiments" / "again"
    log = (folder / "run.log").read_text()
    assert "stopped by a signal at step" in log and "resuming from" in log
    assert "Calling checkpoint method" in Path(found[2]).read_text()
    assert (folder / "submitit").stat().st_mode & 0o777 == 0o700
    run_train(world, name="whole", total_steps=STEPS)
    for file in ("reader/model.safetensors", "reader_optimiser.safetensors"):
        first, second = (
            load_file(world / "experiments" / name / "checkpoint/latest" / file)
            for name in ("whole", "again")
        )
        assert all(first[name].equal(second[name]) for name in first)


def test_a_job_s_exit_code_is_its_submitter_s(world: Path) -> None:
    (world / "bad.jsonl").write_text('{"question": 5}\n')
    with start(world, "bad", train_data=world / "bad.jsonl") as job:
        assert job.wait(timeout=240) == 2
