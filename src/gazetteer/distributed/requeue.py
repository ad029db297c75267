"""Putting a batch job back into Slurm's queue, after a run was asked to stop and has saved."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Mapping

from gazetteer.distributed.slurm import is_batch_step

logger = logging.getLogger(__name__)

COMMAND_SECONDS = 60
"""How long Slurm's controller may take to answer."""


def requeue(environment: Mapping[str, str]) -> None:
    """Put this process's job back into the queue, where that is this program's to do.

    Nothing happens outside a step of a batch job, in a job of submitit, which does so itself, or
    when the job was cancelled. A refusal is logged, and is no error: the state is saved.
    """
    if not is_batch_step(environment) or environment.get("SUBMITIT_EXECUTOR"):
        return
    job = environment["SLURM_JOB_ID"]
    if job_state(job) != "RUNNING":
        return
    answer = _ask("scontrol", "requeue", job)
    if answer is None:
        logger.warning("job %s was not requeued; submit the same command to go on", job)
    else:
        logger.warning("job %s goes back into the queue", job)


def job_state(job: str) -> str | None:
    """State of a job that is in Slurm's queue, such as "RUNNING"; None when it is not, any more.

    A controller that does not answer is taken for one that still has the job in its queue.
    """
    try:
        done = subprocess.run(
            ["squeue", "--noheader", f"--jobs={job}", "--format=%T"],
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "UNKNOWN"
    if done.returncode != 0:
        return None if "Invalid job id" in done.stderr else "UNKNOWN"
    return next(iter(done.stdout.split()), None)


def _ask(*command: str) -> str | None:
    """What a program of Slurm's says; None if it fails, after a line in the log."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        logger.warning("%s: %s", command[0], " ".join(said.split()))
        return None
    return done.stdout
