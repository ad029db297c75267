"""Rows in few bits, with what bounds their error, and products of them with queries."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

GROUP = 8
"""Rows that share a scale, and of which the largest score is looked at first."""
BLOCK = 64
"""Rows of which only the largest score raises the threshold."""
TILE_ROWS = 4096
"""Rows that share an error bound; their scores for 256 queries stay in a CPU's cache."""
DEVICES = ("cpu", "cuda")
LARGEST_CODE = 127

CodeType = Literal["int8", "bf16", "fp16"]
CODE_DTYPES = {"int8": torch.int8, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class RoundedRows:
    """Rows in few bits, with what bounds their error.

    Attributes:
        codes: int8, bfloat16 or float16; the last row is repeated up to a whole number of blocks,
            and int8 columns are padded with zeros to a whole number of 8.
        scales: float32; a row is about its codes times its group's scale.
        norms: length of the longest row of each tile.
        residuals: largest distance of a row from its rounding, in each tile.
        count: real rows.
        tile_rows: rows of a tile.
    """

    codes: Tensor
    scales: Float[Tensor, " group"]
    norms: Float[Tensor, " tile"]
    residuals: Float[Tensor, " tile"]
    count: int
    tile_rows: int = TILE_ROWS


@cache
def has_first_pass(device: torch.device) -> bool:
    """Whether torch multiplies int8 matrices on this device, and does it right."""
    if device.type not in DEVICES or not hasattr(torch, "_int_mm"):
        return False
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-LARGEST_CODE, LARGEST_CODE + 1, (69, 24), generator=generator)
    rows, queries = codes[:BLOCK], codes[BLOCK:]
    product = torch.empty(len(rows), len(queries), dtype=torch.int32, device=device)
    try:
        multiply(rows.to(device, torch.int8), queries.to(device, torch.int8), product)
    except RuntimeError:
        return False
    return torch.equal(product.cpu().long(), rows @ queries.T)


def round_rows(
    vectors: Float[Tensor, "row dim"], kind: CodeType, *, device: torch.device | None = None
) -> RoundedRows | None:
    """Round all rows, tile by tile.

    Args:
        vectors: float32; may be a memory map.
        kind: of number.
        device: where the result is to be; that of the vectors if not given.

    Returns:
        None where no bound can be given: numbers that are not finite, or too large for float16.
    """
    count, dim = vectors.shape
    device = vectors.device if device is None else device
    padded = -(-count // BLOCK) * BLOCK
    width = _padded_dim(dim) if kind == "int8" else dim
    codes = torch.zeros(padded, width, dtype=CODE_DTYPES[kind], device=device)
    scales = torch.ones(padded // GROUP, device=device)
    tiles = range(0, count, TILE_ROWS)
    norms, residuals = torch.empty(2, len(tiles), device=device)
    for number, start in enumerate(tiles):
        tile = vectors[start : start + TILE_ROWS].to(device)
        missing = -len(tile) % BLOCK
        if missing:
            tile = torch.cat([tile, tile[-1:].expand(missing, -1)])
        groups = slice(start // GROUP, (start + len(tile)) // GROUP)
        if kind == "int8":
            largest = tile.view(-1, GROUP * dim).abs().amax(dim=1)
            scales[groups] = largest.clamp_min(1e-30) / LARGEST_CODE
        scale = scales[groups].repeat_interleave(GROUP).unsqueeze(1)
        rounded = tile / scale
        if kind == "int8":
            rounded = rounded.round_()
        rounded = rounded.to(codes.dtype)
        codes[start : start + len(tile), :dim] = rounded
        norms[number] = tile.norm(dim=1).max()
        residuals[number] = (tile - rounded.float() * scale).norm(dim=1).max()
    if not bool((norms + residuals).isfinite().all()):
        return None
    return RoundedRows(codes, scales, norms, residuals, count, TILE_ROWS)


@dataclass(frozen=True, slots=True)
class RoundedQueries:
    """Queries as the first pass multiplies them; scores are in units of each query's scale.

    Attributes:
        codes: int8 with int8 rows, else float32.
        scale: one for float32 codes.
        length: norm of the rounded query, in those units.
        residual: its distance from the query, in those units.
    """

    codes: Tensor
    scale: Float[Tensor, " query"]
    length: Float[Tensor, " query"]
    residual: Float[Tensor, " query"]


def round_queries(queries: Float[Tensor, "query dim"], dtype: torch.dtype) -> RoundedQueries:
    """Queries for rows whose codes have this dtype."""
    if dtype != torch.int8:
        ones = torch.ones_like(queries[:, 0])
        return RoundedQueries(queries, ones, queries.norm(dim=1), torch.zeros_like(ones))
    scale = queries.abs().amax(dim=1, keepdim=True).clamp_min(1e-30) / LARGEST_CODE
    exact = queries / scale
    rounded = exact.round()
    residual = (exact - rounded).norm(dim=1)
    codes = pad(rounded.to(torch.int8), (0, _padded_dim(queries.shape[1]) - queries.shape[1]))
    return RoundedQueries(codes, scale.squeeze(1), rounded.norm(dim=1), residual)


def _padded_dim(dim: int) -> int:
    """Int8 products want whole numbers of 8; on a CPU torch 2.13 gets vectors of one wrong."""
    return -(-dim // 8) * 8


def multiply(codes: Tensor, queries: Tensor, out: Tensor) -> None:
    """Scores of a tile, (row, query): exact int32 of int8 codes, else float32."""
    if codes.dtype != torch.int8:
        torch.mm(codes.float(), queries.T, out=out)
    elif codes.device.type == "cpu":
        torch._int_mm(codes, queries.T, out=out)  # pyright: ignore[reportPrivateImportUsage]
    else:
        # A GPU takes whole numbers of 8 queries only.
        padded = pad(queries, (0, 0, 0, -len(queries) % 8))
        product = torch._int_mm(codes, padded.T)  # pyright: ignore[reportPrivateImportUsage]
        out.copy_(product[:, : len(queries)])
