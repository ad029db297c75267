"""Vectors that lie in files of any layout, read by global row: what the tools copy from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gazetteer.errors import IndexFileError
from gazetteer.index.file_layout import split_rows
from gazetteer.index.loading import TENSOR
from gazetteer.index.manifest import Manifest
from gazetteer.index.shards import overlap

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Names of safetensors."""


@dataclass(frozen=True, slots=True)
class VectorFile:
    """Consecutive vectors in one file.

    Attributes:
        rows: number of vectors.
        dtype: of the numbers.
        read: vectors of a range of rows of the file, counted from 0.
    """

    rows: int
    dtype: torch.dtype
    read: Callable[[range], Float[Tensor, "row dim"]]


class VectorSource:
    """Vectors of several files, one after the other.

    Args:
        files: in order of row.
        embedding_dim: length of a vector.
    """

    def __init__(self, files: Sequence[VectorFile], embedding_dim: int) -> None:
        self.files = tuple(files)
        self.embedding_dim = embedding_dim

    @property
    def count(self) -> int:
        """Vectors in all files."""
        return sum(file.rows for file in self.files)

    @property
    def dtype(self) -> torch.dtype:
        """The smallest one that holds every file's numbers exactly."""
        kinds = {file.dtype for file in self.files} or {torch.float32}
        return kinds.pop() if len(kinds) == 1 else torch.float32

    def rows(self, rows: range, dtype: torch.dtype) -> Float[Tensor, "row dim"]:
        """Vectors of a contiguous range of rows, on the CPU.

        Raises:
            IndexFileError: a number is too large for the dtype.
        """
        result = torch.empty(len(rows), self.embedding_dim, dtype=dtype)
        first = 0
        for file in self.files:
            shared = overlap(range(first, first + file.rows), rows)
            if len(shared) > 0:
                part = file.read(range(shared.start - first, shared.stop - first))
                result[shared.start - rows.start : shared.stop - rows.start] = part
            first += file.rows
        _require_finite(result, rows, dtype)
        return result

    def parts(
        self, files: int, dtype: torch.dtype, *, page: int = 1
    ) -> Iterator[Float[Tensor, "row dim"]]:
        """All vectors, in so many parts of nearly equal size, one in memory at a time.

        Args:
            files: number of parts.
            dtype: of them.
            page: rows of which each part but the last has a whole number.
        """
        for rows in split_rows(range(self.count), files, page):
            yield self.rows(rows, dtype)


def _require_finite(vectors: Float[Tensor, "row dim"], rows: range, dtype: torch.dtype) -> None:
    bad = (~vectors.isfinite()).any(dim=1)
    if bool(bad.any()):
        row = rows[int(bad.nonzero()[0])]
        raise IndexFileError(f"the vector of row {row} has numbers that {dtype} does not hold")


def saved_vectors(folder: Path, manifest: Manifest) -> VectorSource:
    """Vectors of a saved index. Hashes are not compared here: see `find_problems`.

    Raises:
        IndexFileError: a file holds something else than the manifest says.
    """
    files = []
    for file in sorted(manifest.files, key=lambda file: (file.first_row, file.rows)):
        dtype = stored_dtype(folder / file.name, (file.rows, manifest.embedding_dim))
        read = partial(_read_rows, folder / file.name)
        files.append(VectorFile(file.rows, dtype, read))
    return VectorSource(files, manifest.embedding_dim)


def stored_dtype(path: Path, shape: tuple[int, int]) -> torch.dtype:
    """Dtype of the vectors in a file, after a look at its header.

    Raises:
        IndexFileError: it is not readable, or holds something else than vectors of this shape.
    """
    try:
        with safe_open(path, framework="pt") as tensors:
            header = tensors.get_slice(TENSOR)
            found, name = tuple(header.get_shape()), header.get_dtype()
    except (SafetensorError, OSError) as error:
        raise IndexFileError(f"{path}: {' '.join(str(error).split())}") from None
    if found != shape or name not in DTYPES:
        raise IndexFileError(
            f"{path}: vectors of shape {found} and type {name}, the manifest says {shape}"
        )
    return DTYPES[name]


def _read_rows(path: Path, rows: range) -> Float[Tensor, "row dim"]:
    try:
        with safe_open(path, framework="pt") as tensors:
            return tensors.get_slice(TENSOR)[rows.start : rows.stop]
    except (SafetensorError, OSError) as error:
        raise IndexFileError(f"{path}: {' '.join(str(error).split())}") from None
