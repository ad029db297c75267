"""Tensors in a file of `torch.save`, found without unpickling and read one at a time."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gazetteer.convert.checkpoint_pickle import REBUILD, REBUILD_PARAMETER, read_checkpoint_pickle
from gazetteer.errors import CheckpointError
from gazetteer.index.restricted_pickle import Call, Reference, RefusedPickleError, Symbol
from gazetteer.index.torch_files import (
    content_start,
    one_line_reason,
    pickle_entry,
    require_zip,
    stored_entry,
)

DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
}
LARGEST_DESCRIPTION = 1 << 28
"""Bytes of the pickle that describes a checkpoint; a thousand tensors need half a million."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedTensor:
    """A tensor that lies in a file, not read yet.

    Attributes:
        path: the file.
        dtype: of its numbers.
        shape: of the tensor.
        strides: how far apart neighbours are in the storage, in numbers, for each dimension.
        start: where its first number is in the file, in bytes.
        extent: bytes from there to behind its last number.
    """

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int
    extent: int

    def read(self) -> Tensor:
        """The tensor, contiguous, in the file's dtype; needs its size twice only if it was not.

        Raises:
            CheckpointError: the file was cut short meanwhile.
        """
        content = bytearray(self.extent)
        view, done = memoryview(content), 0
        # Not a memory map: a file that shrinks meanwhile would end the process.
        with self.path.open("rb") as file:
            while done < self.extent:
                count = os.preadv(file.fileno(), [view[done:]], self.start + done)
                if count == 0:
                    raise CheckpointError(f"{self.path}: the file was cut short while it was read")
                done += count
        if not content:
            return torch.empty(self.shape, dtype=self.dtype)
        numbers = torch.frombuffer(content, dtype=self.dtype)
        return numbers.as_strided(self.shape, self.strides).contiguous()


@dataclass(frozen=True, slots=True)
class SavedState:
    """A checkpoint as its pickle describes it.

    Attributes:
        content: what was saved, tensors as `Call`.
        tensors: makes a `SavedTensor` of the calls that are some.
    """

    content: Any
    tensors: _Archive


def open_saved_state(path: Path) -> SavedState:
    """Read the description of a file that `torch.save` wrote; its tensors stay where they are.

    Raises:
        CheckpointError: it is cut short or damaged, or names a class that no checkpoint holds.
    """
    try:
        with path.open("rb") as file:
            require_zip(file)
            with zipfile.ZipFile(file) as archive:
                root, pickled = pickle_entry(archive)
                if pickled.file_size > LARGEST_DESCRIPTION:
                    raise ValueError("its description is too large")
                with archive.open(pickled) as entry:
                    content = read_checkpoint_pickle(entry)
                entries = {
                    name.removeprefix(f"{root}data/"): stored_entry(archive, name)
                    for name in archive.namelist()
                    if name.startswith(f"{root}data/")
                }
                starts = {
                    key: (content_start(file, entry), entry.file_size)
                    for key, entry in entries.items()
                }
        return SavedState(content, _Archive(path, starts, path.stat().st_size))
    except RefusedPickleError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except zipfile.BadZipFile:
        raise CheckpointError(f"{path}: cut short or damaged") from None
    except (OSError, ValueError, NotImplementedError, EOFError) as error:
        reason = one_line_reason(error)
        raise CheckpointError(f"{path}: not a readable checkpoint ({reason})") from None


@dataclass(frozen=True, slots=True)
class _Archive:
    path: Path
    storages: Mapping[str, tuple[int, int]]
    size: int

    def locate(self, key: str, described: object) -> SavedTensor:
        """Where the tensor under `key` lies.

        Raises:
            CheckpointError: it is no tensor, or reaches out of its storage or of the file.
        """
        try:
            return self._locate(described)
        except ValueError as error:
            raise CheckpointError(f"{self.path}: {key}: {error}") from None

    def _locate(self, described: object) -> SavedTensor:
        if isinstance(described, Call) and described.function == REBUILD_PARAMETER:
            described = described.arguments[0] if described.arguments else None
        match described:
            case Call(
                function=function,
                arguments=(
                    Reference(key=("storage", Symbol(name=kind), str(storage), *_)),
                    int(offset),
                    tuple(shape),
                    tuple(strides),
                    *_,
                ),
            ) if function == REBUILD:
                pass
            case _:
                raise ValueError("expected a tensor")
        if kind not in DTYPES:
            raise ValueError(f"a tensor of {kind}, expected one of {', '.join(DTYPES)}")
        if storage not in self.storages:
            raise ValueError(f"its storage {storage!a} is missing")
        if len(shape) != len(strides) or not all(
            type(n) is int and n >= 0 for n in (offset, *shape, *strides)
        ):
            raise ValueError("its shape or strides are no whole numbers")
        dtype, (begin, size) = DTYPES[kind], self.storages[storage]
        available = size // dtype.itemsize
        count = 1
        for length in shape:
            count *= length
        numbers = 0
        if count:
            numbers = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        # Strides of 0 would make much out of little.
        if max(count, offset + numbers) > available:
            raise ValueError(f"shape {list(shape)} in a storage of {available} numbers")
        if begin + size > self.size:
            raise ValueError("the file is cut short")
        return SavedTensor(
            path=self.path,
            dtype=dtype,
            shape=shape,
            strides=strides,
            start=begin + offset * dtype.itemsize,
            extent=numbers * dtype.itemsize,
        )
