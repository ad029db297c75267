"""One tensor in a file of `torch.save`, read in parts, without unpickling and without its storage.

Such a file is a zip archive: a pickle that says which part of which storage the tensor is, and the
storages as they lie in memory, stored without compression. A tensor that was saved as a slice drags
its whole storage along (Atlas #22); only the slice is read.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gazetteer.errors import IndexFileError
from gazetteer.index.restricted_pickle import (
    Call,
    Reference,
    RefusedPickleError,
    Symbol,
    read_pickle,
)

ZIP_MARK = b"PK\x03\x04"
LEGACY_MARK = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""A pickled number that opened every file of torch before 1.6."""
DTYPES = {
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
}
REBUILD = "torch._utils._rebuild_tensor_v2"
SYMBOLS = frozenset({REBUILD, "collections.OrderedDict", *DTYPES})
LARGEST_DESCRIPTION = 1 << 20
"""Bytes of the pickle that describes one tensor; a few hundred are usual."""
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Of a zip entry: mark, then at the end the lengths of the name and of the extra field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedMatrix:
    """A matrix that lies in a file, not read yet.

    Attributes:
        path: the file.
        dtype: of its numbers.
        shape: (dim, vectors), as Atlas keeps them: one column per passage.
        strides: how far apart rows and columns are in the storage, in numbers.
        start: where its first number is in the file, in bytes.
        storage_bytes: size of the whole storage, of which the matrix may be a small part.
    """

    path: Path
    dtype: torch.dtype
    shape: tuple[int, int]
    strides: tuple[int, int]
    start: int
    storage_bytes: int

    @property
    def bytes(self) -> int:
        """Size of the matrix alone."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def vectors(self, columns: range) -> Float[Tensor, "row dim"]:
        """Read some columns, as the rows of the result, in the file's dtype; nothing else is read.

        Args:
            columns: contiguous, inside the matrix.
        """
        raw = np.dtype(f"<u{self.dtype.itemsize}")
        result = np.empty((len(columns), self.shape[0]), raw)
        rows_lie_apart = self.strides[0] >= self.strides[1]
        # Runs of numbers near one another, and how far it is from one run to the next.
        runs = result.T if rows_lie_apart else result
        far, near = self.strides if rows_lie_apart else reversed(self.strides)
        extent = ((runs.shape[1] - 1) * near + 1) * raw.itemsize
        place = self.start + columns.start * self.strides[1] * raw.itemsize
        if runs.size > 0:
            with self.path.open("rb") as file:
                for run in runs:
                    run[:] = np.frombuffer(self._read(file, place, extent), raw)[:: near or 1]
                    place += far * raw.itemsize
        return torch.from_numpy(result).view(self.dtype)

    def _read(self, file: IO[bytes], place: int, size: int) -> bytes:
        # Not a memory map: a file that shrinks meanwhile would end the process.
        content = os.pread(file.fileno(), size, place)
        if len(content) != size:
            raise IndexFileError(f"{self.path}: the file was cut short while it was read")
        return content


def open_matrix(path: Path) -> SavedMatrix:
    """Find out where a file of `torch.save` keeps its one matrix.

    Raises:
        IndexFileError: it holds something else, is cut short, or asks for code to be run.
    """
    try:
        with path.open("rb") as file:
            require_zip(file)
            with zipfile.ZipFile(file) as archive:
                root, pickled = pickle_entry(archive)
                if pickled.file_size > LARGEST_DESCRIPTION:
                    raise ValueError("expected one matrix")
                described = read_pickle(io.BytesIO(archive.read(pickled)), SYMBOLS)
                return _locate(path, file, archive, root, described)
    except RefusedPickleError as error:
        raise IndexFileError(f"{path}: {error}") from None
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise IndexFileError(f"{path}: not a readable tensor ({one_line_reason(error)})") from None


def read_saved_list(path: Path) -> Any:  # noqa: ANN401 - checked by the caller
    """Plain data of a pickle, or of a file that `torch.save` wrote of it.

    Raises:
        IndexFileError: it holds more than plain data, or is damaged.
    """
    try:
        with path.open("rb") as file:
            if not _is_zip(file):
                _refuse_legacy(file)
                return read_pickle(file)
            with zipfile.ZipFile(file) as archive, archive.open(pickle_entry(archive)[1]) as entry:
                return read_pickle(entry)
    except RefusedPickleError as error:
        raise IndexFileError(f"{path}: {error}") from None
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise IndexFileError(f"{path}: not a readable list ({one_line_reason(error)})") from None


def one_line_reason(error: Exception) -> str:
    """What an error says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _is_zip(file: IO[bytes]) -> bool:
    mark = file.read(len(ZIP_MARK))
    file.seek(0)
    return mark == ZIP_MARK


def require_zip(file: IO[bytes]) -> None:
    """Raise ValueError unless the file looks like one of torch 1.6 or newer."""
    if not _is_zip(file):
        _refuse_legacy(file)
        raise ValueError("expected a file of torch.save")


def _refuse_legacy(file: IO[bytes]) -> None:
    is_legacy = file.read(len(LEGACY_MARK)) == LEGACY_MARK
    file.seek(0)
    if is_legacy:
        raise ValueError("the format of torch before 1.6; load and save it again with a newer one")


def pickle_entry(archive: zipfile.ZipFile) -> tuple[str, zipfile.ZipInfo]:
    """The archive's inner folder, and the entry of the pickle."""
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise ValueError(f"found {len(names)} pickles, expected 1")
    root = names[0].removesuffix("data.pkl")
    order = f"{root}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise ValueError("numbers with the highest byte first")
    return root, stored_entry(archive, names[0])


def stored_entry(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """An entry that lies in the file as it is; ValueError if there is none."""
    try:
        entry = archive.getinfo(name)
    except KeyError:
        raise ValueError(f"{name!a} is missing") from None
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name!a} is compressed")
    return entry


def _locate(
    path: Path, file: IO[bytes], archive: zipfile.ZipFile, root: str, described: object
) -> SavedMatrix:
    dtype, key, offset, shape, strides = _parse(described)
    entry = stored_entry(archive, f"{root}data/{key}")
    available = entry.file_size // dtype.itemsize
    if shape[0] * shape[1] > available:
        raise ValueError(f"a matrix of {shape[0]} x {shape[1]} in a storage of {available} numbers")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min(shape) > 0 and last >= available:
        raise ValueError(f"the matrix ends at number {last}, its storage has {available}")
    begin = content_start(file, entry)
    if begin + entry.file_size > path.stat().st_size:
        raise ValueError("the file is cut short")
    return SavedMatrix(
        path=path,
        dtype=dtype,
        shape=shape,
        strides=strides,
        start=begin + offset * dtype.itemsize,
        storage_bytes=entry.file_size,
    )


def _parse(described: object) -> tuple[torch.dtype, str, int, tuple[int, int], tuple[int, int]]:
    """Dtype, name of the storage, offset in it, shape, strides."""
    match described:
        case Call(
            function=function,
            arguments=(
                Reference(key=("storage", Symbol(name=kind), str(key), str(), int())),
                int(offset),
                (int(rows), int(columns)),
                (int(row_stride), int(column_stride)),
                *_,
            ),
        ) if function == REBUILD and kind in DTYPES:
            if min(offset, rows, columns, row_stride, column_stride) >= 0:
                # The stride of a single row or column says nothing, and may be any number.
                strides = (row_stride if rows > 1 else 0, column_stride if columns > 1 else 0)
                return DTYPES[kind], key, offset, (rows, columns), strides
    raise ValueError("expected one matrix of float16, bfloat16 or float32")


def content_start(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Where an entry's content begins in the file; its own header says how long that header is."""
    file.seek(entry.header_offset)
    header = file.read(LOCAL_HEADER.size)
    if len(header) != LOCAL_HEADER.size or not header.startswith(ZIP_MARK):
        raise ValueError("damaged archive")
    _, name, extra = LOCAL_HEADER.unpack(header)
    return entry.header_offset + LOCAL_HEADER.size + name + extra
