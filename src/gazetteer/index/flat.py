"""Exact search of one shard: tiled, certified, and independent of how rows are split.

A fast float32 product proposes candidates; their scores are recomputed in float64 and rounded, so
that a (query, passage) pair has the same score in whichever shard, tile or batch it is met: the
order of summation moves a float64 result by about 1e-8 of a float32 step. A rounding bound proves
that no row outside the candidates belongs to the top k; where it cannot, not even for four times as
many candidates, the scores of all rows are computed in float64.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gazetteer.index.candidates import Candidates
from gazetteer.index.first_pass import possible_rows, queries_at_once
from gazetteer.index.norms import norms
from gazetteer.index.pair_scores import exact_scores, pair_scores, rounding_bound
from gazetteer.index.rounded_rows import RoundedRows, has_first_pass, round_rows
from gazetteer.index.shards import EMPTY_ROW

FEWEST_ROWS = 8192
"""Shards smaller than this are searched in float32: a first pass would cost more than it saves."""
ROWS_PER_HIT = 512
"""Likewise shards with fewer rows than this for each hit asked for."""
TILE_ROWS = 65_536
TILE_QUERIES = 256
GROUP = 8
SPARE = 16
"""Rows beyond k that are looked at first, for scores too close to tell apart in float32."""
WIDER = 4
"""Times as many candidates are looked at before all rows are."""
WIDEST = 4_000_000
"""How many candidates one widened search may hold."""
DOUBLES = {"cpu": 1_048_576, "cuda": 33_554_432}
"""Of rows in float64 at once: 8 MB of a CPU's memory, 256 MB of a GPU's."""


class FlatShard:
    """Vectors as they are; every search returns exactly the top k of the float32 vectors.

    A first pass over int8 codes (see first_pass.py) leaves few rows to score. Where it cannot
    help, for few rows or for scores too close to tell apart, float32 products are computed.

    Args:
        vectors: any float dtype; held as float32. May be a memory map: then the first pass keeps
            what is read of it small.
        codes: what the first pass holds of each row, on the device that searches. None makes int8
            codes of `vectors` on their device.
    """

    def __init__(self, vectors: Float[Tensor, "row dim"], codes: RoundedRows | None = None) -> None:
        self.vectors = vectors.float().contiguous()
        if codes is None and len(vectors) >= FEWEST_ROWS and has_first_pass(vectors.device):
            codes = round_rows(self.vectors, "int8")
        self._codes = codes
        self._norm_limit = largest_norm(self.vectors) if codes is None else codes.norms.max()

    @property
    def device(self) -> torch.device:
        """Where searches run."""
        return self.vectors.device if self._codes is None else self._codes.codes.device

    def search(
        self, queries: Float[Tensor, "query dim"], top_k: int
    ) -> tuple[Float[Tensor, "query k"], Int[Tensor, "query k"]]:
        """See `Shard.search`."""
        codes = self._codes
        if codes is None or len(queries) == 0 or ROWS_PER_HIT * top_k > len(self.vectors):
            return self._without_codes(queries, top_k)
        parts = queries.split(min(TILE_QUERIES, queries_at_once(codes)))
        scores, rows = zip(*(self._in_two_passes(q, top_k, codes) for q in parts), strict=True)
        return torch.cat(scores), torch.cat(rows)

    def _in_two_passes(
        self, queries: Tensor, top_k: int, codes: RoundedRows
    ) -> tuple[Tensor, Tensor]:
        candidates, given_up = possible_rows(self.vectors, codes, queries, top_k)
        if bool(given_up.all()):
            return self._without_codes(queries, top_k)
        if not bool(given_up.any()):
            return _best_of(self.vectors, queries, candidates, top_k, self._norm_limit)
        scores = queries.new_empty(len(queries), top_k)
        rows = torch.empty_like(scores, dtype=torch.int64)
        found = candidates.of_queries(~given_up)
        scores[~given_up], rows[~given_up] = _best_of(
            self.vectors, queries[~given_up], found, top_k, self._norm_limit
        )
        scores[given_up], rows[given_up] = self._without_codes(queries[given_up], top_k)
        return scores, rows

    def _without_codes(self, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        scores, rows = search_flat(
            self.vectors, queries.to(self.vectors.device), top_k, norm_limit=self._norm_limit
        )
        return scores.to(queries.device), rows.to(queries.device)


def _best_of(
    vectors: Tensor, queries: Tensor, candidates: Candidates, top_k: int, norm_limit: Tensor
) -> tuple[Float[Tensor, "query k"], Int[Tensor, "query k"]]:
    """Exact top k, given rows that contain it."""
    found = pair_scores(vectors, queries, candidates.query, candidates.row)
    rows, scores = replace(candidates, score=found).table()
    bound = rounding_bound(queries, norm_limit)
    width = min(rows.shape[1], top_k + SPARE)
    while True:
        best, place = scores.topk(width, dim=1)
        # Written so that scores and bounds that overflowed rule nothing out.
        could_be = ~(best < (best[:, top_k - 1] - 2 * bound).unsqueeze(1))
        if width == rows.shape[1] or not bool(could_be[:, -1].any()):
            break
        width = min(rows.shape[1], 4 * width)
    rows = rows.gather(1, place)
    hits = scores.new_empty(len(queries), top_k), rows.new_empty(len(queries), top_k)
    wanted = could_be.sum(dim=1)
    size = wanted.log2().ceil()
    # Apart, or the query with most rows too close to call would make all the others as wide.
    for each in size.unique():
        some = (size == each).nonzero().squeeze(1)
        kept = rows[some, : int(wanted[some].max())]
        exact = exact_scores(vectors, queries[some], kept.clamp_min(0))
        exact = exact.masked_fill(kept == EMPTY_ROW, float("-inf"))
        hits[0][some], hits[1][some] = order_hits(exact, kept, top_k)
    return hits


def search_flat(
    embeddings: Float[Tensor, "row dim"],
    queries: Float[Tensor, "query dim"],
    top_k: int,
    *,
    norm_limit: Float[Tensor, ""] | None = None,
) -> tuple[Float[Tensor, "query k"], Int[Tensor, "query k"]]:
    """Find the top_k rows of a shard for each query.

    Args:
        embeddings: float32; may have no rows.
        queries: float32, same device; may be empty.
        top_k: hits wanted, at least 1.
        norm_limit: `largest_norm(embeddings)`, for callers that search the same rows again.

    Returns:
        Scores (float32, descending) and row numbers inside the shard (int64), ties by row. Columns
        beyond the shard's rows hold -inf and `EMPTY_ROW`.
    """
    rows = len(embeddings)
    scores = queries.new_full((len(queries), top_k), float("-inf"))
    indices = torch.full_like(scores, EMPTY_ROW, dtype=torch.int64)
    if rows == 0 or len(queries) == 0:
        return scores, indices
    norm_limit = largest_norm(embeddings) if norm_limit is None else norm_limit
    found = min(top_k, rows)
    width = found + max(16, found // 4)
    for start in range(0, len(queries), TILE_QUERIES):
        part = slice(start, start + TILE_QUERIES)
        best = _certified(embeddings, queries[part], found, width, norm_limit)
        scores[part, :found], indices[part, :found] = best
    return scores, indices


def largest_norm(embeddings: Float[Tensor, "row dim"]) -> Float[Tensor, ""]:
    """Length of the longest vector, on which the rounding bound depends; 0 without rows."""
    if len(embeddings) == 0:
        return embeddings.new_zeros(())
    return torch.stack([norms(tile).max() for tile in embeddings.split(TILE_ROWS)]).max()


def order_hits(scores: Tensor, rows: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The top_k of each line by score, equal scores by row number."""
    by_row = rows.argsort(dim=1, stable=True)
    scores, rows = scores.gather(1, by_row), rows.gather(1, by_row)
    by_score = scores.argsort(dim=1, descending=True, stable=True)[:, :top_k]
    return scores.gather(1, by_score), rows.gather(1, by_score)


def _certified(
    embeddings: Tensor,
    queries: Tensor,
    top_k: int,
    width: int,
    norm_limit: Tensor,
    *,
    is_wide: bool = False,
) -> tuple[Tensor, Tensor]:
    """Exact top k; where the rounding bound does not vouch for it, of more candidates, then all."""
    width = min(len(embeddings), width)
    bound = rounding_bound(queries, norm_limit)
    proposed, candidates = _propose(embeddings, queries, width)
    # One more than needed, to show that it was not.
    kept = max(top_k, _worth_rescoring(proposed, proposed[:, top_k - 1], bound) + 1)
    proposed, candidates = proposed[:, :kept], candidates[:, :kept]
    scores, indices = order_hits(exact_scores(embeddings, queries, candidates), candidates, top_k)
    if width == len(embeddings):
        return scores, indices
    # A row that was not kept has an approximate score of at most the last kept one.
    unsure = (scores[:, -1] <= proposed[:, -1] + bound).nonzero().squeeze(1)
    if len(unsure) == 0:
        return scores, indices
    for part in unsure.split(max(1, WIDEST // (WIDER * width))):
        if is_wide:
            best = _of_all_rows(embeddings, queries[part], top_k)
        else:
            best = _certified(
                embeddings, queries[part], top_k, WIDER * width, norm_limit, is_wide=True
            )
        scores[part], indices[part] = best
    return scores, indices


def _of_all_rows(embeddings: Tensor, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Exact top k by the float64 scores of all rows, a tile at a time."""
    columns = queries.double().T.contiguous()
    step = max(1, DOUBLES[queries.device.type] // embeddings.shape[1])
    best = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for first in range(0, len(embeddings), step):
        scores = (embeddings[first : first + step].double() @ columns).T.float()
        rows = torch.arange(first, first + scores.shape[1], device=queries.device)
        best = torch.cat([best, hit_keys(scores, rows)], dim=1)
        best = best.topk(min(top_k, best.shape[1]), dim=1).values
    return hits_of_keys(best)


def hit_keys(
    scores: Float[Tensor, "query row"], rows: Int[Tensor, " row"]
) -> Int[Tensor, "query row"]:
    """A whole number for each hit, in the order of hits: by score, equal scores by row.

    The bits of a float32 are in its order, those of negative ones in the reverse. No key is there
    twice, so that selecting the largest leaves nothing to chance.
    """
    # Zeros are equal whatever their sign.
    bits = (scores + 0.0).contiguous().view(torch.int32)
    return (_mirrored(bits).long() << 32) - rows


def hits_of_keys(keys: Int[Tensor, "query k"]) -> tuple[Tensor, Tensor]:
    """Scores and rows."""
    high = -(-keys >> 32)
    return _mirrored(high.int()).view(torch.float32), (high << 32) - keys


def _mirrored(bits: Int[Tensor, "query row"]) -> Int[Tensor, "query row"]:
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _worth_rescoring(
    scores: Float[Tensor, "query candidate"],
    last: Float[Tensor, " query"],
    bound: Float[Tensor, " query"],
) -> int:
    """How many of these rows rounding could lift into the top k of some query.

    `last` is the k-th best score. Its error and that of a row are together less than twice the
    bound.
    """
    return int((scores >= (last - 2 * bound).unsqueeze(1)).sum(dim=1).max())


def _propose(embeddings: Tensor, queries: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Approximate top `width` rows, in descending order of the float32 product."""
    best_scores = queries.new_empty(len(queries), 0)
    best_rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    # Rows first: a library must repack its right-hand side, and the queries are the smaller.
    columns = queries.T.contiguous()
    for first in range(0, len(embeddings), TILE_ROWS):
        scores, rows = _tile_top(embeddings[first : first + TILE_ROWS] @ columns, width)
        best_scores = torch.cat([best_scores, scores], dim=1)
        best_rows = torch.cat([best_rows, rows + first], dim=1)
        best_scores, order = best_scores.topk(min(width, best_scores.shape[1]), dim=1)
        best_rows = best_rows.gather(1, order)
    return best_scores, best_rows


def _tile_top(
    tile: Float[Tensor, "row query"], width: int
) -> tuple[Float[Tensor, "query candidate"], Int[Tensor, "query candidate"]]:
    """Top `width` rows of each query, by way of the maxima of groups of rows.

    The top `width` scores lie in the `width` groups with the largest maxima, and taking a maximum
    is several times cheaper than selecting; the result is the same as `topk` on the whole tile.
    """
    groups = len(tile) // GROUP
    if groups <= width:
        return tile.T.topk(min(width, len(tile)), dim=1)
    maxima = tile[: groups * GROUP].unflatten(0, (groups, GROUP)).amax(dim=1)
    chosen = _tile_top(maxima, width)[1]
    members = (chosen.unsqueeze(2) * GROUP + torch.arange(GROUP, device=tile.device)).flatten(1)
    rest = torch.arange(groups * GROUP, len(tile), device=tile.device)
    rows = torch.cat([members, rest.expand(len(members), -1)], dim=1)
    # On a CPU index_select is several times faster than gather along the first dimension.
    places = rows * tile.shape[1] + torch.arange(tile.shape[1], device=tile.device).unsqueeze(1)
    scores = tile.reshape(-1).index_select(0, places.view(-1)).view(rows.shape)
    scores, order = scores.topk(width, dim=1)
    return scores, rows.gather(1, order)
