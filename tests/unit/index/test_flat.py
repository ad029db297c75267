from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gazetteer.index import flat, pair_scores
from gazetteer.index.flat import (
    EMPTY_ROW,
    hit_keys,
    hits_of_keys,
    largest_norm,
    order_hits,
    search_flat,
)
from gazetteer.index.pair_scores import rounding_bound


def brute_force(embeddings: Tensor, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """All products in float64, rounded; ties by row."""
    scores = (queries.double() @ embeddings.double().T).float()
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :top_k]
    return scores.gather(1, order), order


def assert_exact(embeddings: Tensor, queries: Tensor, top_k: int) -> None:
    scores, rows = search_flat(embeddings, queries, top_k)
    expected_scores, expected_rows = brute_force(embeddings, queries, top_k)
    assert torch.equal(rows, expected_rows)
    assert torch.equal(scores, expected_scores)


def coarse(*shape: int) -> Tensor:
    """Vectors of few different values: many scores are equal, and exact in any precision."""
    return torch.randint(-2, 3, shape).float()


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles with more groups of groups than candidates, and rows left over; several of each."""
    monkeypatch.setattr(flat, "TILE_ROWS", 19 * flat.GROUP**2 + 10)
    monkeypatch.setattr(flat, "TILE_QUERIES", 5)
    monkeypatch.setitem(pair_scores.NUMBERS_PER_STEP, "cpu", 100)


@pytest.mark.parametrize("top_k", [1, 7, 40])
@pytest.mark.usefixtures("small_tiles")
def test_search_over_many_tiles_is_exact(top_k: int) -> None:
    assert_exact(torch.randn(3 * flat.TILE_ROWS + 5, 12), torch.randn(12, 12), top_k)


@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("edge", ["group", "groups", "tile", "tiles"])
@pytest.mark.usefixtures("small_tiles")
def test_search_is_exact_at_the_edges_of_tiles_and_groups(edge: str, more: int) -> None:
    edges = {
        "group": flat.GROUP,
        "groups": 18 * flat.GROUP,
        "tile": flat.TILE_ROWS,
        "tiles": 2 * flat.TILE_ROWS,
    }
    assert_exact(torch.randn(edges[edge] + more, 6), torch.randn(3, 6), 1)


@pytest.mark.parametrize("top_k", [1, 5, 30])
@pytest.mark.usefixtures("small_tiles")
def test_ties_go_to_the_lower_row(top_k: int) -> None:
    assert_exact(coarse(2 * flat.TILE_ROWS, 3), coarse(11, 3), top_k)


@pytest.mark.parametrize("top_k", [1, 5, 100])
def test_ties_beyond_the_candidates_go_to_the_lower_row(top_k: int) -> None:
    embeddings = torch.randn(2_000, 8)
    copies = torch.randperm(2_000)[:900]
    embeddings[copies] = 9 * torch.randn(8)
    queries = torch.cat([embeddings[copies[:1]], torch.randn(4, 8)])
    assert_exact(embeddings, queries, top_k)
    _, rows = search_flat(embeddings, queries[:1], top_k)
    assert rows[0].tolist() == copies.sort().values[:top_k].tolist()


@pytest.mark.parametrize("query", [0.0, 1.0])
def test_an_index_of_copies_gives_the_first_rows(query: float) -> None:
    _, rows = search_flat(torch.ones(700, 4), torch.full((2, 4), query), 6)
    assert rows.tolist() == [list(range(6))] * 2


@pytest.mark.parametrize("noise", [1e-6, 1e-7, 3e-8])
@pytest.mark.usefixtures("small_tiles")
def test_scores_that_float32_products_cannot_tell_apart_are_ordered(noise: float) -> None:
    embeddings = torch.randn(1, 64) * (1 + noise * torch.randn(1_200, 64))
    assert_exact(embeddings, torch.randn(6, 64), 10)


def test_large_parts_that_cancel_do_not_hide_a_hit() -> None:
    embeddings = torch.randn(1_000, 32)
    embeddings[:, 0], embeddings[:, 1] = 1e6, -1e6
    queries = torch.randn(5, 32)
    queries[:, :2] = 1
    assert_exact(embeddings, queries, 4)


def test_a_widened_search_in_small_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "WIDEST", 60)
    assert_exact(1 + 1e-7 * torch.randn(300, 8), torch.rand(7, 8), 3)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
@pytest.mark.parametrize("dim", [2, 64, 768])
def test_the_bound_covers_the_error_of_a_float32_product(dim: int, scale: float) -> None:
    embeddings, queries = scale * torch.randn(400, dim), torch.rand(20, dim)
    exact = queries.double() @ embeddings.double().T
    errors = (queries @ embeddings.T).double() - exact
    errors = errors.abs() + (exact.float().double() - exact).abs()
    bound = rounding_bound(queries, largest_norm(embeddings))
    assert (errors.amax(dim=1) <= bound).all()
    # Nor is it so wide that every search becomes a full one.
    assert (bound < 1e-4 * queries.norm(dim=1) * embeddings.norm(dim=1).max()).all()


def test_a_search_widens_only_where_it_has_to(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, queries = torch.randn(2_000, 16), torch.randn(9, 16)
    embeddings[100:160] = queries[3]
    calls: list[tuple[int, int]] = []
    propose = flat._propose

    def spy(embeddings: Tensor, queries: Tensor, width: int) -> tuple[Tensor, Tensor]:
        calls.append((len(queries), width))
        return propose(embeddings, queries, width)

    monkeypatch.setattr(flat, "_propose", spy)
    assert_exact(embeddings, queries, 5)
    assert calls == [(9, 21), (1, 84)]


def test_where_all_scores_are_equal_few_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs: list[int] = []
    exact_scores = flat.exact_scores

    def spy(embeddings: Tensor, queries: Tensor, rows: Tensor) -> Tensor:
        pairs.append(rows.numel())
        return exact_scores(embeddings, queries, rows)

    monkeypatch.setattr(flat, "exact_scores", spy)
    monkeypatch.setitem(flat.DOUBLES, "cpu", 1000)
    embeddings = torch.randn(1, 8).expand(30_000, 8)
    assert_exact(embeddings, torch.randn(3, 8), 5)
    assert sum(pairs) <= 3 * (1 + flat.WIDER) * (5 + 16 + 1)


@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=9, unique=True),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4, unique=True),
)
def test_keys_are_in_the_order_of_hits(scores: list[float], rows: list[int]) -> None:
    table = torch.tensor([scores]).repeat_interleave(len(rows), dim=1)
    numbers = torch.tensor(rows).repeat(len(scores))
    keys = hit_keys(table, numbers)
    expected = sorted(
        zip(table[0].tolist(), numbers.tolist(), strict=True), key=lambda h: (-h[0], h[1])
    )
    found = hits_of_keys(keys.sort(dim=1, descending=True).values)
    assert list(zip(found[0][0].tolist(), found[1][0].tolist(), strict=True)) == expected


@pytest.mark.parametrize(("rows", "top_k"), [(3, 5), (1, 2), (20, 64)])
def test_columns_beyond_the_rows_are_marked(rows: int, top_k: int) -> None:
    embeddings, queries = torch.randn(rows, 4), torch.randn(2, 4)
    scores, found = search_flat(embeddings, queries, top_k)
    expected = brute_force(embeddings, queries, top_k)
    assert torch.equal(scores[:, :rows], expected[0])
    assert torch.equal(found[:, :rows], expected[1])
    assert (scores[:, rows:] == float("-inf")).all()
    assert (found[:, rows:] == EMPTY_ROW).all()
    assert scores.shape == found.shape == (2, top_k)


def test_an_empty_shard_and_no_queries_are_no_trouble() -> None:
    scores, rows = search_flat(torch.zeros(0, 4), torch.randn(2, 4), 3)
    assert scores.tolist() == [[float("-inf")] * 3] * 2
    assert rows.tolist() == [[EMPTY_ROW] * 3] * 2
    scores, rows = search_flat(torch.randn(5, 4), torch.zeros(0, 4), 3)
    assert scores.shape == rows.shape == (0, 3)
    assert (scores.dtype, rows.dtype) == (torch.float32, torch.int64)


def test_a_known_norm_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, queries = torch.randn(50, 4), torch.randn(3, 4)
    expected = search_flat(embeddings, queries, 2)
    norm = largest_norm(embeddings)
    monkeypatch.setattr(flat, "largest_norm", None)
    found = search_flat(embeddings, queries, 2, norm_limit=norm)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_largest_norm_is_that_of_the_longest_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "TILE_ROWS", 2)
    embeddings = torch.tensor([[0.0, 1.0], [3.0, 4.0], [1.0, 1.0]])
    assert largest_norm(embeddings) == 5
    assert largest_norm(embeddings[:0]) == 0


@settings(max_examples=60)
@given(
    rows=st.integers(1, 400),
    queries=st.integers(1, 6),
    dim=st.integers(1, 9),
    top_k=st.integers(1, 60),
    steps=st.sampled_from([1, 3, 1_000_000]),
    cut=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_search_equals_brute_force_however_the_rows_are_split(
    rows: int, queries: int, dim: int, top_k: int, steps: int, cut: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(rows, dim, generator=generator)
    embeddings = (embeddings * steps).round() / steps
    asked = torch.randint(-3, 4, (queries, dim), generator=generator).float()
    expected = brute_force(embeddings, asked, top_k)
    middle = round(cut * rows)
    scores, found = search_flat(embeddings[:middle], asked, top_k)
    more_scores, more = search_flat(embeddings[middle:], asked, top_k)
    more = torch.where(more >= 0, more + middle, more)
    merged = order_hits(torch.cat([scores, more_scores], 1), torch.cat([found, more], 1), top_k)
    for part, reference in zip(merged, expected, strict=True):
        assert torch.equal(part[:, :rows], reference)
