"""The files of a saved index: written under names that only their content has, verified when read.

No version of an index loses a file to another, so the manifest alone decides which one is served.
A file never changes once it has its name: it may be mapped by somebody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from gazetteer.errors import IndexFileError
from gazetteer.files import file_digest
from gazetteer.index.tensor_files import write_hashed, write_tensors
from gazetteer.stamps import State, large_file_state, read_stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file of an index.

    Attributes:
        name: inside the index folder.
        bytes: size on disk.
        sha256: of the whole file.
    """

    name: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        """Raise ValueError for a name that could lead out of the folder."""
        if Path(self.name).name != self.name or self.name in ("", ".."):
            raise ValueError(f"'{self.name}' is not the name of a file in the folder itself")

    def verify(self, folder: Path) -> None:
        """Raise IndexFileError if the file is missing, or its size or hash is another."""
        path = folder / self.name
        if not path.is_file():
            raise IndexFileError(f"{path}: missing, though the manifest names it")
        digest, size = file_digest(path)
        if size != self.bytes:
            raise IndexFileError(f"{path}: {size} bytes, the manifest says {self.bytes}")
        if digest != self.sha256:
            raise IndexFileError(f"{path}: SHA-256 {digest}, the manifest says {self.sha256}")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFile(StoredFile):
    """One file of vectors, or of their codes.

    Attributes:
        first_row: global row of its first vector.
        rows: number of vectors; may be 0.
    """

    first_row: int
    rows: int

    @property
    def range(self) -> range:
        """Global rows."""
        return range(self.first_row, self.first_row + self.rows)


Kind = TypeVar("Kind", bound=StoredFile)


@dataclass(frozen=True, slots=True)
class Written(Generic[Kind]):
    """A file that was just written.

    Attributes:
        file: what the manifest will say of it.
        state: for a stamp; None if it is small.
    """

    file: Kind
    state: State | None


def verify_files(folder: Path, files: Sequence[StoredFile]) -> dict[str, State]:
    """Compare files with their hashes, in threads; large ones only if they changed since last time.

    Returns:
        States of the large ones, for a stamp; empty if all of them were in it.

    Raises:
        IndexFileError: one is missing, or its size or hash is another.
    """
    states: dict[str, State] = {}
    for file in files:
        # A file that is not there is named below.
        if (folder / file.name).is_file():
            state = large_file_state(folder / file.name, file.sha256)
            states |= {} if state is None else {file.name: state}
    stamped = read_stamp(folder)
    trusted = {name for name, state in states.items() if stamped.get(name) == state}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        unread = [file for file in files if file.name not in trusted]
        list(pool.map(lambda file: file.verify(folder), unread))
    return states if len(trusted) < len(states) else {}


def write_rows(
    stem: Path, name: str, rows: Tensor, first_row: int, *, is_mappable: bool = False
) -> Written[IndexFile]:
    """Write a matrix, one line per row of the index, as `{stem}.{hash}.safetensors`.

    Args:
        stem: path without hash and suffix.
        name: of the tensor in the file.
        rows: any dtype; a slice of something larger is fine.
        first_row: global row of the first line.
        is_mappable: begin the numbers on a page of their own.
    """
    return write_row_tensors(stem, {name: rows}, len(rows), first_row, is_mappable=is_mappable)


def write_row_tensors(
    stem: Path,
    tensors: Mapping[str, Tensor],
    rows: int,
    first_row: int,
    *,
    is_mappable: bool = False,
) -> Written[IndexFile]:
    """Write several tensors of the same rows. See `write_rows`; the first one is mapped."""
    temporary = _temporary(stem)
    digest, size = write_tensors(temporary, tensors, is_mappable=is_mappable)
    name = f"{stem.name}.{digest[:16]}.safetensors"
    file = IndexFile(name=name, first_row=first_row, rows=rows, bytes=size, sha256=digest)
    return _named(temporary, file)


def write_bytes(stem: Path, suffix: str, content: bytes) -> Written[StoredFile]:
    """Write bytes as `{stem}.{hash}{suffix}`."""
    temporary = _temporary(stem)
    digest, size = write_hashed(temporary, [content])
    name = f"{stem.name}.{digest[:16]}{suffix}"
    return _named(temporary, StoredFile(name=name, bytes=size, sha256=digest))


def _named(temporary: Path, file: Kind) -> Written[Kind]:
    path = temporary.with_name(file.name)
    temporary.replace(path)
    # Nobody knew the name so far, so nobody has written to it since.
    return Written(file, large_file_state(path, file.sha256))


def _temporary(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.part")
