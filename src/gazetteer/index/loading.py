"""Rows of a saved index: mapped where its files allow, else copied; checked in either case."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gazetteer.distributed.collectives import gather_bytes
from gazetteer.errors import IndexFileError
from gazetteer.index.manifest import Manifest
from gazetteer.index.mapped import Stretch, map_stretches
from gazetteer.index.shards import overlap
from gazetteer.index.stored_files import IndexFile, verify_files
from gazetteer.index.tensor_files import find_tensor
from gazetteer.stamps import State, read_stamp, write_stamp

TENSOR = "embeddings"
"""Name of the vectors in their files, which begins the names of those as well."""


def files_of(files: Sequence[IndexFile], rows: range) -> list[IndexFile]:
    """The files that hold some of these rows, in order of row."""
    found = [file for file in files if len(overlap(file.range, rows)) > 0]
    return sorted(found, key=lambda file: file.first_row)


def map_matrix(
    folder: Path,
    files: Sequence[IndexFile],
    name: str,
    rows: range,
    row: tuple[int, torch.dtype],
    *,
    block: int = 1,
    is_writable: bool = False,
) -> Tensor | None:
    """Map the same tensor of several files as one matrix.

    Args:
        folder: of the index.
        files: whose hashes were compared, so that their headers are what was written.
        name: of the tensor.
        rows: global, contiguous, at least one; each in one of the files.
        row: length of a line, and dtype.
        block: the last file has lines up to a whole number of so many.
        is_writable: see `map_stretches`.

    Returns:
        The lines of the rows, up to a whole number of blocks; None where the files do not fit.

    Raises:
        IndexFileError: a file holds something else.
    """
    width, dtype = row
    stretches, lines = [], 0
    for file in files_of(files, rows):
        path, shared = folder / file.name, overlap(file.range, rows)
        place = find_tensor(path, name)
        height = -(-file.rows // block) * block
        if place.shape != (height, width):
            raise IndexFileError(
                f"{path}: {name} of shape {place.shape}, the manifest says {(height, width)}"
            )
        if place.dtype != dtype:
            return None
        first = shared.start - file.first_row
        last = min(height, -(-(shared.stop - file.first_row) // block) * block)
        line = width * dtype.itemsize
        stretches.append(Stretch(path, place.offset + first * line, (last - first) * line))
        lines += last - first
    try:
        mapped = map_stretches(stretches, is_writable=is_writable) if width else None
    except OSError as error:
        raise IndexFileError(f"{error.filename or folder}: {error.strerror}") from None
    return None if mapped is None else mapped.view(dtype).view(lines, width)


def map_vectors(folder: Path, manifest: Manifest, rows: range) -> Float[Tensor, "row dim"] | None:
    """Vectors of a contiguous range of rows, in a map of their files. They must be checked before.

    Returns:
        None where there is nothing to map, the files do not fit, or they are not float32.

    Raises:
        IndexFileError: a file holds something else than vectors.
    """
    if len(rows) == 0:
        return None
    row = (manifest.embedding_dim, torch.float32)
    return map_matrix(folder, manifest.files, TENSOR, rows, row)


def load_rows(
    folder: Path,
    manifest: Manifest,
    rows: range,
    *,
    out: Float[Tensor, "row dim"] | None = None,
) -> Float[Tensor, "row dim"]:
    """Copy the vectors of a contiguous range of rows, each file checked against its hash.

    Args:
        folder: of the index.
        manifest: its manifest.
        rows: contiguous.
        out: where to put them; one file at a time is in memory. If not given, on the CPU.

    Raises:
        IndexFileError: a file is missing, truncated or differs from its hash.
    """
    verify_files(folder, files_of(manifest.files, rows))
    return copy_vectors(folder, manifest, rows, out=out)


def copy_vectors(
    folder: Path,
    manifest: Manifest,
    rows: range,
    *,
    out: Float[Tensor, "row dim"] | None = None,
) -> Float[Tensor, "row dim"]:
    """As `load_rows`, of files that were checked before."""
    result = torch.empty(len(rows), manifest.embedding_dim) if out is None else out
    for file in files_of(manifest.files, rows):
        shared = overlap(file.range, rows)
        local = slice(shared.start - file.first_row, shared.stop - file.first_row)
        try:
            with safe_open(folder / file.name, framework="pt") as tensors:
                part = tensors.get_slice(TENSOR)[local]
        except SafetensorError as error:
            raise IndexFileError(f"{folder / file.name}: {error}") from None
        if part.shape[1:] != result.shape[1:]:
            raise IndexFileError(
                f"{folder / file.name}: vectors of shape {tuple(part.shape[1:])}, "
                f"the manifest says {manifest.embedding_dim}"
            )
        result[shared.start - rows.start : shared.stop - rows.start] = part
    return result


def remember_checked(folder: Path, manifest: Manifest, states: Mapping[str, State]) -> None:
    """Write down which files matched their hashes, all ranks' together. Collective.

    Args:
        folder: of the index.
        manifest: its manifest; what is not in it is forgotten.
        states: from `verify_files`.
    """
    gathered = gather_bytes(json.dumps(states).encode())
    new: dict[str, State] = {}
    for part in gathered or []:
        new |= json.loads(part)
    if new:
        names = {file.name for file in manifest.all_files}
        known = {name: state for name, state in read_stamp(folder).items() if name in names}
        write_stamp(folder, known | new)
