"""One run of a name at a time: two would write the same checkpoints, and each undo the other's.

Rank 0 holds a lock of the operating system on a file of the experiment. It is let go when the
process ends, however it ends, once its last system call is over: a run that is started again
because its rank 0 was killed never meets a rename of the old one that is still under way.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from gazetteer.distributed.agreement import main_first
from gazetteer.distributed.watch import host_name
from gazetteer.errors import GazetteerError, RunningError
from gazetteer.records import Ranks

LOCK_FILE = ".running"
PATIENCE_SECONDS = 120.0
"""For what is left of an earlier start to end: a lock of a lost machine on NFS lives for 90 s."""
POLL_SECONDS = 0.2
logger = logging.getLogger(__name__)


@contextmanager
def only_run(folder: Path, ranks: Ranks, collective_timeout_seconds: float) -> Iterator[None]:
    """Hold the experiment's folder for the time of a run; wait for a while if another run does.

    Collective: every rank must call this. Nothing is left of it if the run writes nothing.

    Args:
        folder: of the experiment; created if missing.
        ranks: this process among its peers; those set aside take no part.
        collective_timeout_seconds: the others wait in a collective meanwhile.

    Raises:
        RunningError: another run holds it, and says where it runs.
        GazetteerError: the folder cannot be written; either is the same on every rank.
    """
    if ranks.is_set_aside:
        yield
        return
    held: list[TextIO] = []
    patience = min(PATIENCE_SECONDS, collective_timeout_seconds / 2)
    main_first(lambda: held.append(_take(folder, patience)), ranks)
    try:
        yield
    finally:
        for file in held:
            _leave_no_trace(folder)
            file.close()


def _take(folder: Path, patience: float) -> TextIO:
    deadline, has_told = time.monotonic() + patience, False
    while (file := _try_to_take(folder)) is None:
        holder = _holder(folder)
        if time.monotonic() > deadline:
            raise RunningError(
                f"{folder}: another run of this name is under way, {holder}; "
                "end it, or choose another --name"
            )
        if not has_told:
            has_told = True
            logger.warning("%s: waiting for a run under way, %s, to end", folder, holder)
        time.sleep(POLL_SECONDS)
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {host_name(os.environ)}\n")
        file.flush()
    except OSError as error:
        logger.warning("%s: %s", folder / LOCK_FILE, error.strerror)
    return file


def _try_to_take(folder: Path) -> TextIO | None:
    path = folder / LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise GazetteerError(
            f"{folder}: cannot be written: {reason} (--checkpoint_dir, --name)"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        # A file system without locks protects nobody, and keeps nobody from working.
        logger.warning("%s: no locks here (%s): start one run of a name only", folder, error)
    is_there = path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())
    if not is_there:
        # The run that held it removed it.
        file.close()
        return None
    return file


def _holder(folder: Path) -> str:
    try:
        return (folder / LOCK_FILE).read_text(encoding="utf-8").strip() or "somewhere"
    except OSError:
        return "somewhere"


def _leave_no_trace(folder: Path) -> None:
    """Remove the lock, and the folder of a run that was refused before it wrote anything."""
    with suppress(OSError):
        (folder / LOCK_FILE).unlink()
        folder.rmdir()
