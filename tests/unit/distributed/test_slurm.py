from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from gazetteer.distributed.slurm import (
    expand_nodes,
    is_batch_step,
    is_step,
    start_number,
    step_port,
    tasks_of_allocation,
    tasks_of_nodes,
)

NODE_LISTS = {
    "n1": ["n1"],
    "n[1-2]": ["n1", "n2"],
    "n[1-2,7]": ["n1", "n2", "n7"],
    "n[1-2],login": ["n1", "n2", "login"],
    "gpu[08-11]": ["gpu08", "gpu09", "gpu10", "gpu11"],
    "gpu[099-101],n3": ["gpu099", "gpu100", "gpu101", "n3"],
    "a-b[1,3],c-d[2-3]": ["a-b1", "a-b3", "c-d2", "c-d3"],
    "r[1-2]n[3-4]": ["r1n3", "r1n4", "r2n3", "r2n4"],
}


@pytest.mark.parametrize(("text", "names"), NODE_LISTS.items())
def test_node_list_is_expanded_in_order(text: str, names: list[str]) -> None:
    assert expand_nodes(text) == names


@pytest.mark.skipif(shutil.which("scontrol") is None, reason="scontrol is not installed")
@pytest.mark.parametrize("text", NODE_LISTS)
def test_node_list_is_expanded_as_scontrol_does(text: str, tmp_path: Path) -> None:
    configuration = tmp_path / "slurm.conf"
    configuration.write_text("ClusterName=x\nSlurmctldHost=localhost\n")
    answer = subprocess.run(
        ["scontrol", "show", "hostnames", text],
        env={"SLURM_CONF": str(configuration), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert expand_nodes(text) == answer.stdout.split()


@pytest.mark.parametrize(
    ("text", "counts"),
    [("1", [1]), ("3,1", [3, 1]), ("2(x2)", [2, 2]), ("4(x3),1,2(x2)", [4, 4, 4, 1, 2, 2])],
)
def test_tasks_per_node_may_be_uneven(text: str, counts: list[int]) -> None:
    assert tasks_of_nodes(text) == counts


def test_tasks_of_all_groups_of_a_heterogeneous_job_count() -> None:
    groups = {"SLURM_NTASKS_HET_GROUP_0": "1", "SLURM_NTASKS_HET_GROUP_1": "2"}
    environment = {"SLURM_NTASKS": "1", "SLURM_HET_SIZE": "2"}
    assert tasks_of_allocation(environment | groups) == 3
    assert tasks_of_allocation({"SLURM_NTASKS": "4"}) == 4
    assert tasks_of_allocation({}) == 1


@pytest.mark.parametrize(
    ("step", "expected"),
    [("0", True), ("17", True), ("4294967290", False), ("4294967291", False), (None, False)],
)
def test_shells_of_an_allocation_are_no_steps(step: str | None, expected: bool) -> None:
    environment = {"SLURM_PROCID": "0"} | ({} if step is None else {"SLURM_STEP_ID": step})
    assert is_step(environment) == expected


def test_ports_of_a_job_s_steps_and_restarts_differ() -> None:
    ports = {
        step_port(
            {
                "SLURM_JOB_ID": str(job),
                "SLURM_STEP_ID": str(step),
                "SLURM_RESTART_COUNT": str(restart),
            }
        )
        for job in range(4_000_000, 4_000_003)
        for step in range(4)
        for restart in range(4)
    }
    assert len(ports) == 3 * 4 * 4
    assert min(ports) >= 20_000
    assert max(ports) < 32_768
    assert step_port({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}) == step_port(
        {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": "0"}
    )


@pytest.mark.parametrize(
    ("reserved", "port"), [("12000", 12_000), ("12000-12003", 12_000), ("12000,12007", 12_000)]
)
def test_ports_that_slurm_reserved_are_taken(reserved: str, port: int) -> None:
    environment = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_RESV_PORTS": reserved}
    assert step_port(environment) == port


def test_each_start_of_a_run_has_a_number_of_its_own() -> None:
    numbers = {
        start_number({"SLURM_RESTART_COUNT": slurm, "TORCHELASTIC_RESTART_COUNT": torchrun})
        for slurm in ("0", "1", "11")
        for torchrun in ("0", "1", "11")
    }
    assert len(numbers) == 9
    assert start_number({}) == start_number({"SLURM_RESTART_COUNT": "0"})


@pytest.mark.parametrize(
    ("name", "expected"), [("batch.sh", True), ("bash", False), ("interactive", False)]
)
def test_jobs_of_a_shell_are_no_batch_jobs(name: str, expected: bool) -> None:
    step = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_JOB_NAME": name}
    assert is_batch_step(step) is expected
    assert not is_batch_step(step | {"SLURM_STEP_ID": "4294967291"})
