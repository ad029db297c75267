"""Runs on a real Slurm, interrupted in every way it knows, end with an uninterrupted run's bits.

`make test-cluster`; minutes on two cores.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.runs import SETTINGS, require_equal, whole_job
from tests.cluster.slurm_cluster import Cluster
from tests.support.ranks import run_on_ranks
from tests.support.runs import words_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1")


class Job:
    """A batch job of example_scripts/job.sh that trains."""

    def __init__(self, cluster: Cluster, world: Path, name: str, *placement: str) -> None:
        self.cluster, self.world, self.name = cluster, world, name
        self.folder = world / "experiments" / name
        self.output = world / f"{name}.out"
        cluster.environment |= {
            "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT / "src"),
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",  # Both nodes are this machine; their names do not resolve.
        }
        words = words_of(world, "train", name=name, **SETTINGS)
        self.number = cluster.ask(
            "sbatch", "--parsable", f"--output={self.output}", f"--chdir={ROOT}", *placement,
            str(ROOT / "example_scripts" / "job.sh"), "train.py", *words,
        )  # fmt: skip

    def wait_for_steps(self, count: int) -> None:
        metrics = self.folder / "metrics.jsonl"
        self.cluster.wait(
            lambda: metrics.exists() and metrics.read_text().count("\n") >= count,
            300,
            f"{count} steps of {self.name}: {self.tail()}",
        )

    def wait_for(self, state: str, seconds: float = 400) -> None:
        self.cluster.wait(
            lambda: self.cluster.state(self.number) == state,
            seconds,
            f"{state} of {self.name}, in {self.cluster.state(self.number)}: {self.tail()}",
        )

    def tail(self) -> str:
        return self.output.read_text()[-2000:] if self.output.exists() else "no output"


def interrupted(
    cluster: Cluster, world: Path, name: str, interrupt: Callable[[Job], None]
) -> tuple[Job, float]:
    """A job on two nodes, interrupted after some steps; returns it once it is complete."""
    job = Job(cluster, world, name, *TWO_NODES)
    job.wait_for_steps(13)
    begin = time.monotonic()
    interrupt(job)
    job.wait_for("COMPLETED")
    assert "resuming from" in (job.folder / "run.log").read_text(), job.tail()
    assert cluster.restarts(job.number) >= 1
    require_equal(world, "whole2", job.name)
    return job, time.monotonic() - begin


def said(job: Job) -> str:
    return f"equal bits after {job.cluster.restarts(job.number)} restart(s)"


def test_uneven_placement(cluster: Cluster, world: Path, report) -> None:
    begin = time.monotonic()
    job = Job(cluster, world, "uneven", "--nodes=2", "--ntasks=4")
    job.wait_for_steps(1)
    shown = cluster.ask("scontrol", "--details", "show", "job", job.number)
    assert "Nodes=n1 CPU_IDs=0-2" in shown and "Nodes=n2 CPU_IDs=0 " in shown, shown
    job.wait_for("COMPLETED")
    run_on_ranks(whole_job, 4, world, "whole4", timeout_seconds=400)
    require_equal(world, "whole4", job.name)
    report("srun on two nodes, tasks 3,1", "equal bits", time.monotonic() - begin)


def test_scancel_signal(cluster: Cluster, world: Path, report) -> None:
    def interrupt(job: Job) -> None:
        cluster.ask("scancel", "--signal=USR2", job.number)

    job, seconds = interrupted(cluster, world, "signal", interrupt)
    assert "stopped by a signal at step" in (job.folder / "run.log").read_text()
    report("scancel --signal=USR2", said(job), seconds)


def test_pre_emption(cluster: Cluster, world: Path, report) -> None:
    def interrupt(job: Job) -> None:
        cluster.ask(
            "sbatch", "--partition=high", "--nodes=2", "--ntasks-per-node=4", "--output=/dev/null",
            "--wrap=srun sleep 1",
        )  # fmt: skip

    job, seconds = interrupted(cluster, world, "preempted", interrupt)
    assert "stopped by a signal at step" in (job.folder / "run.log").read_text()
    report("pre-emption", said(job), seconds)


def test_requeue_by_an_operator(cluster: Cluster, world: Path, report) -> None:
    job, seconds = interrupted(
        cluster, world, "requeued", lambda job: cluster.ask("scontrol", "requeue", job.number)
    )
    report("scontrol requeue", said(job), seconds)


def test_node_loss(cluster: Cluster, world: Path, report) -> None:
    def interrupt(job: Job) -> None:
        cluster.lose_node("n2")
        cluster.wait(
            lambda: any(s.startswith("down") for s in cluster.node_states()), 120, "n2 to be down"
        )
        cluster.start_node("n2")

    job, seconds = interrupted(cluster, world, "lost", interrupt)
    assert "rank 1 on n2 was not heard of for" in job.output.read_text()
    report("node loss", said(job), seconds)


def test_submitit_interrupt(cluster: Cluster, world: Path, report) -> None:
    words = words_of(world, "train", name="submitted", **SETTINGS)
    slurm = ("--slurm_nodes", "2", "--slurm_time", "30", "--slurm_comment", "a b")
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words, "--launcher", "submitit", *slurm],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    job = Job.__new__(Job)
    job.cluster, job.world, job.name = cluster, world, "submitted"
    job.folder = world / "experiments" / "submitted"
    job.number, _, output = done.stdout.strip().removeprefix("job ").partition(": ")
    job.output = Path(output)
    job.wait_for_steps(13)
    begin = time.monotonic()
    # As submitit itself does it for tests: what Slurm sends when it pre-empts.
    cluster.ask("scancel", "--signal=TERM", job.number)
    cluster.ask("scancel", "--signal=USR2", job.number)
    exit_code = job.folder / "submitit" / f"{job.number}_exit_code"
    cluster.wait(exit_code.exists, 400, f"the exit code of {job.number}: {job.tail()}")
    assert exit_code.read_text() == "0\n"
    assert "Calling checkpoint method" in job.output.read_text()
    require_equal(world, "whole2", job.name)
    report("submitit, interrupted", said(job), time.monotonic() - begin)


def test_a_cancelled_job_saves_and_stays_cancelled(cluster: Cluster, world: Path, report) -> None:
    job = Job(cluster, world, "cancelled", *TWO_NODES)
    job.wait_for_steps(13)
    begin = time.monotonic()
    cluster.ask("scancel", job.number)
    job.wait_for("CANCELLED")
    cluster.wait(
        lambda: "stopped by a signal" in (job.folder / "run.log").read_text(), 60, "it to save"
    )
    time.sleep(10)
    assert cluster.state(job.number) == "CANCELLED"
    assert cluster.restarts(job.number) == 0
    report("scancel", "saved, not requeued", time.monotonic() - begin)


def test_nothing_listens_on_all_interfaces(cluster: Cluster, world: Path, report) -> None:
    job = Job(cluster, world, "sockets", *TWO_NODES)
    job.wait_for_steps(3)
    # Not srun's own sockets, which Slurm opens.
    tasks = [task for task in cluster.tasks() if _command(task).startswith(sys.executable)]
    assert len(tasks) == 2
    shown = [line for line in cluster.ask("ss", "-Hltnp").splitlines()
             if any(f"pid={task}," in line for task in tasks)]  # fmt: skip
    cluster.ask("scancel", job.number)
    addresses = {line.split()[3].rpartition(":")[0] for line in shown}
    assert addresses == {"127.0.0.1"}, shown
    report("ports, by ss", f"{len(shown)} listen on 127.0.0.1 only", 0.0)


def _command(task: int) -> str:
    try:
        return Path(f"/proc/{task}/cmdline").read_text()
    except OSError:
        return ""
