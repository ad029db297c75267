"""Safetensors files: hashed while they are written, and laid out so that they can be mapped.

The format: eight bytes with the length of the header, the header in JSON, then the numbers. Spaces
after the header are allowed, which is how the numbers get to the beginning of a page.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gazetteer.errors import IndexFileError
from gazetteer.files import naming
from gazetteer.index import file_layout

CHUNK_BYTES = 2**22
"""Hashed while it is in the processor's cache, then written."""
LARGEST_HEADER = 10**8
"""Bytes; that of safetensors itself."""
DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
"""Names of safetensors."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], *, is_mappable: bool
) -> tuple[str, int]:
    """Write tensors, in the order given, and wait for the disk.

    Args:
        path: overwritten.
        tensors: any device.
        is_mappable: begin the numbers on a page of their own.

    Returns:
        SHA-256 of the file (hexadecimal) and its size in bytes.
    """
    header: dict[str, object] = {}
    stop = 0
    for name, tensor in tensors.items():
        start, stop = stop, stop + tensor.nbytes
        header[name] = {
            "dtype": next(known for known, dtype in DTYPES.items() if dtype == tensor.dtype),
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    whole = file_layout.PAGE_BYTES if is_mappable else 8
    text += b" " * (-(8 + len(text)) % whole)
    parts = [struct.pack("<Q", len(text)), text]
    return write_hashed(path, [*parts, *(_bytes(tensor) for tensor in tensors.values())])


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data


def write_hashed(path: Path, parts: Iterable[bytes | memoryview]) -> tuple[str, int]:
    """Write bytes and wait for the disk.

    Returns:
        SHA-256 (hexadecimal) and size in bytes.
    """
    digest, size = hashlib.sha256(), 0
    with naming(path), path.open("wb") as handle:
        for part in parts:
            view = memoryview(part)
            # Empty matrices cannot be cast.
            content = view.cast("B") if view.nbytes else memoryview(b"")
            for start in range(0, len(content), CHUNK_BYTES):
                chunk = content[start : start + CHUNK_BYTES]
                digest.update(chunk)
                handle.write(chunk)
            size += len(content)
        handle.flush()
        os.fsync(handle.fileno())
    return digest.hexdigest(), size


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where the numbers of a tensor lie.

    Attributes:
        offset: of the first, in bytes from the beginning of the file.
        shape: of the tensor.
        dtype: of the numbers.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def find_tensor(path: Path, name: str) -> TensorPlace:
    """Find a tensor in a file, by its header.

    Raises:
        IndexFileError: the file is not readable, or holds no such tensor, or not all of it.
    """
    try:
        with path.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            (length,) = struct.unpack("<Q", handle.read(8))
            entry = json.loads(handle.read(min(length, LARGEST_HEADER)))[name]
        shape, dtype = tuple(map(int, entry["shape"])), DTYPES[entry["dtype"]]
        start, stop = map(int, entry["data_offsets"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        shown = f"{error} is not in it" if isinstance(error, KeyError) else str(error)
        raise IndexFileError(f"{path}: not readable ({shown})") from None
    expected = torch.Size(shape).numel() * dtype.itemsize
    if start < 0 or stop - start != expected or 8 + length + stop > size:
        raise IndexFileError(f"{path}: the place of {name} is not inside the file")
    return TensorPlace(8 + length + start, shape, dtype)
