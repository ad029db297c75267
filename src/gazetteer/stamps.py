"""Stamps: what large files looked like when they matched their hashes; they are not read again.

A stamp lies beside the files and says of each what the file system says of it, down to the time of
its last change, which no program can set. What it cannot notice is a disk that changes bits by
itself; `python -m gazetteer.index verify` reads everything.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gazetteer.files import STAMP

LARGE_BYTES = 2**20
"""Smaller files are read each time."""
SETTLED_NS = 2 * 10**9
"""A file that changed later than so long before the stamp is not in it: clocks of file systems
stand still for up to two seconds, and a change in that time would look like none."""

State = list[str | int]
"""Hash that was expected, size, inode, times of the last change to content and to anything."""


def large_file_state(path: Path, sha256: str) -> State | None:
    """What the file system says of a file, and the hash it should have; None if it is small.

    To be asked before the file is read: a change in between makes the stamp useless, not wrong.

    Raises:
        OSError: there is no such file.
    """
    found = path.stat()
    if found.st_size < LARGE_BYTES:
        return None
    return [sha256, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def read_stamp(folder: Path) -> dict[str, Any]:
    """State by name of the file; empty where there is no stamp, or none that can be read."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(folder: Path, states: Mapping[str, State]) -> None:
    """Remember files that matched their hashes, those that did not change a moment ago.

    A folder that cannot be written to stays without.
    """
    if not states:
        return
    temporary = folder / f".{STAMP}.{secrets.token_hex(4)}"
    with suppress(OSError):
        try:
            temporary.touch()
            # The clock of the file system, which may be another machine's.
            now = temporary.stat().st_mtime_ns
            settled = {name: s for name, s in states.items() if now - int(s[-1]) > SETTLED_NS}
            if settled:
                temporary.write_text(json.dumps(settled, indent=1) + "\n", encoding="utf-8")
                temporary.replace(folder / STAMP)
        finally:
            temporary.unlink(missing_ok=True)
