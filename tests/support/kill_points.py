"""Ends a piece of work at any of its steps on the disk, as a kill would, in another process."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

KILLED = 77
CHANGES = {
    "open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate",
    "shutil.rmtree",
}  # fmt: skip
"""Audit events that come before a change (or, as `open` with a descriptor, around one)."""


def disk_steps(work: Callable[[], object], folder: Path) -> int:
    """How many steps a piece of work has below a folder; it is done, in another process."""
    reading, writing = os.pipe()
    status = _in_child(work, folder, last_step=None, report_to=writing)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    assert status == 0, f"the work itself failed with {status}"
    return int(text)


def kill_at(work: Callable[[], object], folder: Path, step: int) -> bool:
    """Do a piece of work in another process that ends just before this step (from 0).

    Returns:
        Whether it was killed; False means it was done before.
    """
    status = _in_child(work, folder, last_step=step, report_to=None)
    assert status in (0, KILLED), f"the work itself failed with {status}"
    return status == KILLED


def _in_child(
    work: Callable[[], object], folder: Path, *, last_step: int | None, report_to: int | None
) -> int:
    with warnings.catch_warnings():
        # Newer Pythons warn of forking beside threads; the child does nothing with theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            steps = _count_steps(folder, last_step)
            work()
            if report_to is not None:
                os.write(report_to, str(steps[0]).encode())
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _count_steps(folder: Path, last_step: int | None) -> list[int]:
    """Count steps on the disk from now on, in this process; end it at the last one."""
    count = [0]
    below = str(folder)

    def step() -> None:
        if count[0] == last_step:
            os._exit(KILLED)
        count[0] += 1

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        # Names without a folder: those that `shutil.rmtree` removes, of a folder it holds open.
        is_ours = str(arguments[0]).startswith(below) or event in ("os.remove", "os.rmdir")
        if event not in CHANGES or not is_ours:
            return
        if event != "open" or arguments[1] not in ("r", "rb"):
            step()

    def write_in_halves(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            step()
            return file.write(content[len(content) // 2 :])

    Path.write_bytes = write_in_halves  # type: ignore[method-assign, assignment]
    sys.addaudithook(watch)
    return count
