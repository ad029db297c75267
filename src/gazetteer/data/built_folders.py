"""Folders built once and reused by many processes: whole and intact, or not there.

A file that lost one bit can end the process inside the library that maps it, so every folder
carries the hashes of its files, and they are checked before anything is mapped.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from gazetteer.errors import IndexFileError
from gazetteer.files import MANIFEST, find_damage, write_manifest


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


def require_built(folder: Path, content: str) -> None:
    """Read every file of a built folder once, and compare it with its hash.

    Args:
        folder: written by `build_folder`.
        content: what is kept there, in the plural.

    Raises:
        IndexFileError: there is no such folder, or a file is not what was written.
    """
    if not (folder / MANIFEST).is_file():
        raise IndexFileError(f"{folder}: no {content} here ({MANIFEST} is missing)")
    damage = find_damage(folder)
    if damage is not None:
        raise IndexFileError(f"{folder}: damaged {content} ({damage})")
