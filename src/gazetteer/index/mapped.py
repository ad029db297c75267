"""Matrices in files: as large as the disk, in memory only as long as the kernel likes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gazetteer.errors import IndexFileError


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
