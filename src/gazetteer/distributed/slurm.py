"""What Slurm says in the environment, read without calling any of its programs."""

from __future__ import annotations

import re
from collections.abc import Mapping

_COMMA_OUTSIDE_BRACKETS = re.compile(r",(?![^\[]*\])")
_INTERACTIVE = {"bash", "interactive"}
"""Names that Slurm gives to jobs that are no batch jobs."""
_SHELL_STEPS = {"4294967290", "4294967291"}
"""Step ids of the shell that `salloc` opens and of a batch script: no tasks that srun started."""

_STEP_NUMBERS = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")


def is_step(environment: Mapping[str, str]) -> bool:
    """Whether srun started this process as one of its tasks."""
    step = environment.get("SLURM_STEP_ID")
    return step is not None and step not in _SHELL_STEPS and "SLURM_PROCID" in environment


def is_batch_step(environment: Mapping[str, str]) -> bool:
    """Whether srun started this process inside a batch job, which Slurm can start again."""
    name = environment.get("SLURM_JOB_NAME", "bash")
    return is_step(environment) and name not in _INTERACTIVE


def tasks_of_allocation(environment: Mapping[str, str]) -> int:
    """Tasks the batch script or shell asked for, all groups of a heterogeneous job together."""
    groups = int(environment.get("SLURM_HET_SIZE") or 0)
    names = [f"SLURM_NTASKS_HET_GROUP_{number}" for number in range(groups)] or ["SLURM_NTASKS"]
    return sum(int(environment.get(name) or 1) for name in names)


def expand_nodes(node_list: str) -> list[str]:
    """Names behind `n[1-2,07-09],login`, in order; zero padding is kept."""
    return [name for item in _COMMA_OUTSIDE_BRACKETS.split(node_list) for name in _expand(item)]


def _expand(item: str) -> list[str]:
    head, _, rest = item.partition("[")
    if not rest:
        return [head]
    ranges, _, tail = rest.partition("]")
    numbers = [number for part in ranges.split(",") for number in _range(part)]
    return [f"{head}{number}{end}" for number in numbers for end in _expand(tail)]


def _range(text: str) -> list[str]:
    first, _, last = text.partition("-")
    if not last:
        return [first]
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


def tasks_of_nodes(text: str) -> list[int]:
    """Tasks of each node behind `3,1` or `2(x2),1`."""
    counts: list[int] = []
    for part in text.split(","):
        count, _, repeat = part.partition("(x")
        counts += [int(count)] * int(repeat.rstrip(")") or 1)
    return counts


def step_port(environment: Mapping[str, str]) -> int:
    """A port that two steps of one job, or a step before and after a restart, do not share.

    The first of those that Slurm reserved (`srun --resv-ports`), or else made of the numbers of
    job, step and restart.
    """
    reserved = environment.get("SLURM_STEP_RESV_PORTS")
    if reserved:
        return int(re.split("[-,]", reserved)[0])
    return port_of(*(int(environment.get(name) or 0) for name in _STEP_NUMBERS))


def port_of(job: int, step: int = 0, restart: int = 0) -> int:
    """Between 20,000 and 31,999: below the ports that Linux gives to outgoing connections."""
    return 20_000 + (job * 97 + step * 31 + restart * 7) % 12_000


def start_number(environment: Mapping[str, str]) -> str:
    """Differs from start to start of the same run, so that a late process meets no new one."""
    names = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
    return ".".join(environment.get(name) or "0" for name in names)
