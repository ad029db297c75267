"""Folders built once and reused by many processes: whole and intact, or not there.

A file that lost one bit can end the process inside the library that maps it, so every folder
carries the hashes of its files, and they are checked before anything is mapped. Of a large file,
once is enough while nobody touches it (see stamps.py).
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from gazetteer.errors import IndexFileError
from gazetteer.files import MANIFEST, find_damage, read_files_of, write_manifest
from gazetteer.stamps import State, large_file_state, read_stamp, write_stamp


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
    states = _large_files(folder)
    stamped = {} if is_thorough else read_stamp(folder)
    trusted = {name for name, state in states.items() if stamped.get(name) == state}
    damage = find_damage(folder, trusted)
    if damage is not None:
        raise IndexFileError(f"{folder}: damaged {content} ({damage})")
    if len(trusted) < len(states):
        write_stamp(folder, states)


def _large_files(folder: Path) -> dict[str, State]:
    """State of each large file; nothing where the manifest or a file cannot be read."""
    try:
        files = read_files_of(folder)
        states = {name: large_file_state(folder / name, f["sha256"]) for name, f in files.items()}
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}
    return {name: state for name, state in states.items() if state is not None}
