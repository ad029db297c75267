"""Folders built once and reused by many processes: whole and intact, or not there.

A file that lost one bit can end the process inside the library that maps it, so every folder
carries the hashes of its files, and they are checked before anything is mapped. Of a large file,
once is enough while nobody touches it: a stamp beside it says what it looked like when it was
checked, down to the time of its last change, which no program can set. What a stamp cannot notice
is a disk that changes bits by itself; `python -m gazetteer.index verify` reads everything.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gazetteer.errors import IndexFileError
from gazetteer.files import MANIFEST, STAMP, find_damage, write_manifest

LARGE_BYTES = 2**20
"""Smaller files are read each time."""
SETTLED_NS = 2 * 10**9
"""Files that changed later than so long before they were checked get no stamp: clocks of file
systems stand still for up to two seconds, and a change in that time would look like none."""


def build_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Have a folder written beside its place, hash and sync its files, move it into place.

    Args:
        folder: its name belongs to this content alone: where another process was faster, its
            folder stays, unless it is damaged.
        write: fills the empty folder it is given.
    """
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        write(partial)
        write_manifest(partial)
        try:
            partial.rename(folder)
        except OSError:
            if find_damage(folder) is not None:
                shutil.rmtree(folder)
                partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_built(folder: Path, content: str, *, is_thorough: bool = False) -> None:
    """Compare every file of a built folder with its hash, but large ones only if they changed.

    Args:
        folder: written by `build_folder`.
        content: what is kept there, in the plural.
        is_thorough: read the files whatever the stamp says.

    Raises:
        IndexFileError: there is no such folder, or a file is not what was written.
    """
    if not (folder / MANIFEST).is_file():
        raise IndexFileError(f"{folder}: no {content} here ({MANIFEST} is missing)")
    # Looked at before they are read: a change in between makes the stamp useless, not wrong.
    states = _large_files(folder)
    stamped = {} if is_thorough else _stamped(folder)
    trusted = {name for name, state in states.items() if stamped.get(name) == state}
    damage = find_damage(folder, trusted)
    if damage is not None:
        raise IndexFileError(f"{folder}: damaged {content} ({damage})")
    if len(trusted) < len(states):
        # A folder that cannot be written to is checked each time.
        with suppress(OSError):
            _stamp(folder, states)


State = list[str | int]
"""Hash that was expected, size, inode, times of the last change to content and to anything."""


def _large_files(folder: Path) -> dict[str, State]:
    """What the file system says of each large file; nothing where the manifest cannot be read."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        states = {name: (facts["sha256"], (folder / name).stat()) for name, facts in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {
        name: [expected, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
        for name, (expected, found) in states.items()
        if found.st_size >= LARGE_BYTES
    }


def _stamped(folder: Path) -> dict[str, State]:
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _stamp(folder: Path, states: dict[str, State]) -> None:
    temporary = folder / f".{STAMP}.{secrets.token_hex(4)}"
    try:
        temporary.write_text(json.dumps(states, indent=1) + "\n", encoding="utf-8")
        # The clock of the file system, which may be another machine's.
        now = temporary.stat().st_mtime_ns
        if all(now - int(state[-1]) > SETTLED_NS for state in states.values()):
            temporary.replace(folder / STAMP)
    finally:
        temporary.unlink(missing_ok=True)
