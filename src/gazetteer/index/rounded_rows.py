"""Rows in few bits, with what bounds their error, and products of them with queries."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from gazetteer.index.norms import norms

GROUP = 8
"""Rows that share a scale, and of which the largest score is looked at first."""
BLOCK = 64
"""Rows of which only the largest score raises the threshold."""
TILE_ROWS = 4096
"""Rows that share an error bound; their scores for 256 queries stay in a CPU's cache."""
STRIP_ROWS = 512
"""Rows rounded at once: they and what is made of them stay in a CPU's cache."""
DEVICES = ("cpu", "cuda")
LARGEST_CODE = 127

CodeType = Literal["int8", "bf16", "fp16"]
CODE_DTYPES = {"int8": torch.int8, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class RoundedRows:
    """Rows in few bits, with what bounds their error.

    Attributes:
        codes: int8, bfloat16 or float16; the first and the last row are repeated to a whole number
            of blocks, and int8 columns are padded with zeros to a whole number of 8.
        scales: float32; a row is about its codes times its group's scale.
        norms: length of the longest row of each tile.
        residuals: largest distance of a row from its rounding, in each tile.
        count: real rows.
        tile_rows: rows of a tile.
        skipped: repetitions of the first row before it, fewer than a block.
    """

    codes: Tensor
    scales: Float[Tensor, " group"]
    norms: Float[Tensor, " tile"]
    residuals: Float[Tensor, " tile"]
    count: int
    tile_rows: int = TILE_ROWS
    skipped: int = 0

    def to(self, device: torch.device) -> RoundedRows:
        """The same on a device."""
        return replace(
            self,
            codes=self.codes.to(device),
            scales=self.scales.to(device),
            norms=self.norms.to(device),
            residuals=self.residuals.to(device),
        )


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


@dataclass(frozen=True, slots=True)
class RoundedBlocks:
    """Rows in few bits, from the beginning of a block to the end of another.

    Attributes:
        codes: see `RoundedRows`.
        scales: likewise.
        norms: length of the longest row of each block.
        residuals: largest distance of a row from its rounding, in each block.
    """

    codes: Tensor
    scales: Float[Tensor, " group"]
    norms: Float[Tensor, " block"]
    residuals: Float[Tensor, " block"]

    def rows(self, count: int, *, skipped: int = 0) -> RoundedRows:
        """The `count` rows after `skipped`."""
        blocks = TILE_ROWS // BLOCK
        norms, residuals = (
            pad(of_blocks, (0, -len(of_blocks) % blocks)).view(-1, blocks).amax(dim=1)
            for of_blocks in (self.norms, self.residuals)
        )
        return RoundedRows(self.codes, self.scales, norms, residuals, count, TILE_ROWS, skipped)


def round_rows(
    vectors: Float[Tensor, "row dim"], kind: CodeType, *, device: torch.device | None = None
) -> RoundedRows | None:
    """Round all rows. See `round_blocks`."""
    blocks = round_blocks(vectors, kind, device=device)
    return None if blocks is None else blocks.rows(len(vectors))


def round_blocks(
    vectors: Float[Tensor, "row dim"], kind: CodeType, *, device: torch.device | None = None
) -> RoundedBlocks | None:
    """Round all rows, strip by strip.

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
    width = padded_dim(dim) if kind == "int8" else dim
    codes = torch.zeros(padded, width, dtype=CODE_DTYPES[kind], device=device)
    scales = torch.ones(padded // GROUP, device=device)
    lengths, residuals = torch.empty(2, padded // BLOCK, device=device)
    for start in range(0, count, STRIP_ROWS):
        strip = vectors[start : start + STRIP_ROWS].to(device)
        missing = -len(strip) % BLOCK
        if missing:
            strip = torch.cat([strip, strip[-1:].expand(missing, -1)])
        groups = slice(start // GROUP, (start + len(strip)) // GROUP)
        if kind == "int8":
            largest = strip.view(-1, GROUP * dim).abs().amax(dim=1)
            scales[groups] = largest.clamp_min(1e-30) / LARGEST_CODE
        scale = scales[groups].repeat_interleave(GROUP).unsqueeze(1)
        rounded = strip / scale
        if kind == "int8":
            rounded = rounded.round_()
        rounded = rounded.to(codes.dtype)
        codes[start : start + len(strip), :dim] = rounded
        blocks = slice(start // BLOCK, (start + len(strip)) // BLOCK)
        lengths[blocks] = norms(strip).view(-1, BLOCK).amax(dim=1)
        off = norms(strip - rounded.float() * scale)
        residuals[blocks] = off.view(-1, BLOCK).amax(dim=1)
    if not bool((lengths + residuals).isfinite().all()):
        return None
    return RoundedBlocks(codes, scales, lengths, residuals)


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
        return RoundedQueries(queries, ones, norms(queries), torch.zeros_like(ones))
    scale = queries.abs().amax(dim=1, keepdim=True).clamp_min(1e-30) / LARGEST_CODE
    exact = queries / scale
    rounded = exact.round()
    residual = norms(exact - rounded)
    codes = pad(rounded.to(torch.int8), (0, padded_dim(queries.shape[1]) - queries.shape[1]))
    return RoundedQueries(codes, scale.squeeze(1), norms(rounded), residual)


def padded_dim(dim: int) -> int:
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
