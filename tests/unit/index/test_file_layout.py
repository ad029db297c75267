"""Which rows go into which file: all of them once, whole pages, whatever the number of ranks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazetteer.index import file_layout
from gazetteer.index.file_layout import PAGE_BYTES, rows_per_page, rows_written_by, split_rows
from gazetteer.index.rounded_rows import BLOCK, padded_dim
from gazetteer.index.shards import shard_range


@pytest.mark.parametrize("dim", [1, 7, 32, 100, 384, 768, 1000, 1024, 4096])
def test_a_page_of_rows_is_whole_in_every_file(dim: int) -> None:
    rows = rows_per_page(10**8, dim, parts=4)
    assert rows % BLOCK == 0
    assert rows * dim * 4 % PAGE_BYTES == 0
    assert rows * padded_dim(dim) % PAGE_BYTES == 0
    sizes = [rows // 2 * padded_dim(dim) % PAGE_BYTES, rows // 2 * dim * 4 % PAGE_BYTES]
    assert [*sizes, rows // 2 % BLOCK] != [0, 0, 0], "fewer would do"


def test_small_indexes_are_not_laid_out_by_pages() -> None:
    rows = file_layout.MAPPED_BYTES // (4 * 384)
    assert rows_per_page(rows, 384, parts=1) == 1
    assert rows_per_page(rows + 1, 384, parts=1) == 512
    # A rank with less than a page would have nothing to write.
    assert rows_per_page(rows + 1, 384, parts=rows // 512 + 2) == 1
    assert rows_per_page(10**9, 0, parts=1) == 1


@given(
    count=st.integers(0, 3000),
    files=st.integers(1, 40),
    ranks=st.integers(1, 4),
    page=st.sampled_from([1, 64, 256]),
)
def test_every_row_is_written_once_and_in_order(
    count: int, files: int, ranks: int, page: int
) -> None:
    page = page if count // ranks >= page else 1
    written = []
    for rank in range(ranks):
        rows = rows_written_by(shard_range(count, rank, ranks), count, page)
        written += split_rows(rows, files, page)
    assert [row for rows in written for row in rows] == list(range(count))
    # Whatever begins a file begins a page, unless nothing follows.
    assert all(rows.start % page == 0 or len(rows) == 0 for rows in written)
    sizes = [len(rows) for rows in written]
    assert ranks > 1 or max(sizes) - min(sizes) <= max(1, 2 * page - 1)
