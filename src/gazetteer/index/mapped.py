"""Matrices in files: as large as the disk, in memory only as long as the kernel likes."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gazetteer.errors import IndexFileError

MAP_FIXED = 0x10
"""Of Linux: Python has no name for it. What is mapped at those addresses is replaced."""


def mapped_matrix(folder: Path, rows: int, dim: int) -> Float[Tensor, "row dim"]:
    """Make a float32 matrix of zeros that lives in a file of its own.

    The file has no name: it goes when the tensor goes, even if the process is killed.

    Args:
        folder: on the disk to use; created if missing.
        rows: may be 0.
        dim: numbers in a row.

    Raises:
        IndexFileError: the disk has no room for it, or the folder cannot be written.
    """
    size = rows * dim * 4
    if size == 0:
        return torch.zeros(rows, dim)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as handle:
            # Now or never: a disk that fills up under a memory map kills the process.
            os.posix_fallocate(handle.fileno(), 0, size)
            array = np.memmap(handle, dtype=np.float32, mode="r+", shape=(rows, dim))
    except OSError as error:
        raise IndexFileError(
            f"{folder}: no file of {size / 1e9:.2f} GB for the vectors"
            f" ({error.strerror}); choose another disk with --cache_dir"
        ) from None
    return torch.from_numpy(array)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive bytes of a file.

    Attributes:
        path: of the file.
        start: first byte.
        size: number of bytes, at least 1.
    """

    path: Path
    start: int
    size: int


def map_stretches(
    stretches: Sequence[Stretch], *, is_writable: bool = False
) -> UInt8[Tensor, " byte"] | None:
    """Map parts of files into memory, one after the other, as if they were one.

    Nothing is read before it is looked at, and what is read the kernel may drop again. The map
    outlives the names of its files, and goes with the tensor.

    Args:
        stretches: at least one.
        is_writable: what is written stays with this process; else writing ends it.

    Returns:
        None where they do not fit: all but the first must begin, and all but the last end, where a
        page does.

    Raises:
        OSError: a file is missing, or there is no room for so many addresses.
    """
    page = mmap.PAGESIZE
    if any(part.start % page for part in stretches[1:]):
        return None
    if any((part.start + part.size) % page for part in stretches[:-1]):
        return None
    before = stretches[0].start % page
    size = sum(part.size for part in stretches)
    # Addresses without memory; each file takes the place of some. They are given back together.
    room = mmap.mmap(-1, before + size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
    array = np.frombuffer(room, dtype=np.uint8)
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if is_writable else 0)
    place = array.ctypes.data
    for part in stretches:
        skipped = part.start % page
        _map_at(place, part.path, part.start - skipped, skipped + part.size, protection)
        place += skipped + part.size
    with warnings.catch_warnings():
        # That it cannot be written to, which is what we want.
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)[before:]


def _map_at(place: int, path: Path, offset: int, size: int, protection: int) -> None:
    with path.open("rb") as handle:
        flags = mmap.MAP_PRIVATE | MAP_FIXED
        if _libc().mmap(place, size, protection, flags, handle.fileno(), offset) != place:
            problem = ctypes.get_errno()
            raise OSError(problem, os.strerror(problem), str(path))


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    number, address = ctypes.c_int, ctypes.c_void_p
    libc.mmap.argtypes = [address, ctypes.c_size_t, number, number, number, ctypes.c_long]
    libc.mmap.restype = address
    return libc
