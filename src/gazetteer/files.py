"""Files and folders that are whole or absent: sync, hash, replace, verify."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gazetteer.errors import CheckpointError

MANIFEST = "manifest.json"
"""Sizes and hashes of a folder's files; written last."""
CHECKSUM = "manifest_sha256"
"""In a manifest: the hash of all else in it."""
DISK_ERRORS = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.ENOSPC,
        errno.EPERM,
        errno.EROFS,
        errno.ESTALE,
    }
)
"""What is wrong with a disk or with who may write on it, and not with this program."""
STAMP = "checked.json"
"""Beside a manifest: what large files looked like when they matched their hashes."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give errors of the disk the file they are about, where they do not say it themselves.

    A full disk is told by `write` and `fsync`, which know of no names, or by safetensors, whose
    errors are texts.
    """
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from None
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def disk_problem(error: Exception) -> str | None:
    """One line about a disk that is full, read-only, broken or closed to us; None for all else."""
    if not isinstance(error, OSError) or error.errno not in DISK_ERRORS:
        return None
    return f"{error.filename or 'a file'}: {os.strerror(error.errno)}"


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    with naming(path):
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
    replace_text(path, _laid_out(document))


def replace_text(path: Path, text: str) -> None:
    """Write a text under another name, sync it, and put it in place of `path` in one move."""
    temporary = path.with_name(f".{path.name}.new")
    with naming(path):
        temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def write_manifest(folder: Path) -> None:
    """Hash and sync every file of a folder, and the folders in it; then write the manifest."""
    files = {}
    about_files = (MANIFEST, STAMP)
    found = sorted(folder.rglob("*"))
    for path in (p for p in found if p.is_file() and p.name not in about_files):
        sync(path)
        digest, size = file_digest(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": size, "sha256": digest}
    for inner in (p for p in found if p.is_dir()):
        # The names in it; those of the folder itself come with the manifest.
        sync(inner)
    replace_manifest(folder, files)


def replace_manifest(folder: Path, files: dict[str, Any]) -> None:
    """Make a list of files the one that a folder is measured by, in one move."""
    replace_vouched(folder / MANIFEST, {"files": files})


def replace_vouched(path: Path, document: dict[str, Any]) -> None:
    """Write a manifest with the hash of all that is in it, in one move."""
    replace_text(path, vouched_text(document))


def vouched_text(document: dict[str, Any]) -> str:
    """A manifest as it is written, to the last space: one that is not was changed by somebody."""
    content = json.dumps(document, sort_keys=True).encode()
    return _laid_out(document | {CHECKSUM: hashlib.sha256(content).hexdigest()})


def _laid_out(document: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    return json.dumps(document, indent=1) + "\n"


def read_files_of(folder: Path) -> dict[str, Any]:
    """What a manifest says of each file.

    Every single byte of it counts. Manifests of earlier versions have no hash of their own.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not what was written.
    """
    text = (folder / MANIFEST).read_bytes().decode()
    document = json.loads(text)
    if not isinstance(document, dict) or not isinstance(document.get("files"), dict):
        raise ValueError("it lists no files")
    files = document["files"]
    is_old = document.keys() == {"files"}
    if text != (_laid_out if is_old else vouched_text)({"files": files}):
        raise ValueError(f"its content is not what its {CHECKSUM} vouches for")
    return files


def listed_files(folder: Path) -> dict[str, dict[str, Any]]:
    """What a folder's manifest says of its files, by name.

    Raises:
        CheckpointError: the manifest cannot be read.
    """
    try:
        return read_files_of(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: not readable ({error})") from None


def find_damage(folder: Path, trusted: Collection[str] = ()) -> str | None:
    """What is wrong with a folder, in one line, or None if every file matches its hash.

    Args:
        folder: with a manifest.
        trusted: names of files that need not be read.
    """
    try:
        files = read_files_of(folder)
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
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        return f"{MANIFEST} is not readable: {error}"
    return None


def require_intact(folder: Path) -> None:
    """Raise CheckpointError unless `folder` is a checkpoint whose files match their hashes."""
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder}: no checkpoint here ({MANIFEST} is missing)")
    damage = find_damage(folder)
    if damage is not None:
        raise CheckpointError(f"{folder}: {damage}")


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a file in a checkpoint.

    Raises:
        CheckpointError: it holds something else, though its hash is right.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not readable ({error})") from None
