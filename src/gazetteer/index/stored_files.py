"""The files of a saved index: written under names that only their content has, verified when read.

No version of an index loses a file to another, so the manifest alone decides which one is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors.torch import save_file
from torch import Tensor

from gazetteer.errors import IndexFileError
from gazetteer.files import file_digest, sync


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

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Read the entry of a manifest. Raises TypeError or ValueError where it is none."""
        file = cls(**document)
        if Path(file.name).name != file.name:
            raise ValueError(f"'{file.name}' is not the name of a file in the folder itself")
        return file

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


def write_rows(stem: Path, name: str, rows: Tensor, first_row: int) -> IndexFile:
    """Write a matrix, one line per row of the index, as `{stem}.{hash}.safetensors`.

    Args:
        stem: path without hash and suffix.
        name: of the tensor in the file.
        rows: any dtype; a slice of something larger is fine.
        first_row: global row of the first line.
    """
    temporary = _temporary(stem)
    # A clone: a slice would drag the whole storage along.
    save_file({name: rows.detach().cpu().clone()}, temporary)
    digest, size = _settle(temporary)
    file = IndexFile(
        name=f"{stem.name}.{digest[:16]}.safetensors",
        first_row=first_row,
        rows=len(rows),
        bytes=size,
        sha256=digest,
    )
    temporary.replace(stem.with_name(file.name))
    return file


def write_bytes(stem: Path, suffix: str, content: bytes) -> StoredFile:
    """Write bytes as `{stem}.{hash}{suffix}`."""
    temporary = _temporary(stem)
    temporary.write_bytes(content)
    digest, size = _settle(temporary)
    file = StoredFile(name=f"{stem.name}.{digest[:16]}{suffix}", bytes=size, sha256=digest)
    temporary.replace(stem.with_name(file.name))
    return file


def _temporary(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.part")


def _settle(path: Path) -> tuple[str, int]:
    """Wait for the disk; then hash and size of what is there."""
    sync(path)
    return file_digest(path)
