"""How the processes of a run find each other. The only place that knows torchrun and srun.

`plan_launch` reads the environment and decides; `process_group` carries it out.
"""

# torch documents its stores but does not export them.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from gazetteer.distributed.collectives import barrier
from gazetteer.distributed.interface import interface_of, local_address_towards
from gazetteer.distributed.set_aside import in_touch
from gazetteer.distributed.slurm import (
    expand_nodes,
    is_step,
    start_number,
    step_port,
    tasks_of_allocation,
    tasks_of_nodes,
)
from gazetteer.distributed.watch import watched
from gazetteer.errors import LaunchError, OptionError
from gazetteer.records import Ranks

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
DEFAULT_PORT = 29_500


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """Who this process is, and where rank 0 waits.

    Attributes:
        launcher: "torchrun", "srun" or "single".
        rank: of all processes.
        world_size: number of processes.
        local_rank: on this machine.
        local_world_size: processes on this machine.
        master: name or address of rank 0's machine.
        port: where its store listens.
    """

    launcher: str
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    master: str = "127.0.0.1"
    port: int = DEFAULT_PORT


def plan_launch(
    environment: Mapping[str, str], *, local_rank: int = -1, main_port: int = -1
) -> LaunchPlan:
    """Decide from the environment how this process was started.

    In order: torchrun (also inside srun, where its ranks count), a step of srun, one process.

    Args:
        environment: usually `os.environ`.
        local_rank: `--local_rank`; overrides the launcher's, -1 leaves it.
        main_port: `--main_port`; overrides the launcher's, -1 leaves it. Under torchrun it is
            ignored: the agent's store is already there, and another port would miss it.

    Raises:
        LaunchError: a batch script or an allocation without `srun`, or a half-set environment.
    """
    if "TORCHELASTIC_RUN_ID" in environment or "RANK" in environment or local_rank >= 0:
        return _torchrun(environment, local_rank, main_port)
    if is_step(environment):
        return _srun(environment, main_port)
    tasks = tasks_of_allocation(environment)
    if "SLURM_JOB_ID" in environment and tasks > 1:
        raise LaunchError(
            f"this allocation has {tasks} tasks (SLURM_NTASKS) but the program was started once, "
            "without srun: write `srun python train.py ...`, or use torchrun"
        )
    return LaunchPlan(launcher="single")


def _torchrun(environment: Mapping[str, str], local_rank: int, main_port: int) -> LaunchPlan:
    missing = [name for name in TORCHRUN if not environment.get(name)]
    if local_rank >= 0 and "LOCAL_RANK" in missing:
        missing.remove("LOCAL_RANK")
    if main_port >= 0 and "MASTER_PORT" in missing and not _agent_has_store(environment):
        missing.remove("MASTER_PORT")
    if missing:
        raise LaunchError(
            f"{', '.join(missing)} not set: start the program with torchrun or srun, or leave out "
            "--local_rank"
        )
    world_size = int(environment["WORLD_SIZE"])
    keeps_port = main_port < 0 or _agent_has_store(environment)
    return LaunchPlan(
        launcher="torchrun",
        rank=int(environment["RANK"]),
        world_size=world_size,
        local_rank=local_rank if local_rank >= 0 else int(environment["LOCAL_RANK"]),
        local_world_size=int(environment.get("LOCAL_WORLD_SIZE", world_size)),
        master=environment["MASTER_ADDR"],
        port=int(environment["MASTER_PORT"]) if keeps_port else main_port,
    )


def _srun(environment: Mapping[str, str], main_port: int) -> LaunchPlan:
    world_size = int(_first_set(environment, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"))
    nodes = expand_nodes(_first_set(environment, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"))
    per_node = _first_set(environment, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    node = int(_first_set(environment, "SLURM_NODEID"))
    return LaunchPlan(
        launcher="srun" if world_size > 1 else "single",
        rank=int(_first_set(environment, "SLURM_PROCID")),
        world_size=world_size,
        local_rank=int(_first_set(environment, "SLURM_LOCALID")),
        local_world_size=tasks_of_nodes(per_node)[node],
        master=environment.get("MASTER_ADDR") or nodes[0],
        port=main_port if main_port >= 0 else step_port(environment),
    )


def _first_set(environment: Mapping[str, str], *names: str) -> str:
    for name in names:
        if environment.get(name):
            return environment[name]
    raise LaunchError(
        f"{names[0]} not set, though SLURM_STEP_ID says this is a step of srun: start the program "
        "with srun itself, in an environment that nobody trimmed"
    )


@contextmanager
def process_group(
    *,
    local_rank: int = -1,
    main_port: int = -1,
    rendezvous_timeout_seconds: int = 300,
    collective_timeout_seconds: int = 600,
    set_aside: int = 0,
) -> Iterator[Ranks]:
    """Bring the processes together, and take them apart again.

    One process has no process group at all, nor have those set aside: the last ones by rank, they
    only stay in touch with rank 0 (see set_aside.py), and collectives are among the others. On an
    error no further collective is tried: the others would wait for it. They notice the closed
    connection, or run into the collective timeout, and learn whose fault it was (see watch.py).

    Args:
        local_rank: see `plan_launch`.
        main_port: see `plan_launch`.
        rendezvous_timeout_seconds: how long processes wait for each other at the start; loading
            torch alone may take ten seconds longer on one than on another.
        collective_timeout_seconds: how long a collective may take afterwards.
        set_aside: processes that take no part in the work of the others (`--refresh_workers`).

    Raises:
        LaunchError: the processes could not be brought together.
        PeerLostError: another of them is gone, or has failed.
        OptionError: `set_aside` leaves none of them; the same error in every process.
    """
    plan = plan_launch(os.environ, local_rank=local_rank, main_port=main_port)
    ranks = _ranks(plan, set_aside)
    if plan.launcher == "single":
        yield ranks
        return
    _share_cores(plan.local_world_size)
    address = _resolve(plan)
    _choose_interface(address, plan.port)
    store = _meet(plan, address, timedelta(seconds=rendezvous_timeout_seconds))
    with in_touch(store, ranks, collective_timeout_seconds):
        if ranks.is_set_aside:
            yield ranks
            return
        _connect(store, ranks, timedelta(seconds=collective_timeout_seconds))
        with watched(store, ranks, collective_timeout_seconds):
            try:
                yield ranks
                barrier()  # Who leaves early closes connections that others still use.
            except BaseException:
                _abandon()
                raise
        dist.destroy_process_group()


def _ranks(plan: LaunchPlan, set_aside: int) -> Ranks:
    """Who this process works with: the last ones of all are set aside.

    So every machine with a trainer has one at local rank 0, which prepares files for the others.
    """
    trainers = plan.world_size - set_aside
    if trainers < 1:
        error = OptionError(
            f"--refresh_workers ({set_aside}) must be below {plan.world_size}, the number of "
            "processes started: with --refresh_mode dedicated so many of them only embed, and at "
            "least one has to train (start more with torchrun or srun)"
        )
        error.is_shared = True
        raise error
    is_set_aside = plan.rank >= trainers
    return Ranks(
        rank=plan.rank - trainers if is_set_aside else plan.rank,
        local_rank=plan.local_rank,
        world_size=set_aside if is_set_aside else trainers,
        local_world_size=plan.local_world_size,
        device=_device(plan.local_rank),
        set_aside=set_aside,
        is_set_aside=is_set_aside,
    )


def _device(local_rank: int) -> torch.device:
    """One GPU per process; where a process sees only one (`--gpus-per-task`), that one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _share_cores(processes: int) -> None:
    """Threads of all processes on a machine together use each core once."""
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // processes))


def _resolve(plan: LaunchPlan) -> str:
    try:
        address = socket.gethostbyname(plan.master)
    except OSError as error:
        raise LaunchError(
            f"the machine of rank 0, '{plan.master}', cannot be found by name ({error}); "
            "set MASTER_ADDR to its address"
        ) from None
    is_chosen = plan.launcher != "srun" or os.environ.get("MASTER_ADDR")
    if address.startswith("127.") and plan.local_world_size < plan.world_size and not is_chosen:
        # As Debian's /etc/hosts has it: the others would wait in vain, each for itself.
        raise LaunchError(
            f"the machine of rank 0, '{plan.master}', is {address} here, where other machines "
            "cannot reach it (/etc/hosts); set MASTER_ADDR to its address"
        )
    return address


def _choose_interface(address: str, port: int) -> None:
    """Use the network on which rank 0 is reached, and no other, unless the user chose one.

    By itself gloo resolves its own host name, and across machines often ends up on the loopback.
    NCCL takes what it finds first.
    """
    try:
        name = interface_of(local_address_towards(address, port))
    except OSError:
        return  # No route: meeting rank 0 will fail, and say so better.
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        # NCCL takes a name for the beginning of one, but for the sign.
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")


def _meet(plan: LaunchPlan, address: str, timeout: timedelta) -> dist.Store:
    """Wait at rank 0's store until all have come, so that no later timeout counts the start."""
    try:
        store = _open_store(plan, address, timeout)
        if store.add("arrived", 1) == plan.world_size:
            store.set("complete", "yes")
        try:
            store.wait(["complete"], timeout)
        except dist.DistStoreError:
            raise LaunchError(
                f"only {store.add('arrived', 0)} of {plan.world_size} ranks came to "
                f"{address}:{plan.port} within {timeout.total_seconds():.0f} s "
                "(--rendezvous_timeout_seconds)"
            ) from None
    except (OSError, dist.DistError) as error:
        raise LaunchError(
            f"rank {plan.rank} could not meet the others at {address}:{plan.port} "
            f"({_first_line(error)})"
        ) from None
    return store


def _open_store(plan: LaunchPlan, address: str, timeout: timedelta) -> dist.Store:
    """Serve or join the store. Rank 0 listens on the chosen address, not on all interfaces."""
    is_joining = plan.rank != 0 or (plan.launcher == "torchrun" and _agent_has_store(os.environ))
    listener = None
    if not is_joining:
        listener = socket.create_server((address, plan.port), backlog=4096).detach()
    store = dist.TCPStore(
        address,
        plan.port,
        plan.world_size,
        is_master=not is_joining,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=listener,
    )
    # A second start may meet the store, or late processes, of the first: its keys are its own.
    return dist.PrefixStore(f"gazetteer/{start_number(os.environ)}", store)


def _connect(store: dist.Store, ranks: Ranks, timeout: timedelta) -> None:
    """Open the process group and use it once: rank 0 must not leave while others still connect."""
    try:
        dist.init_process_group(
            "nccl" if ranks.device.type == "cuda" else "gloo",
            store=store,
            rank=ranks.rank,
            world_size=ranks.world_size,
            timeout=timeout,
        )
        barrier()
    except RuntimeError as error:
        _abandon()
        raise LaunchError(
            f"rank {ranks.rank} could not connect to the others over "
            f"{os.environ.get('GLOO_SOCKET_IFNAME', 'any network')} ({_first_line(error)})"
        ) from None


def _abandon() -> None:
    """Leave without waiting for operations that the other ranks may never join."""
    if not dist.is_initialized():
        return
    if dist.get_backend() == "nccl":
        # A plain destroy flushes what is pending, until the collective timeout.
        dist.distributed_c10d._abort_process_group()
    else:
        dist.destroy_process_group()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _agent_has_store(environment: Mapping[str, str]) -> bool:
    """Whether the store lives in torchrun's own process, as it says in the environment."""
    return environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
