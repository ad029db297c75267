"""The first pass of an exact search: which rows could be in the top k, and proof of the others.

The product of a rounded row with a query differs from the true score by at most an error that their
norms bound. Rows that look best are scored in full: no row of the top k scores less than the k-th
best of any k rows. A row whose rounded score lies further below that than the error is left out for
good. What remains is a little more than k rows. A query for which it is not, as where most rows are
equal, is given up before its rows are listed: memory and time do not depend on how many they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gazetteer.index.candidates import Candidates
from gazetteer.index.norms import SMALLEST_NORMAL
from gazetteer.index.pair_scores import pair_scores, rounding_bound
from gazetteer.index.rounded_rows import (
    BLOCK,
    GROUP,
    RoundedQueries,
    RoundedRows,
    multiply,
    round_queries,
)
from gazetteer.index.shards import EMPTY_ROW

SCORES_PER_STEP = {"cpu": 4_194_304, "cuda": 67_108_864}
"""Scores held before they are looked at: 16 MB of a CPU's memory, 256 MB of a GPU's."""
MANY_QUERIES = 16
FEWEST_QUERIES, MOST_QUERIES = 64, 256
"""That are multiplied together without loss of speed; more fill the caches."""
SAFETY = 1e-4
"""Relative; for norms that were themselves computed in float32."""
ROUNDING = 1e-6
"""Relative to |q| |x|; for scales and products in float32, and for the final rounding."""
MOST_CANDIDATES = 64
"""Times k for a query, or else one row in so many: beyond both, it does not pay; nor, on average of
all queries, beyond half of that."""
GROUPS_PER_STEP = {"cpu": 65_536, "cuda": 1_048_576}
"""Whose rows are looked at together: some 30 MB of a CPU's memory."""
GIVEN_UP = float("inf")
"""Threshold of a query that this pass cannot help."""


def queries_at_once(rows: RoundedRows) -> int:
    """How many queries one call of `possible_rows` should be given.

    Few, where the scores of all rows can be held for them: then what is left out is known at once.
    """
    limit = 2 * SCORES_PER_STEP[rows.codes.device.type]
    return FEWEST_QUERIES if len(rows.codes) * FEWEST_QUERIES <= limit else MOST_QUERIES


def possible_rows(
    vectors: Float[Tensor, "row dim"],
    rows: RoundedRows,
    queries: Float[Tensor, "query dim"],
    top_k: int,
) -> tuple[Candidates, Bool[Tensor, " query"]]:
    """Rows that could be among the top_k of each query; at least top_k of them.

    Args:
        vectors: float32; on another device than the rest, if need be, or a memory map.
        rows: the same, rounded; at least top_k of them.
        queries: float32, on the device of `rows`; about `queries_at_once(rows)` of them.
        top_k: hits wanted.

    Returns:
        Rows, each with a score that it does not exceed; and which queries were given up and have
        none: too many rows could be, as when most scores are equal, or scores are no finite
        numbers.
    """
    asked = round_queries(queries, rows.codes.dtype)
    worth = _Worth(vectors, queries, rounding_bound(queries, rows.norms.max()), asked.scale)
    best = queries.new_full((0, len(queries)), float("-inf"))
    threshold = queries.new_full((len(queries),), float("-inf"))
    found: list[Candidates] = []
    most = max(MOST_CANDIDATES * top_k, rows.count // MOST_CANDIDATES)
    limit = most * len(queries)
    for number, (first, scores) in enumerate(_scores(rows, asked), start=1):
        if number == 1 and len(scores.block_maxima) >= top_k:
            leaders = _leaders(scores, top_k).T
            threshold = worth.of_kth(_real_rows(leaders, rows))
            if len(scores.products) == len(rows.codes):
                hits, threshold = _hits(scores, first, rows, threshold, most)
                return _outcome(*_remaining([hits], rows, threshold, most), top_k, limit)
        # The k-th best of what some k different rows are worth at least.
        best = torch.cat([best, scores.block_maxima - scores.error[0]])
        if len(best) > top_k:
            best = best.topk(top_k, dim=0, sorted=False).values
        if len(best) == top_k:
            threshold = threshold.maximum(best.amin(dim=0))
        hits, threshold = _hits(scores, first, rows, threshold, most)
        found.append(hits)
        is_power_of_two = number & (number - 1) == 0
        if (number > 1 and is_power_of_two) or sum(map(len, found)) > limit:
            remaining, threshold = _settle(found, rows, threshold, worth, top_k, most)
            found = [remaining]
            if len(remaining) > limit // 2:
                threshold = torch.full_like(threshold, GIVEN_UP)
            if bool(threshold.eq(GIVEN_UP).all()):
                break
    return _outcome(*_settle(found, rows, threshold, worth, top_k, most), top_k, limit)


@dataclass(frozen=True, slots=True)
class _Worth:
    """What scores are at least, by the vectors themselves; in units of each query's scale.

    Attributes:
        vectors: float32.
        queries: float32.
        bound: of the error of a score.
        scale: of each query.
    """

    vectors: Tensor
    queries: Tensor
    bound: Float[Tensor, " query"]
    scale: Float[Tensor, " query"]

    def of_kth(self, rows: Int[Tensor, "query k"]) -> Float[Tensor, " query"]:
        """Of the worst of k different rows; -inf where one is `EMPTY_ROW`."""
        pairs = Candidates.of_table(rows)
        scores = pair_scores(self.vectors, self.queries, pairs.query, pairs.row)
        worst = torch.full_like(self.bound, float("inf"))
        worst.scatter_reduce_(0, pairs.query, scores, "amin")
        worst = (worst - self.bound) / self.scale
        # What overflowed proves nothing.
        proven = worst.isfinite() & (rows != EMPTY_ROW).all(dim=1)
        return worst.masked_fill(~proven, float("-inf"))


def _settle(
    found: list[Candidates],
    rows: RoundedRows,
    threshold: Tensor,
    worth: _Worth,
    top_k: int,
    most: int,
) -> tuple[Candidates, Tensor]:
    """What is left when the most promising rows of all found are scored; the new threshold."""
    every, threshold = _remaining(found, rows, threshold, most)
    listed, upper = every.table()
    if listed.shape[1] < top_k:
        return every, threshold
    promising = upper.topk(top_k, dim=1, sorted=False).indices
    threshold = threshold.maximum(worth.of_kth(listed.gather(1, promising)))
    return every.where(every.score >= threshold[every.query]), threshold


def _outcome(
    found: Candidates, threshold: Tensor, top_k: int, limit: int
) -> tuple[Candidates, Bool[Tensor, " query"]]:
    """What is found, without queries that are given up; all of them where too much is found."""
    # Less than k: scores overflow, or are not numbers.
    given_up = found.query.bincount(minlength=found.queries) < top_k
    given_up |= threshold.eq(GIVEN_UP) | (len(found) > limit // 2)
    return found.where(~given_up[found.query]), given_up


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


def _scores(rows: RoundedRows, asked: RoundedQueries) -> Iterator[tuple[int, _Scores]]:
    """First row and scores of stretches of tiles.

    |q.x - Q.X| <= |q - Q| |x| + |Q| |x - X| for a query q and a row x with roundings Q and X.
    """
    queries = len(asked.codes)
    limit = SCORES_PER_STEP[rows.codes.device.type]
    # Twice that, if it is all there is: the best of all rows are known before any is looked at.
    tiles = len(rows.norms)
    if len(rows.codes) * queries > 2 * limit:
        tiles = max(1, limit // (rows.tile_rows * queries))
    dtype = torch.int32 if rows.codes.dtype == torch.int8 else torch.float32
    # Products of float codes may be too small for float32; those of int8 are whole numbers.
    lost = 0.0 if dtype == torch.int32 else rows.codes.shape[1] * SMALLEST_NORMAL
    size = min(tiles * rows.tile_rows, len(rows.codes))
    # Few queries make short work of a tile: more rows at once, or calls would cost more than sums.
    rows_at_once = rows.tile_rows * max(1, MANY_QUERIES // queries)
    products = torch.empty(size, queries, dtype=dtype, device=rows.codes.device)
    maxima = torch.empty(size // GROUP, queries, device=rows.codes.device)
    for first_tile in range(0, len(rows.norms), tiles):
        start = first_tile * rows.tile_rows
        stop = min(start + size, len(rows.codes))
        for tile in range(start, stop, rows_at_once):
            end = min(tile + rows_at_once, stop)
            part = products[tile - start : end - start]
            multiply(rows.codes[tile:end], asked.codes, part)
            largest = part.view(-1, GROUP, queries).amax(dim=1)
            scale = rows.scales[tile // GROUP : end // GROUP].unsqueeze(1)
            torch.mul(largest, scale, out=maxima[(tile - start) // GROUP : (end - start) // GROUP])
        norm = rows.norms[first_tile : first_tile + tiles].amax()
        residual = rows.residuals[first_tile : first_tile + tiles].amax()
        error = (asked.residual * norm + asked.length * residual) * (1 + SAFETY)
        error = error + ROUNDING * (asked.length + asked.residual) * norm + lost
        groups = maxima[: (stop - start) // GROUP]
        blocks = groups.view(-1, BLOCK // GROUP, queries).amax(dim=1)
        yield start, _Scores(products[: stop - start], groups, blocks, error.unsqueeze(0))


def _remaining(
    found: list[Candidates], rows: RoundedRows, threshold: Tensor, most: int
) -> tuple[Candidates, Tensor]:
    """Real rows that reach the threshold; and that, where queries with too many are given up."""
    every = Candidates.joined(found)
    # The first and the last row are repeated to fill a block.
    is_real = (every.row >= 0) & (every.row < rows.count)
    every = every.where((every.score >= threshold[every.query]) & is_real)
    is_crowded = every.query.bincount(minlength=every.queries) > most
    if bool(is_crowded.any()):
        every = every.where(~is_crowded[every.query])
    return every, threshold.masked_fill(is_crowded, GIVEN_UP)


def _real_rows(places: Int[Tensor, "query k"], rows: RoundedRows) -> Int[Tensor, "query k"]:
    """Rows at some places among the codes; `EMPTY_ROW` for repetitions."""
    found = places - rows.skipped
    return found.masked_fill((found < 0) | (found >= rows.count), EMPTY_ROW)


def _leaders(scores: _Scores, top_k: int) -> Int[Tensor, "k query"]:
    """Rows of high score, from as many groups: the best of the k best groups of the k best blocks.

    There are at least k blocks. Some of the rows may be repetitions of the last.
    """
    groups = _members(scores.block_maxima.topk(top_k, dim=0, sorted=False).indices, BLOCK // GROUP)
    best = _at(scores.group_maxima, groups).topk(top_k, dim=0, sorted=False).indices
    members = _members(groups.gather(0, best), GROUP).unflatten(0, (top_k, GROUP))
    best = _at(scores.products, members).argmax(dim=1, keepdim=True)
    return members.gather(1, best).squeeze(1)


def _members(parents: Int[Tensor, "parent query"], each: int) -> Int[Tensor, "child query"]:
    children = torch.arange(each, device=parents.device).view(1, -1, 1)
    return (parents.unsqueeze(1) * each + children).flatten(0, 1)


def _at(table: Tensor, lines: Int[Tensor, "*lines query"]) -> Tensor:
    """table[lines[..., q], q]: on a CPU, flat places are several times faster than `gather`."""
    queries = table.shape[1]
    places = lines * queries + torch.arange(queries, device=lines.device)
    return table.view(-1).index_select(0, places.view(-1)).view(lines.shape)


def _hits(
    scores: _Scores, first: int, rows: RoundedRows, threshold: Float[Tensor, " query"], most: int
) -> tuple[Candidates, Float[Tensor, " query"]]:
    """All that may reach the threshold, with the largest score they may have.

    Returns:
        That, and the threshold, where queries with too many are given up: every group listed has a
        row that may, so more than `most` groups are too many; and where it is more than half of
        these groups, the rows seen so far say nothing.
    """
    groups, queries = scores.group_maxima.shape
    group, query = (scores.group_maxima >= threshold - scores.error).nonzero(as_tuple=True)
    is_crowded = query.bincount(minlength=queries) > min(most, max(groups // 2, most // GROUP))
    if bool(is_crowded.any()):
        kept = ~is_crowded[query]
        group, query = group[kept], query[kept]
    step = GROUPS_PER_STEP[group.device.type]
    parts = zip(group.split(step), query.split(step), strict=True)
    hits = [_hits_of(scores, first, rows, threshold, *part) for part in parts]
    return Candidates.joined(hits), threshold.masked_fill(is_crowded, GIVEN_UP)


def _hits_of(
    scores: _Scores, first: int, rows: RoundedRows, threshold: Tensor, group: Tensor, query: Tensor
) -> Candidates:
    """Of some groups, each for a query."""
    queries = len(threshold)
    places = (group * (GROUP * queries) + query).int().unsqueeze(1)
    steps = torch.arange(0, GROUP * queries, queries, device=places.device, dtype=torch.int32)
    places = places + steps
    members = scores.products.view(-1).index_select(0, places.view(-1)).view(places.shape)
    scales = rows.scales[first // GROUP :][group].unsqueeze(1)
    upper = members * scales + scores.error[0, query].unsqueeze(1)
    place, member = (upper >= threshold[query].unsqueeze(1)).nonzero(as_tuple=True)
    row = group[place] * GROUP + member + (first - rows.skipped)
    return Candidates(query[place], row, upper[place, member], queries)
