"""Processes found by what is in their environment, as a launcher marks those it starts."""

from __future__ import annotations

import os
from pathlib import Path


def processes_with(*settings: str) -> list[int]:
    """Numbers of the processes whose environment has all these `NAME=value`."""
    wanted = {setting.encode() for setting in settings}
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            environment = Path("/proc", name, "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # It ended, or is not ours.
        if wanted <= set(environment):
            found.append(int(name))
    return sorted(found)
