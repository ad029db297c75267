"""Files and folders that are whole or absent: sync, hash, replace, verify."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gazetteer.errors import CheckpointError

MANIFEST = "manifest.json"
"""Sizes and hashes of a folder's files; written last."""
STAMP = "checked.json"
"""Beside a manifest: what large files looked like when they matched their hashes."""


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_digest(path: Path) -> tuple[str, int]:
    """SHA-256 (hexadecimal) and size in bytes of a file."""
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
        return digest, os.fstat(handle.fileno()).st_size


def replace_json(path: Path, document: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Write JSON under another name, sync it, and put it in place of `path` in one move."""
    replace_text(path, json.dumps(document, indent=1) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Write a text under another name, sync it, and put it in place of `path` in one move."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def write_manifest(folder: Path) -> None:
    """Hash and sync every file of a folder, then write the manifest, last."""
    files = {}
    about_files = (MANIFEST, STAMP)
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in about_files):
        sync(path)
        digest, size = file_digest(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": size, "sha256": digest}
    replace_json(folder / MANIFEST, {"files": files})


def find_damage(folder: Path, trusted: Collection[str] = ()) -> str | None:
    """What is wrong with a folder, in one line, or None if every file matches its hash.

    Args:
        folder: with a manifest.
        trusted: names of files that need not be read.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, expected in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if name in trusted:
                continue
            digest, size = file_digest(path)
            if size != expected["bytes"]:
                return f"{name} has {size} bytes, expected {expected['bytes']}"
            if digest != expected["sha256"]:
                return f"{name} has SHA-256 {digest}, expected {expected['sha256']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is not readable: {error}"
    return None


def require_intact(folder: Path) -> None:
    """Raise CheckpointError unless `folder` is a checkpoint whose files match their hashes."""
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder}: no checkpoint here ({MANIFEST} is missing)")
    damage = find_damage(folder)
    if damage is not None:
        raise CheckpointError(f"{folder}: {damage}")
