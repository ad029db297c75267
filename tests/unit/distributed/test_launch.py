from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from gazetteer.distributed import launch
from gazetteer.distributed.launch import LaunchPlan, plan_launch, process_group
from gazetteer.errors import LaunchError, OptionError
from gazetteer.records import Ranks
from tests.support.ranks import free_port

RECORDED = Path(__file__).resolve().parents[2] / "fixtures" / "slurm"
PLANS = {  # launcher, rank, world size, local rank, local world size
    "array.0": ("single", 0, 1, 0, 1),
    "array.1": ("single", 0, 1, 0, 1),
    "batch_step.0": ("srun", 0, 4, 0, 3),
    "batch_step.1": ("srun", 1, 4, 1, 3),
    "batch_step.2": ("srun", 2, 4, 2, 3),
    "batch_step.3": ("srun", 3, 4, 0, 1),
    "het_step.0": ("srun", 0, 3, 0, 1),
    "het_step.1": ("srun", 1, 3, 0, 2),
    "het_step.2": ("srun", 2, 3, 1, 2),
    "salloc_step.0": ("srun", 0, 4, 0, 3),
    "salloc_step.1": ("srun", 1, 4, 1, 3),
    "salloc_step.2": ("srun", 2, 4, 2, 3),
    "salloc_step.3": ("srun", 3, 4, 0, 1),
    "srun_block.0": ("srun", 0, 4, 0, 3),
    "srun_block.1": ("srun", 1, 4, 1, 3),
    "srun_block.2": ("srun", 2, 4, 2, 3),
    "srun_block.3": ("srun", 3, 4, 0, 1),
    "srun_even.0": ("srun", 0, 4, 0, 2),
    "srun_even.1": ("srun", 1, 4, 1, 2),
    "srun_even.2": ("srun", 2, 4, 0, 2),
    "srun_even.3": ("srun", 3, 4, 1, 2),
    "srun_single": ("single", 0, 1, 0, 1),
    "torchrun_in_srun.0": ("torchrun", 0, 4, 0, 2),
    "torchrun_in_srun.1": ("torchrun", 1, 4, 1, 2),
    "torchrun_in_srun.2": ("torchrun", 2, 4, 0, 2),
    "torchrun_in_srun.3": ("torchrun", 3, 4, 1, 2),
}
WITHOUT_SRUN = {"batch": 4, "salloc": 4, "het_batch": 3}
TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.7",
    "MASTER_PORT": "29501",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}


def recorded(name: str) -> dict[str, str]:
    lines = (RECORDED / f"{name}.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def without(environment: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in names}


def test_every_recorded_environment_is_in_a_table() -> None:
    assert {path.stem for path in RECORDED.glob("*.env")} == {*PLANS, *WITHOUT_SRUN}


@pytest.mark.parametrize(("name", "expected"), PLANS.items())
def test_recorded_environments_give_the_ranks(name: str, expected: tuple) -> None:
    plan = plan_launch(recorded(name))
    found = (plan.launcher, plan.rank, plan.world_size, plan.local_rank, plan.local_world_size)
    assert found == expected


@pytest.mark.parametrize(
    ("step", "names"),
    [
        (step, list(names))
        for step, names in groupby(PLANS, key=lambda name: name.rpartition(".")[0])
        if step and step != "array"
    ],
)
def test_ranks_of_a_step_agree_where_to_meet(step: str, names: list[str]) -> None:
    plans = [plan_launch(recorded(name)) for name in names]
    assert len({(plan.master, plan.port) for plan in plans}) == 1
    assert plans[0].master == ("127.0.0.1" if step == "torchrun_in_srun" else "n1")


@pytest.mark.parametrize(("name", "tasks"), WITHOUT_SRUN.items())
def test_several_tasks_without_srun_are_refused(name: str, tasks: int) -> None:
    with pytest.raises(LaunchError, match=rf"{tasks} tasks \(SLURM_NTASKS\).*`srun python"):
        plan_launch(recorded(name))


def test_the_shell_of_an_allocation_is_no_step() -> None:
    shell = recorded("salloc") | {"SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0"}
    with pytest.raises(LaunchError, match="srun"):
        plan_launch(shell)


def test_an_empty_environment_is_one_process() -> None:
    assert plan_launch({}) == LaunchPlan(launcher="single")
    assert plan_launch({}, main_port=12_345) == LaunchPlan(launcher="single")


def test_torchrun_wins_inside_an_allocation() -> None:
    plan = plan_launch(recorded("batch") | TORCHRUN)
    assert plan == LaunchPlan(
        launcher="torchrun",
        rank=3,
        world_size=4,
        local_rank=1,
        local_world_size=2,
        master="10.0.0.7",
        port=29_501,
    )


def test_flags_win_over_the_launcher() -> None:
    assert plan_launch(TORCHRUN, local_rank=0).local_rank == 0
    by_hand = without(TORCHRUN, "LOCAL_RANK", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")
    plan = plan_launch(by_hand, local_rank=1, main_port=15_000)
    assert (plan.local_rank, plan.port) == (1, 15_000)
    assert plan_launch(recorded("srun_even.2"), main_port=15_000).port == 15_000
    assert plan_launch(by_hand | {"LOCAL_RANK": "0", "MASTER_PORT": "1"}, main_port=2).port == 2


def test_torchrun_s_own_store_keeps_its_port() -> None:
    assert plan_launch(TORCHRUN, main_port=15_000).port == 29_501


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_half_set_torchrun_environment_is_refused(name: str) -> None:
    with pytest.raises(LaunchError, match=rf"^{name} not set: .*torchrun or srun"):
        plan_launch(without(TORCHRUN, name))


def test_local_rank_without_a_launcher_is_refused() -> None:
    with pytest.raises(LaunchError, match="leave out --local_rank"):
        plan_launch({}, local_rank=0)


@pytest.mark.parametrize("name", ["SLURM_LOCALID", "SLURM_NODEID"])
def test_half_set_step_is_refused(name: str) -> None:
    with pytest.raises(LaunchError, match=f"^{name} not set"):
        plan_launch(without(recorded("srun_block.1"), name))


def test_a_step_may_name_another_master() -> None:
    assert plan_launch(recorded("srun_even.1") | {"MASTER_ADDR": "10.1.1.1"}).master == "10.1.1.1"


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of the launcher that may have started these tests; what is set here goes again."""
    before = dict(os.environ)
    for name in os.environ:
        if name.startswith(("SLURM_", "TORCHELASTIC_", "GLOO_", "MASTER_")) or name in TORCHRUN:
            monkeypatch.delenv(name)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]


def rank_by_hand(monkeypatch: pytest.MonkeyPatch, rank: int, address: str, port: int) -> None:
    settings = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_PORT": port}
    for name, value in (settings | {"MASTER_ADDR": address}).items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.usefixtures("clean_environment")
def test_one_process_has_no_process_group() -> None:
    before = dict(os.environ)
    with process_group() as ranks:
        assert not dist.is_initialized()
        assert ranks == Ranks(device=ranks.device)
    assert dict(os.environ) == before


@pytest.mark.usefixtures("clean_environment")
def test_a_name_that_does_not_resolve_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> str:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostbyname", fails)
    rank_by_hand(monkeypatch, 0, "n17", 29_500)
    with pytest.raises(LaunchError, match=r"^.*'n17', cannot be found by name.*MASTER_ADDR.*$"):
        process_group().__enter__()


@pytest.mark.usefixtures("clean_environment")
def test_a_machine_that_finds_itself_on_its_loopback_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As Debian's /etc/hosts has the machine's own name; others never reach it there.
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "127.0.1.1")
    for name, value in recorded("srun_even.0").items():
        if name.startswith("SLURM"):
            monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match=r"'n1', is 127\.0\.1\.1 here.*set MASTER_ADDR"):
        process_group().__enter__()
    # Not where somebody chose it.
    monkeypatch.setenv("MASTER_ADDR", "127.0.1.1")
    with pytest.raises(LaunchError, match=r"^only 1 of 4 ranks came to 127\.0\.1\.1"):
        process_group(rendezvous_timeout_seconds=1).__enter__()


@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (0, r"^only 1 of 2 ranks came to 127\.0\.0\.1:\d+ within 1 s \(--rendezvous_timeout_sec"),
        (1, r"^rank 1 could not meet the others at 127\.0\.0\.1:\d+ \(.+\)$"),
    ],
)
def test_a_rank_whose_peer_never_comes_gives_up(
    rank: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank_by_hand(monkeypatch, rank, "127.0.0.1", free_port())
    with pytest.raises(LaunchError, match=message):
        process_group(rendezvous_timeout_seconds=1).__enter__()


@pytest.mark.usefixtures("clean_environment")
def test_a_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        rank_by_hand(monkeypatch, 0, "127.0.0.1", port)
        with pytest.raises(LaunchError, match=rf"127\.0\.0\.1:{port} .*[Aa]ddress already in use"):
            process_group(rendezvous_timeout_seconds=1).__enter__()


def test_devices_are_shared_round_robin(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert launch._device(3) == torch.device("cuda:3")
    # --gpus-per-task: each process sees one GPU, whatever its local rank.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert launch._device(3) == torch.device("cuda:0")
    assert chosen == [torch.device("cuda:3"), torch.device("cuda:0")]


@pytest.mark.parametrize(("processes", "threads"), [(1, 8), (3, 2), (8, 1), (20, 1)])
def test_processes_of_a_machine_share_its_cores(
    processes: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    launch._share_cores(processes)
    monkeypatch.delenv("OMP_NUM_THREADS")
    launch._share_cores(processes)
    assert chosen == [threads]


@pytest.mark.usefixtures("clean_environment")
def test_the_user_s_choice_of_interface_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    launch._choose_interface("127.0.0.1", 29_500)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    launch._choose_interface("127.0.0.1", 29_500)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"


def test_after_an_error_nccl_does_not_wait_for_pending_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("destroy"))
    monkeypatch.setattr(
        dist.distributed_c10d, "_abort_process_group", lambda: calls.append("abort")
    )
    for backend in ("nccl", "gloo"):
        monkeypatch.setattr(dist, "get_backend", lambda backend=backend: backend)
        launch._abandon()
    assert calls == ["abort", "destroy"]


def test_the_last_processes_are_set_aside() -> None:
    def ranks(rank: int) -> Ranks:
        plan = LaunchPlan(
            launcher="torchrun", rank=rank, world_size=5, local_rank=rank, local_world_size=5
        )
        return launch._ranks(plan, set_aside=2)

    found = [ranks(rank) for rank in range(5)]
    assert [r.is_set_aside for r in found] == [False, False, False, True, True]
    assert [(r.rank, r.world_size) for r in found] == [(0, 3), (1, 3), (2, 3), (0, 2), (1, 2)]
    assert [r.local_rank for r in found] == list(range(5))
    assert [r.is_main for r in found] == [True, False, False, False, False]


@pytest.mark.parametrize(("processes", "set_aside"), [(1, 1), (2, 2), (2, 3)])
def test_somebody_has_to_train(
    processes: int, set_aside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, str(processes))
    expected = rf"^--refresh_workers \({set_aside}\) must be below {processes}, .*"
    with pytest.raises(OptionError, match=expected) as found, process_group(set_aside=set_aside):
        pass
    assert found.value.is_shared and "\n" not in str(found.value)
