"""What Slurm says in the environment, read without calling any of its programs."""

from __future__ import annotations

import re
from collections.abc import Mapping

_ITEM = re.compile(r"([^,\[]+(?:\[[^\]]*\])?)")
_BRACKETS = re.compile(r"^(.*)\[([^\]]*)\](.*)$")


def expand_nodes(node_list: str) -> list[str]:
    """Names behind `n[1-2,07-09],login`, in order; zero padding is kept."""
    names: list[str] = []
    for item in _ITEM.findall(node_list):
        match = _BRACKETS.match(item)
        if match is None:
            names.append(item)
            continue
        head, ranges, tail = match.groups()
        names += [f"{head}{number}{tail}" for part in ranges.split(",") for number in _range(part)]
    return names


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
    """A port that two steps of one job, or a step before and after a restart, do not share."""
    parts = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    job, step, restart = (int(environment.get(name, 0) or 0) for name in parts)
    return 20_000 + (job * 97 + step * 31 + restart * 7) % 20_000
