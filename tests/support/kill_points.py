"""Ends a piece of work at any of its steps on the disk, or has the disk refuse it, elsewhere.

Elsewhere is a copy of this process, which costs milliseconds: what is imported and built is there.
A step is what Python tells its audit hooks of (open, rename, remove, ...), `fsync`, and half-way
through a write of Python's. Writes of libraries are met by a limit on the size of files.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KILLED = -signal.SIGKILL
TOO_LARGE = -signal.SIGXFSZ
CHANGES = {
    "open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink",
    "os.truncate", "shutil.rmtree",
}  # fmt: skip
"""Audit events that come before a change (or, as `open` with a descriptor, around one)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens, and when.

    Attributes:
        step: of the work on the disk, from 0; None: at none.
        error: number of the error that the step fails with; None: the process is killed there.
        largest_file: bytes; a write beyond ends the process, or fails if there is an error.
        output: gets what the work writes to stdout and stderr; None: where it would go anyway.
    """

    step: int | None = None
    error: int | None = None
    largest_file: int | None = None
    output: Path | None = None


def disk_steps(work: Callable[[], object], folder: Path) -> int:
    """How many steps a piece of work has below a folder; it is done, in another process."""
    reading, writing = os.pipe()
    status = in_child(work, folder, Fault(), report_to=writing)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    assert status == 0, f"the work itself failed with {status}"
    return int(text)


def kill_at(work: Callable[[], object], folder: Path, step: int) -> bool:
    """Do a piece of work in another process that is killed just before this step (from 0).

    Returns:
        Whether it was killed; False means it was done before.
    """
    status = in_child(work, folder, Fault(step=step))
    assert status in (0, KILLED), f"the work itself failed with {status}"
    return status == KILLED


def in_child(
    work: Callable[[], object], folder: Path, fault: Fault, report_to: int | None = None
) -> int:
    """Do a piece of work in another process.

    Returns:
        The number that the work returned, 0 for none, 1 for an error; negative: the signal that
        ended it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Newer Pythons warn of forking beside threads; the child does nothing with theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            steps = _prepare(folder, fault, writing)
            result = work()
            if report_to is not None:
                os.write(report_to, str(steps[0]).encode())
            status = result if isinstance(result, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    if fault.output is not None:
        fault.output.write_bytes(said)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _prepare(folder: Path, fault: Fault, output: int) -> list[int]:
    if fault.output is not None:
        for number in (1, 2):
            os.dup2(output, number)
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    if fault.largest_file is not None:
        # Python ignores the signal, and gets an error from the write instead.
        handler = signal.SIG_DFL if fault.error is None else signal.SIG_IGN
        signal.signal(signal.SIGXFSZ, handler)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.largest_file, fault.largest_file))
    return _count_steps(folder, fault)


def _count_steps(folder: Path, fault: Fault) -> list[int]:
    """Count steps on the disk from now on, in this process; the fault comes at its own."""
    count = [0]
    below = str(folder)

    def step(path: object) -> None:
        count[0] += 1
        if count[0] - 1 != fault.step:
            return
        if fault.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            raise OSError(fault.error, os.strerror(fault.error), str(path))

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES:
            return
        # Names without a folder: those that `shutil.rmtree` removes, of a folder it holds open.
        names = [str(arguments[-2 if event == "os.symlink" else 0])]
        is_ours = names[0].startswith(below) or event in ("os.remove", "os.rmdir")
        if is_ours and (event != "open" or arguments[1] not in ("r", "rb")):
            step(names[0])

    def write_in_halves(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            step(path)
            return file.write(content[len(content) // 2 :])

    original_sync = os.fsync

    def sync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.startswith(below):
            step(path)
        original_sync(descriptor)

    Path.write_bytes = write_in_halves  # type: ignore[method-assign, assignment]
    Path.write_text = lambda path, text, *_, **__: write_in_halves(path, text.encode())  # type: ignore[method-assign, assignment]
    os.fsync = sync
    sys.addaudithook(watch)
    return count
