"""The first pass of an exact search: which rows could be in the top k, and proof of the others.

Rows are kept rounded, in int8, bfloat16 or float16. The product of a rounded row with a query
differs from the true score by at most an error that their norms bound, so a row whose rounded
score lies further than that below the k-th best cannot belong to the top k. What remains is a
little more than k rows, to be scored in full precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

GROUP = 8
"""Rows that share a scale, and of which the largest score is looked at first."""
BLOCK = 64
"""Rows of which only the largest score raises the threshold."""
TILE_ROWS = 4096
"""Rows that share an error bound; their scores for 256 queries stay in a CPU's cache."""
SCORES_PER_STEP = {"cpu": 4_194_304, "cuda": 67_108_864}
"""Scores held before they are looked at: 16 MB of a CPU's memory, 256 MB of a GPU's."""
MANY_QUERIES = 16
QUERIES_PER_PASS = 256
LARGEST_CODE = 127
SAFETY = 1e-4
"""Relative; for norms that were themselves computed in float32."""
ROUNDING = 1e-6
"""Relative to |q| |x|; for scales and products in float32, and for the final rounding."""
MOST_CANDIDATES = 64
"""Times k, per query on average, or else one row in so many: beyond both, it does not pay."""

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
    """

    codes: Tensor
    scales: Float[Tensor, " group"]
    norms: Float[Tensor, " tile"]
    residuals: Float[Tensor, " tile"]
    count: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """Rows that could be in the top k, as a flat list.

    Attributes:
        query: which query each is for, ascending.
        row: number inside the shard.
        upper: no less than its score.
    """

    query: Int[Tensor, " candidate"]
    row: Int[Tensor, " candidate"]
    upper: Float[Tensor, " candidate"]


@cache
def has_first_pass(device: torch.device) -> bool:
    """Whether torch multiplies int8 matrices on this device, and does it right."""
    if device.type not in SCORES_PER_STEP or not hasattr(torch, "_int_mm"):
        return False
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-LARGEST_CODE, LARGEST_CODE + 1, (69, 24), generator=generator)
    rows, queries = codes[:BLOCK], codes[BLOCK:]
    product = torch.empty(len(rows), len(queries), dtype=torch.int32, device=device)
    try:
        _multiply(rows.to(device, torch.int8), queries.to(device, torch.int8), product)
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
    return RoundedRows(codes, scales, norms, residuals, count)


def possible_rows(
    rows: RoundedRows, queries: Float[Tensor, "query dim"], top_k: int
) -> Candidates | None:
    """Rows that could be among the top_k of each query.

    Args:
        rows: at least top_k of them.
        queries: float32, same device, at most `QUERIES_PER_PASS` of them to be fast.
        top_k: hits wanted.

    Returns:
        None where too many rows could be, as when most scores are equal.
    """
    asked = _round_queries(queries, rows.codes.dtype)
    best = queries.new_full((0, len(queries)), float("-inf"))
    threshold = queries.new_full((len(queries),), float("-inf"))
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    total = 0
    limit = max(MOST_CANDIDATES * top_k, rows.count // MOST_CANDIDATES) * len(queries)
    for first, scores in _scores(rows, asked):
        # The k-th best of what some k different rows are worth at least.
        best = torch.cat([best, scores.block_maxima - scores.error[0]])
        if len(best) > top_k:
            best = best.topk(top_k, dim=0, sorted=False).values
        if len(best) == top_k:
            threshold = best.amin(dim=0)
        query, row, upper = _hits(scores, rows.scales[first // GROUP :], threshold)
        found.append((query, row + first, upper))
        total += len(row)
        if total > limit:
            found = [_still_possible(found, threshold, rows.count)]
            total = len(found[0][0])
            if total > limit // 2:
                return None
    query, row, upper = _still_possible(found, threshold, rows.count)
    query, order = query.sort(stable=True)
    return Candidates(query, row[order], upper[order] * asked.scale[query])


@dataclass(frozen=True, slots=True)
class _Scores:
    """Rounded scores of some consecutive tiles, in units of each query's scale.

    Attributes:
        products: without the rows' scale; int32 or float32.
        group_maxima: with it.
        block_maxima: likewise.
        error: what the rounding can amount to, one line.
    """

    products: Tensor
    group_maxima: Float[Tensor, "group query"]
    block_maxima: Float[Tensor, "block query"]
    error: Float[Tensor, "1 query"]


def _scores(rows: RoundedRows, asked: _Asked) -> Iterator[tuple[int, _Scores]]:
    """First row and scores of stretches of tiles.

    |q.x - Q.X| <= |q - Q| |x| + |Q| |x - X| for a query q and a row x with roundings Q and X.
    """
    queries = len(asked.codes)
    tiles = max(1, SCORES_PER_STEP[rows.codes.device.type] // (TILE_ROWS * queries))
    dtype = torch.int32 if rows.codes.dtype == torch.int8 else torch.float32
    size = min(tiles * TILE_ROWS, len(rows.codes))
    # Few queries make short work of a tile: more rows at once, or calls would cost more than sums.
    rows_at_once = TILE_ROWS * max(1, MANY_QUERIES // queries)
    products = torch.empty(size, queries, dtype=dtype, device=rows.codes.device)
    maxima = torch.empty(size // GROUP, queries, device=rows.codes.device)
    for first_tile in range(0, len(rows.norms), tiles):
        start = first_tile * TILE_ROWS
        stop = min(start + size, len(rows.codes))
        for tile in range(start, stop, rows_at_once):
            end = min(tile + rows_at_once, stop)
            part = products[tile - start : end - start]
            _multiply(rows.codes[tile:end], asked.codes, part)
            largest = part.view(-1, GROUP, queries).amax(dim=1)
            scale = rows.scales[tile // GROUP : end // GROUP].unsqueeze(1)
            torch.mul(largest, scale, out=maxima[(tile - start) // GROUP : (end - start) // GROUP])
        norm = rows.norms[first_tile : first_tile + tiles].amax()
        residual = rows.residuals[first_tile : first_tile + tiles].amax()
        error = (asked.residual * norm + asked.length * residual) * (1 + SAFETY)
        error = error + ROUNDING * (asked.length + asked.residual) * norm
        groups = maxima[: (stop - start) // GROUP]
        blocks = groups.view(-1, BLOCK // GROUP, queries).amax(dim=1)
        yield start, _Scores(products[: stop - start], groups, blocks, error.unsqueeze(0))


def _hits(
    scores: _Scores, scales: Float[Tensor, " group"], threshold: Float[Tensor, " query"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, row (of these) and largest possible score of all that may reach the threshold."""
    needed = threshold - scores.error
    group, query = (scores.group_maxima >= needed).nonzero(as_tuple=True)
    queries = len(threshold)
    # On a CPU index_select of flat places is several times faster than indexing by two.
    places = (group * (GROUP * queries) + query).int().unsqueeze(1)
    steps = torch.arange(0, GROUP * queries, queries, device=places.device, dtype=torch.int32)
    places = places + steps
    members = scores.products.view(-1).index_select(0, places.view(-1)).view(places.shape)
    upper = members * scales[group].unsqueeze(1) + scores.error[0, query].unsqueeze(1)
    place, member = (upper >= threshold[query].unsqueeze(1)).nonzero(as_tuple=True)
    return query[place], group[place] * GROUP + member, upper[place, member]


@dataclass(frozen=True, slots=True)
class _Asked:
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


def _round_queries(queries: Float[Tensor, "query dim"], dtype: torch.dtype) -> _Asked:
    if dtype != torch.int8:
        ones = torch.ones_like(queries[:, 0])
        return _Asked(queries, ones, queries.norm(dim=1), torch.zeros_like(ones))
    scale = queries.abs().amax(dim=1, keepdim=True).clamp_min(1e-30) / LARGEST_CODE
    exact = queries / scale
    rounded = exact.round()
    residual = (exact - rounded).norm(dim=1)
    codes = pad(rounded.to(torch.int8), (0, _padded_dim(queries.shape[1]) - queries.shape[1]))
    return _Asked(codes, scale.squeeze(1), rounded.norm(dim=1), residual)


def _padded_dim(dim: int) -> int:
    """Int8 products want whole numbers of 8; on a CPU torch 2.13 gets vectors of one wrong."""
    return -(-dim // 8) * 8


def _multiply(codes: Tensor, queries: Tensor, out: Tensor) -> None:
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


def _still_possible(
    found: list[tuple[Tensor, Tensor, Tensor]], threshold: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Drop what the final threshold rules out, and the repetitions of the last row."""
    query, row, upper = (torch.cat(parts) for parts in zip(*found, strict=True))
    kept = (upper >= threshold[query]) & (row < count)
    return query[kept], row[kept], upper[kept]
