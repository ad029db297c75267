"""Real starts of a small program: by torchrun, and by srun as far as a program can tell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import free_port

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = str(ROOT / "tests" / "support" / "launch_program.py")
ON_ALL_INTERFACES = ("0.0.0.0", "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0")
LOOPBACK = "127.0.0.1"


def environment(**settings: object) -> dict[str, str]:
    """This process's, without what a launcher may have set, plus some."""
    launchers = ("SLURM_", "TORCHELASTIC_", "MASTER_", "GLOO_")
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(launchers) and k not in names}
    ours = {"PYTHONPATH": ROOT / "src", "OMP_NUM_THREADS": 1, "PYTHONWARNINGS": "error"}
    return kept | {name: str(value) for name, value in (ours | settings).items()}


def start_as_srun(tasks: str, *arguments: str, job: int) -> list[subprocess.Popen[str]]:
    """Start the program as srun would with these tasks per node; all nodes are this machine."""
    per_node = [int(count) for count in tasks.split(",")]
    places = [(node, local) for node, count in enumerate(per_node) for local in range(count)]
    return [
        subprocess.Popen(
            [sys.executable, PROGRAM, *arguments],
            env=environment(
                MASTER_ADDR=LOOPBACK,
                SLURM_JOB_ID=job,
                SLURM_STEP_ID=0,
                SLURM_STEP_NUM_TASKS=len(places),
                SLURM_STEP_TASKS_PER_NODE=tasks,
                SLURM_STEP_NODELIST=f"n[1-{len(per_node)}]",
                SLURM_PROCID=rank,
                SLURM_LOCALID=local,
                SLURM_NODEID=node,
                SLURMD_NODENAME=f"n{node + 1}",
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, (node, local) in enumerate(places)
    ]


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and error output of each; none outlives the test."""
    try:
        outputs = [process.communicate(timeout=200)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, text) for p, text in zip(processes, outputs, strict=True)]


def reports(folder: Path, attempt: int = 0) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{attempt}.*.json"))]


def test_a_step_of_srun_meets_on_the_chosen_interface_only(tmp_path: Path) -> None:
    outcome = ends(start_as_srun("2,1", str(tmp_path), job=os.getpid()))
    assert outcome == [(0, "")] * 3
    seen = reports(tmp_path)
    assert [rank["ranks"] for rank in seen] == [[0, 0, 3, 2], [1, 1, 3, 2], [2, 0, 3, 1]]
    assert [rank["sum"] for rank in seen] == [3.0] * 3
    assert [rank["interface"] for rank in seen] == ["lo"] * 3
    addresses = [address for rank in seen for address in rank["listening"]]
    assert set(addresses) == {LOOPBACK}
    # Beside its connections to peers, rank 0 alone serves the store.
    assert len(seen[0]["listening"]) == len(seen[1]["listening"]) + 1


@pytest.mark.parametrize(
    ("ending", "code", "reason"),
    [("crash", 1, "RuntimeError: rank 1 crashes"), ("refuse", 2, "f.jsonl:1: no text")],
)
def test_a_rank_that_fails_ends_the_others_with_its_own_exit_code(
    tmp_path: Path, ending: str, code: int, reason: str
) -> None:
    begin = time.monotonic()
    main, failed = ends(start_as_srun("1,1", str(tmp_path), ending, job=os.getpid()))
    assert failed[0] == main[0] == code
    assert failed[1].rstrip().endswith(reason)
    assert main[1].splitlines()[-1] == f"launch_program: rank 1 on n2 failed: {reason}"
    assert time.monotonic() - begin < 120  # The collective timeout is 300.


@pytest.mark.parametrize(("ending", "timeout"), [("kill", 300), ("freeze", 8)])
def test_a_lost_rank_is_named_and_worth_another_try(
    tmp_path: Path, ending: str, timeout: int
) -> None:
    processes = start_as_srun("1,1", str(tmp_path), ending, str(timeout), job=os.getpid())
    begin = time.monotonic()
    try:
        _, said = processes[0].communicate(timeout=200)
    finally:
        processes[1].kill()
        processes[1].communicate()
    assert processes[0].returncode == 75, said
    found = re.fullmatch(
        r"launch_program: rank 1 on n2 was not heard of for (\d+) s", said.splitlines()[-1]
    )
    assert found is not None, said
    assert time.monotonic() - begin < 150


def test_torchrun_starts_the_ranks_and_starts_them_again(tmp_path: Path) -> None:
    # With a port given, as on several machines, the second start meets the first one's store.
    options = f"--master_addr {LOOPBACK} --master_port {free_port()} --nproc_per_node 2"
    command = f"{options} --max_restarts 1 --monitor_interval 0.1 {PROGRAM}".split()
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *command, str(tmp_path), "crash_first"],
        env=environment(PYTHONWARNINGS="default"),
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert "rank 1 crashes" in done.stderr
    seen = reports(tmp_path, attempt=1)
    assert [rank["ranks"] for rank in seen] == [[0, 0, 2, 2], [1, 1, 2, 2]]
    assert [rank["sum"] for rank in seen] == [1.0, 1.0]
    # The store is the agent's; the ranks themselves listen for each other only.
    for rank in seen:
        assert not set(rank["listening"]) & set(ON_ALL_INTERFACES)


def test_torchrun_starts_anew_when_a_machine_joins(tmp_path: Path) -> None:
    command = [
        *"-m torch.distributed.run --nnodes 1:2 --nproc_per_node 1 --rdzv_backend c10d".split(),
        *f"--rdzv_endpoint {LOOPBACK}:{free_port()} --rdzv_conf last_call_timeout=1".split(),
        *f"--local_addr {LOOPBACK} --monitor_interval 0.1 {PROGRAM} {tmp_path} alone".split(),
    ]

    def machine() -> subprocess.Popen[str]:
        # Without it torchrun itself fails: see docs/decisions/040-changed-workers.md.
        apart = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": 1}
        settings = environment(PYTHONWARNINGS="default", **apart)
        return subprocess.Popen(
            [sys.executable, *command], env=settings, stderr=subprocess.PIPE, text=True
        )

    machines = [machine()]
    deadline = time.monotonic() + 120
    while not reports(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    machines.append(machine())
    for code, said in ends(machines):
        assert code == 0, said
    # For torchrun it is the same attempt: a machine that joins does not count as a restart.
    seen = reports(tmp_path)
    assert [rank["ranks"] for rank in seen] == [[0, 0, 2, 1], [1, 0, 2, 1]]
    assert [rank["sum"] for rank in seen] == [1.0, 1.0]
