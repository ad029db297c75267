"""Who puts a job back into the queue, told by stand-ins of Slurm's programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gazetteer.distributed.requeue import job_state, requeue

BATCH = {
    "SLURM_JOB_ID": "16",
    "SLURM_JOB_NAME": "batch.sh",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "0",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stand-ins that note how they were called; returns how to make one, and the notes."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def program(name: str, does: str) -> None:
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/notes\n{does}\n')
        path.chmod(0o755)

    def notes() -> list[str]:
        path = tmp_path / "notes"
        return path.read_text().splitlines() if path.exists() else []

    program("squeue", "echo RUNNING")
    program("scontrol", "")
    return program, notes


def test_a_running_batch_job_goes_back_into_the_queue(slurm) -> None:
    _, notes = slurm
    requeue(BATCH)
    assert notes()[-1] == "scontrol requeue 16"


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_JOB_NAME": "interactive"},
        {"SLURM_JOB_NAME": "bash"},
        {"SLURM_STEP_ID": "4294967291"},
        {"SUBMITIT_EXECUTOR": "slurm"},
    ],
)
def test_others_are_left_alone(slurm, change) -> None:
    _, notes = slurm
    requeue(BATCH | change)
    requeue({})
    assert notes() == []


@pytest.mark.parametrize("state", ["echo COMPLETING", "echo CANCELLED", ":"])
def test_a_cancelled_job_stays_cancelled(slurm, state: str) -> None:
    program, notes = slurm
    program("squeue", state)
    requeue(BATCH)
    assert notes() == ["squeue --noheader --jobs=16 --format=%T"]


def test_a_refusal_is_a_line_in_the_log(slurm, caplog: pytest.LogCaptureFixture) -> None:
    program, _ = slurm
    program("scontrol", "echo 'Requested operation is presently disabled' >&2; exit 1")
    requeue(BATCH)
    assert "presently disabled" in caplog.text
    assert "job 16 was not requeued" in caplog.text


@pytest.mark.parametrize(
    ("does", "state"),
    [
        ("echo PENDING", "PENDING"),
        (":", None),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", None),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", "UNKNOWN"),
    ],
)
def test_the_state_of_a_job_is_what_squeue_says(slurm, does: str, state: str | None) -> None:
    program, _ = slurm
    program("squeue", does)
    assert job_state("16") == state


def test_without_slurm_s_programs_the_state_is_unknown(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert job_state("16") == "UNKNOWN"
