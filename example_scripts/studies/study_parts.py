"""Parts of a study: each done once, by one process, and gone on with where it was stopped."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def taken(path: Path, *, waits: bool) -> Iterator[bool]:
    """Whether this process alone holds the lock; it is freed with the process, if not before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def once(folder: Path, name: str, work: Callable[[], None], *, waits: bool) -> None:
    """Do some work and note its seconds, unless that is done, or another process is at it."""
    done = folder / "seconds" / name
    with taken(folder / "locks" / name, waits=waits) as is_ours:
        if not is_ours or done.exists():
            return
        print(f"{time.strftime('%T')} {name}", flush=True)
        started = time.monotonic()
        work()
        done.parent.mkdir(exist_ok=True)
        done.write_text(f"{time.monotonic() - started:.0f}\n")
