"""Flags of how processes come together, and of handing a run to Slurm with submitit."""

# ruff: noqa: RUF009 - `flag` makes a dataclass field, which the linter cannot see.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gazetteer.flags import flag, flags_of

if TYPE_CHECKING:
    from gazetteer.options import Options

Launcher = Literal["auto", "submitit", "submitit_local"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchOptions:
    """Launch: how the processes come together."""

    launcher: Launcher = flag("auto", "auto: as started; submitit: give the run to Slurm (new)")
    local_rank: int = flag(-1, "this process on its machine; -1 = ask the launcher")
    main_port: int = flag(-1, "port where the processes meet; -1 = ask the launcher, or choose one")
    rendezvous_timeout_seconds: int = flag(300, "wait so long for every process to start (new)")
    collective_timeout_seconds: int = flag(600, "give up on a silent process after so long (new)")
    dry_run: bool = flag(False, "check everything, print the plan, and leave (new)")


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmOptions:
    """Slurm: the job that --launcher submitit asks for; what is not given, the cluster decides."""

    slurm_partition: str | None = flag(None, "partition (new)", metavar="NAME")
    slurm_time: int = flag(1440, "time limit in minutes; then the job goes on by itself (new)")
    slurm_nodes: int = flag(1, "machines (new)")
    slurm_gpus_per_node: int = flag(0, "GPUs of each machine, one process for each (new)")
    slurm_tasks_per_node: int | None = flag(
        None, "processes of each machine; none = one per GPU, or one (new)"
    )
    slurm_cpus_per_task: int | None = flag(None, "cores of each process (new)")
    slurm_mem: str | None = flag(None, "memory of each machine, such as 64GB (new)")
    slurm_account: str | None = flag(None, "account (new)", metavar="NAME")
    slurm_qos: str | None = flag(None, "quality of service (new)", metavar="NAME")
    slurm_constraint: str | None = flag(None, "features machines must have (new)")
    slurm_exclude: str | None = flag(None, "machines to avoid (new)", metavar="NODES")
    slurm_comment: str | None = flag(None, "comment, as some clusters ask for (new)")
    slurm_notice: int = flag(120, "seconds to save in, before the time limit (new)")
    slurm_requeues: int = flag(100, "continue so many times, at most (new)")
    slurm_folder: str | None = flag(
        None, "scripts and output of jobs; none = submitit/ in the experiment's folder (new)"
    )
    slurm_wait: bool = flag(False, "wait for the job, and leave with its exit code (new)")

    @property
    def tasks_per_node(self) -> int:
        """Processes of each machine."""
        return self.slurm_tasks_per_node or max(1, self.slurm_gpus_per_node)


def job_folder(options: Options) -> Path:
    """Where scripts and output of submitted jobs are kept."""
    given = options.slurm.slurm_folder
    return Path(given) if given else options.experiment.folder / "submitit"


def launch_rules(options: Options) -> Iterator[str]:
    """What is wrong with the flags of a submission, one line each."""
    slurm = options.slurm
    is_submitted, folder = options.launch.launcher != "auto", str(job_folder(options))
    words = {each.name: getattr(slurm, each.name) for each in flags_of(SlurmOptions)}
    if is_submitted:
        words |= {"name": options.experiment.name, "slurm_folder": folder}
    for name, value in words.items():
        if isinstance(value, str) and not value.isprintable():
            yield f"--{name} ({value!r}) must be one line of printable characters"
    if is_submitted and "%" in folder:
        yield f"--slurm_folder ({folder}) must not contain %, which Slurm replaces"
    if options.launch.launcher == "submitit_local" and slurm.slurm_nodes > 1:
        yield f"--slurm_nodes ({slurm.slurm_nodes}) must be 1 with --launcher submitit_local"
    if 60 * slurm.slurm_time <= slurm.slurm_notice:
        yield (
            f"--slurm_notice ({slurm.slurm_notice}) must be below --slurm_time "
            f"({slurm.slurm_time} minutes)"
        )
