"""Rows rounded to int8, in files beside the vectors, so that loading an index computes nothing.

Blocks of rows are counted from the first row of the index, and no block is in two files: any rows
of any number of files are one matrix in memory, but for foreign rows in the first and last block.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gazetteer.errors import IndexFileError
from gazetteer.index.loading import map_matrix
from gazetteer.index.rounded_rows import (
    BLOCK,
    GROUP,
    RoundedBlocks,
    RoundedRows,
    padded_dim,
    round_blocks,
)
from gazetteer.index.shards import overlap
from gazetteer.index.stored_files import IndexFile, Written, write_row_tensors

ROUNDED = "rounded"
"""What the names of the files begin with."""
CODES, SCALES, NORMS, RESIDUALS = "codes", "scales", "norms", "residuals"


def save_rounded(
    vectors: Float[Tensor, "row dim"], folder: Path, number: int, first_row: int
) -> list[Written[IndexFile]]:
    """Round some rows and write them; nothing where no bound can be given. Not a collective.

    Args:
        vectors: float32; a whole number of blocks but for the last of the index.
        folder: of the index.
        number: of the file.
        first_row: global row of the first; at the beginning of a block.
    """
    blocks = round_blocks(vectors, "int8")
    if blocks is None:
        return []
    tensors = {
        CODES: blocks.codes,
        SCALES: blocks.scales,
        NORMS: blocks.norms,
        RESIDUALS: blocks.residuals,
    }
    stem = folder / f"{ROUNDED}.{number:05d}"
    return [write_row_tensors(stem, tensors, len(vectors), first_row, is_mappable=True)]


def load_rounded(
    folder: Path, files: Sequence[IndexFile], rows: range, dim: int
) -> RoundedRows | None:
    """Rounded rows of a range of rows: a map of the codes, and what belongs to them.

    Args:
        folder: of the index.
        files: of all rows, whose hashes were compared.
        rows: contiguous, at least one.
        dim: of the vectors.

    Returns:
        None where there are none, or where they cannot be mapped.

    Raises:
        IndexFileError: a file holds something else.
    """
    if not files:
        return None
    count = max(file.range.stop for file in files)
    start = rows.start // BLOCK * BLOCK
    wanted = range(start, min(-(-rows.stop // BLOCK) * BLOCK, count))
    # The last block is whole in its file, too.
    codes = map_matrix(
        folder, files, CODES, wanted, (padded_dim(dim), torch.int8), block=BLOCK, is_writable=True
    )
    if codes is None:
        return None
    scales, norms, residuals = _read(folder, files, wanted)
    first, last = rows.start - start, rows.stop - 1 - start
    # Foreign rows become repetitions of ours. Where they have a group to themselves, its scale too.
    codes[:first] = codes[first]
    codes[last + 1 :] = codes[last]
    scales[: first // GROUP] = scales[first // GROUP]
    scales[last // GROUP + 1 :] = scales[last // GROUP]
    return RoundedBlocks(codes, scales, norms, residuals).rows(len(rows), skipped=first)


def _read(folder: Path, files: Sequence[IndexFile], rows: range) -> list[Tensor]:
    """Scales, norms and residuals of some whole blocks."""
    parts: dict[str, list[Tensor]] = {SCALES: [], NORMS: [], RESIDUALS: []}
    for file in files:
        shared = overlap(file.range, rows)
        if len(shared) == 0:
            continue
        first, last = shared.start - file.first_row, shared.stop - file.first_row
        # Up to the end of the block.
        stop = -(-last // BLOCK) * BLOCK
        try:
            with safe_open(folder / file.name, framework="pt") as tensors:
                for name, found in parts.items():
                    size = GROUP if name == SCALES else BLOCK
                    found.append(tensors.get_slice(name)[first // size : stop // size])
        except SafetensorError as error:
            raise IndexFileError(f"{folder / file.name}: {error}") from None
    return [torch.cat(found) for found in parts.values()]
