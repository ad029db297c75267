"""Scores of single pairs of a query and a row: float32 for many pairs, exact for few."""

from __future__ import annotations

import warnings
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gazetteer.index.norms import SMALLEST_NORMAL, norms

NUMBERS_PER_STEP = {"cpu": 65_536, "cuda": 4_000_000}
"""How many numbers one step may gather: a CPU's cache in float64, 32 MB of a GPU."""
WIDEST = 4_000_000
"""How many numbers of one query may be gathered at once."""
PAIRS_PER_ROW = 1 / 8
"""With fewer pairs than this for each row, it costs more to sort them by row than it saves."""


def rounding_bound(
    queries: Float[Tensor, "query dim"], norm_limit: Float[Tensor, ""]
) -> Float[Tensor, " query"]:
    """Twice the error a float32 dot product of this length can have, for each query.

    |computed - exact| <= gamma * |q|.|x| with gamma = d u / (1 - d u), u = 2^-24, in any order of
    summation (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1); |q|.|x| is at
    most the product of the norms. Twice, because the rescored side is rounded to float32 as well.
    Products too small for float32 may lose all of themselves, and count in full.
    """
    unit = 2.0**-24
    gamma = queries.shape[1] * unit / (1 - queries.shape[1] * unit)
    lost = queries.shape[1] * SMALLEST_NORMAL
    return 2 * (gamma * norms(queries) * norm_limit + lost)


def pair_scores(
    vectors: Float[Tensor, "row dim"],
    queries: Float[Tensor, "query dim"],
    query: Int[Tensor, " pair"],
    row: Int[Tensor, " pair"],
) -> Float[Tensor, " pair"]:
    """Float32 dot products of pairs, off by no more than half their `rounding_bound`.

    Args:
        vectors: float32; on another device than the rest, if need be, or a memory map.
        queries: float32.
        query: of each pair; in any order.
        row: of each pair.
    """
    if vectors.device.type == "cpu" and has_sampled_products():
        scores = _sampled(vectors, queries.cpu(), query.cpu(), row.cpu())
        return scores.to(queries.device)
    step = max(1, WIDEST // vectors.shape[1])
    pieces = [
        (vectors.index_select(0, r.to(vectors.device)).to(queries.device) * queries[q]).sum(dim=1)
        for q, r in zip(query.split(step), row.split(step), strict=True)
    ]
    return torch.cat(pieces)


def _sampled(vectors: Tensor, queries: Tensor, query: Tensor, row: Tensor) -> Tensor:
    """Products at the places of a sparse matrix: no row is copied to be multiplied."""
    by_row = len(row) > PAIRS_PER_ROW * len(vectors)
    # Row after row, the vectors are read from memory in their order, and each of them once.
    outer, left, inner, right = (
        (row, vectors, query, queries) if by_row else (query, queries, row, vectors)
    )
    outer, order = outer.sort(stable=True)
    ends = outer.bincount(minlength=len(left)).cumsum(0)
    places = torch.sparse_csr_tensor(
        torch.cat([ends.new_zeros(1), ends]), inner[order], torch.zeros(len(order)),
        size=(len(left), len(right)), check_invariants=False,
    )  # fmt: skip
    products = torch.sparse.sampled_addmm(places, left, right.T, beta=0.0).values()
    return torch.empty_like(products).index_copy_(0, order, products)


@cache
def has_sampled_products() -> bool:
    """Whether torch multiplies at the places of a sparse matrix on this CPU, and does it right."""
    generator = torch.Generator().manual_seed(0)
    vectors, queries = (torch.randn(n, 24, generator=generator) for n in (40, 3))
    query, row = (torch.randint(0, n, (60,), generator=generator) for n in (3, 40))
    try:
        # Torch announces once in a process that its sparse tensors may change.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [_sampled(vectors, queries, query[:n], row[:n]) for n in (2, 60)]
    except RuntimeError:
        return False
    expected = (vectors.double()[row] * queries.double()[query]).sum(dim=1)
    return all(torch.allclose(f.double(), expected[: len(f)], atol=1e-4) for f in found)


def exact_scores(
    embeddings: Float[Tensor, "row dim"],
    queries: Float[Tensor, "query dim"],
    rows: Int[Tensor, "query candidate"],
) -> Float[Tensor, "query candidate"]:
    """Dot products in float64, rounded to float32: the same whatever the batch or the shard."""
    widest = max(1, WIDEST // embeddings.shape[1])
    if rows.shape[1] > widest:
        parts = [exact_scores(embeddings, queries, part) for part in rows.split(widest, dim=1)]
        return torch.cat(parts, dim=1)
    step = max(1, NUMBERS_PER_STEP[rows.device.type] // (rows.shape[1] * embeddings.shape[1]))
    pieces = []
    for query, wanted in zip(queries.double().split(step), rows.split(step), strict=True):
        vectors = embeddings.index_select(0, wanted.reshape(-1).to(embeddings.device))
        vectors = vectors.to(rows.device).double()
        pieces.append(_dot(vectors.view(*wanted.shape, -1), query))
    return torch.cat(pieces).float()


def _dot(
    vectors: Float[Tensor, "query candidate dim"], queries: Float[Tensor, "query dim"]
) -> Float[Tensor, "query candidate"]:
    # One query at a time goes to a matrix-vector product, which is faster than a batched one.
    if len(queries) == 1:
        return (vectors[0] @ queries[0]).unsqueeze(0)
    return (vectors @ queries.unsqueeze(2)).squeeze(2)
