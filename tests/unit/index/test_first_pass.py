from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gazetteer.index import first_pass, flat, pair_scores, rounded_rows
from gazetteer.index.first_pass import possible_rows
from gazetteer.index.flat import FlatShard
from gazetteer.index.rounded_rows import BLOCK, CodeType, round_rows

CODES: tuple[CodeType, ...] = get_args(CodeType)


def brute_force(vectors: Tensor, queries: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """All products in float64, rounded; ties by row."""
    scores = (queries.double() @ vectors.double().T).float()
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :top_k]
    return scores.gather(1, order), order


def assert_exact(vectors: Tensor, queries: Tensor, top_k: int, kind: CodeType = "int8") -> None:
    shard = FlatShard(vectors, round_rows(vectors, kind))
    scores, rows = shard.search(queries, top_k)
    expected_scores, expected_rows = brute_force(vectors, queries, top_k)
    assert torch.equal(rows, expected_rows)
    assert torch.equal(scores, expected_scores)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles, several steps, and no shard too small for a first pass."""
    monkeypatch.setattr(rounded_rows, "TILE_ROWS", 4 * BLOCK)
    monkeypatch.setattr(first_pass, "MANY_QUERIES", 2)
    monkeypatch.setitem(first_pass.SCORES_PER_STEP, "cpu", 3 * 4 * BLOCK * 4)
    monkeypatch.setitem(pair_scores.NUMBERS_PER_STEP, "cpu", 500)
    monkeypatch.setattr(flat, "ROWS_PER_HIT", 1)
    monkeypatch.setattr(flat, "TILE_QUERIES", 5)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each first pass found candidates for every query, rather than gave one up."""
    outcomes: list[bool] = []

    def spy(*args: object) -> object:
        found, given_up = possible_rows(*args)  # type: ignore[arg-type]
        outcomes.append(not given_up.any())
        return found, given_up

    monkeypatch.setattr(flat, "possible_rows", spy)
    return outcomes


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("top_k", [1, 7, 40])
def test_two_passes_give_the_exact_top_k(kind: CodeType, top_k: int, passes: list[bool]) -> None:
    assert_exact(torch.randn(3000, 24), torch.randn(12, 24), top_k, kind)
    assert all(passes)
    assert len(passes) == 3


@pytest.mark.parametrize("rows", [BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK, 4 * BLOCK + 1, 999])
def test_any_number_of_rows(rows: int) -> None:
    assert_exact(torch.randn(rows, 9), torch.randn(3, 9), 5)


@pytest.mark.parametrize("kind", CODES)
def test_the_last_row_is_not_found_twice(kind: CodeType) -> None:
    vectors = torch.randn(BLOCK + 3, 8)
    vectors[-1] = 5.0
    assert_exact(vectors, torch.ones(2, 8), 4, kind)


@pytest.mark.parametrize("queries", [1, 2, 5, 6, 17])
def test_any_number_of_queries(queries: int) -> None:
    assert_exact(torch.randn(1500, 8), torch.randn(queries, 8), 3)


def test_no_queries_find_nothing() -> None:
    scores, rows = FlatShard(torch.randn(9000, 4)).search(torch.zeros(0, 4), 3)
    assert scores.shape == rows.shape == (0, 3)


@pytest.mark.parametrize("kind", CODES)
def test_ties_go_to_the_lower_row(kind: CodeType) -> None:
    assert_exact(torch.randint(-2, 3, (2000, 3)).float(), torch.ones(4, 3), 30, kind)


def test_where_all_scores_are_equal_the_first_pass_gives_up(passes: list[bool]) -> None:
    _, rows = FlatShard(torch.ones(9000, 8)).search(torch.ones(2, 8), 6)
    assert rows.tolist() == [list(range(6))] * 2
    assert passes == [False]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of everything that is looked at row by row: hits, and pairs scored in full."""
    sizes: list[int] = []

    def spy_on(module: object, name: str) -> None:
        function = getattr(module, name)

        def spy(*args: Tensor) -> Tensor:
            sizes.append(args[-1].numel())
            return function(*args)

        monkeypatch.setattr(module, name, spy)

    spy_on(first_pass, "_hits_of")
    for name in ("pair_scores", "exact_scores"):
        spy_on(flat, name)
    return sizes


@pytest.mark.parametrize("step", ["one", "several"])
@pytest.mark.parametrize("kind", CODES)
def test_equal_rows_are_not_listed(
    kind: CodeType, step: str, listed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if step == "one":
        monkeypatch.setitem(first_pass.SCORES_PER_STEP, "cpu", 10**6)
    assert_exact(torch.ones(20_000, 8), torch.randn(5, 8), 6, kind)
    assert 0 < max(listed) <= 5 * 4 * (6 + 16)


@pytest.mark.parametrize("step", ["one", "several"])
def test_one_query_that_is_given_up_leaves_the_others_alone(
    step: str, listed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 20,000 rows 15,000 are equal, and one query is theirs; another finds all rows alike."""
    if step == "one":
        monkeypatch.setitem(first_pass.SCORES_PER_STEP, "cpu", 10**6)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(20_000, 16, generator=generator)
    vectors[torch.randperm(20_000, generator=generator)[:15_000]] = 3 * vectors[0]
    queries = 0.1 * torch.randn(4, 16, generator=generator) - vectors[0]
    queries[1], queries[2] = vectors[0], 0
    rounded = round_rows(vectors, "int8")
    assert rounded is not None
    found, given_up = possible_rows(vectors, rounded, queries, 6)
    assert given_up.tolist() == [False, True, True, False]
    assert set(found.query.tolist()) == {0, 3}
    assert_exact(vectors, queries, 6)
    assert max(listed) < 5_000


@settings(max_examples=60)
@given(
    rows=st.integers(64, 900),
    different=st.integers(1, 12),
    dim=st.integers(1, 12),
    top_k=st.integers(1, 40),
    zeros=st.booleans(),
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(CODES),
)
def test_many_equal_rows_are_found_in_their_order(
    rows: int, different: int, dim: int, top_k: int, zeros: bool, seed: int, kind: CodeType
) -> None:
    generator = torch.Generator().manual_seed(seed)
    some = torch.randn(different, dim, generator=generator)
    vectors = some[torch.randint(0, different, (rows,), generator=generator)]
    queries = torch.cat([some[:2], torch.randn(3, dim, generator=generator)])
    if zeros:
        queries[-1] = 0
        vectors[::3] = 0
    assert_exact(vectors, queries, top_k, kind)


@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-7])
def test_rows_that_rounding_cannot_tell_apart_are_ordered(noise: float) -> None:
    vectors = torch.randn(1, 32) * (1 + noise * torch.randn(1200, 32))
    assert_exact(vectors, torch.randn(6, 32), 10)


@pytest.mark.parametrize("kind", CODES)
def test_rows_of_very_different_lengths(kind: CodeType) -> None:
    vectors = torch.randn(1200, 16) * torch.logspace(-4, 2, 1200).unsqueeze(1)
    vectors[500] = 0
    assert_exact(vectors, torch.randn(6, 16), 10, kind)


def test_zero_queries_and_zero_vectors() -> None:
    assert_exact(torch.zeros(700, 4), torch.zeros(2, 4), 3)
    assert_exact(torch.randn(700, 4), torch.zeros(2, 4), 3)


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("size", [1e-36, 1e-30, 1e-24, 1e-21, 1e-10, 1e10, 1e15])
@pytest.mark.parametrize("of", ["rows", "queries"])
def test_numbers_of_any_magnitude(kind: CodeType, size: float, of: str) -> None:
    vectors, queries = torch.randn(1200, 24), torch.randn(6, 24)
    if of == "queries":
        assert_exact(vectors, queries * size, 10, kind)
    elif kind != "fp16" or 1e-24 < size < 1e4:
        assert_exact(vectors * size, queries, 10, kind)


@pytest.mark.parametrize("rows", [100, 1200])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e38])
def test_queries_that_are_no_numbers_find_something(rows: int, bad: float) -> None:
    vectors, queries = torch.randn(rows, 9), torch.randn(4, 9)
    queries[1] = bad
    _, found = FlatShard(vectors, round_rows(vectors, "int8")).search(queries, 5)
    assert (found >= 0).all()
    good = [0, 2, 3]
    assert torch.equal(found[good], brute_force(vectors, queries[good], 5)[1])
    _, found = FlatShard(vectors, round_rows(vectors, "int8")).search(queries[1:2], 5)
    assert (found >= 0).all()


def test_a_bound_that_cannot_be_given_falls_back() -> None:
    vectors = torch.randn(9000, 4)
    vectors[17, 2] = float("inf")
    assert round_rows(vectors, "int8") is None
    assert round_rows(torch.full((64, 4), 1e6), "fp16") is None
    _, rows = FlatShard(vectors).search(torch.ones(1, 4), 1)
    assert rows.tolist() == [[17]]


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_no_row_scores_more_than_its_upper_bound(kind: CodeType, scale: float) -> None:
    vectors, queries = scale * torch.randn(900, 20), torch.randn(5, 20)
    rounded = round_rows(vectors, kind)
    assert rounded is not None
    found, given_up = possible_rows(vectors, rounded, queries, 200)
    assert not given_up.any()
    exact = (vectors.double()[found.row] * queries.double()[found.query]).sum(1)
    assert (exact <= found.score.double()).all()
    # Nor is the bound so wide that nothing is ruled out.
    few, _ = possible_rows(vectors, rounded, queries, 1)
    assert 5 <= len(few.row) < 5 * 100


def test_few_rows_or_many_hits_need_no_first_pass(
    monkeypatch: pytest.MonkeyPatch, passes: list[bool]
) -> None:
    monkeypatch.setattr(flat, "ROWS_PER_HIT", 512)
    FlatShard(torch.randn(flat.FEWEST_ROWS - 1, 4)).search(torch.randn(1, 4), 1)
    FlatShard(torch.randn(flat.FEWEST_ROWS, 4)).search(torch.randn(1, 4), 1000)
    assert passes == []
    FlatShard(torch.randn(flat.FEWEST_ROWS, 4)).search(torch.randn(1, 4), 1)
    assert passes == [True]


@settings(max_examples=60)
@given(
    rows=st.integers(64, 700),
    dim=st.integers(1, 40),
    asked=st.integers(1, 9),
    top_k=st.integers(1, 60),
    seed=st.integers(0, 10_000),
    levels=st.sampled_from([0, 2, 9]),
    kind=st.sampled_from(CODES),
)
def test_any_search_is_exact(
    rows: int, dim: int, asked: int, top_k: int, seed: int, levels: int, kind: CodeType
) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, dim, generator=generator)
    queries = torch.randn(asked, dim, generator=generator)
    if levels:
        vectors = (vectors * levels).round()
    assert_exact(vectors, queries, top_k, kind)


@pytest.mark.parametrize("dim", [1, 2, 7, 8, 9])
def test_any_number_of_dimensions(dim: int) -> None:
    assert_exact(torch.randn(700, dim), torch.randn(4, dim), 5)


def test_a_product_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(codes: Tensor, queries: Tensor, out: Tensor) -> None:
        out.fill_(7)

    rounded_rows.has_first_pass.cache_clear()
    assert rounded_rows.has_first_pass(torch.device("cpu"))
    rounded_rows.has_first_pass.cache_clear()
    monkeypatch.setattr(rounded_rows, "multiply", wrong)
    assert not rounded_rows.has_first_pass(torch.device("cpu"))
    assert not rounded_rows.has_first_pass(torch.device("meta"))
    rounded_rows.has_first_pass.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("asked", [1, 7, 64])
def test_two_passes_on_a_gpu(asked: int) -> None:
    vectors, queries = torch.randn(20_000, 384), torch.randn(asked, 384)
    _, rows = FlatShard(vectors.cuda()).search(queries.cuda(), 10)
    assert torch.equal(rows.cpu(), brute_force(vectors, queries, 10)[1])
