"""Which rows go into which file of a saved index, so that the files can be mapped as one matrix.

The kernel maps whole pages. Where every file but the last holds a whole number of them, any rows of
any number of files appear in memory one after the other, without being copied.
"""

from __future__ import annotations

import math

from gazetteer.index.rounded_rows import BLOCK, padded_dim

PAGE_BYTES = 65_536
"""The largest page of common machines, so that files fit all of them; most have 4,096 bytes."""
MAPPED_BYTES = 2**26
"""A smaller index is split evenly and copied when it is loaded, which takes no time either."""


def rows_per_page(count: int, dim: int, *, parts: int) -> int:
    """Fewest rows that are a whole number of pages, of float32 vectors and of int8 ones.

    Args:
        count: rows of the index.
        dim: of the vectors.
        parts: ranks that hold them.

    Returns:
        1 where the index, or a part of it, is too small to care.
    """
    if count * dim * 4 < MAPPED_BYTES:
        return 1
    rows = max(BLOCK, _rows_per_page(4 * dim), _rows_per_page(padded_dim(dim)))
    return rows if count // parts >= rows else 1


def _rows_per_page(row_bytes: int) -> int:
    return PAGE_BYTES // math.gcd(PAGE_BYTES, row_bytes)


def rows_written_by(held: range, count: int, page: int) -> range:
    """Rows that the rank holding some rows writes: those of the pages that begin among them.

    Args:
        held: contiguous.
        count: rows of the index.
        page: see `rows_per_page`.
    """
    return range(_up(held.start, page), min(count, _up(held.stop, page)))


def split_rows(rows: range, parts: int, page: int) -> list[range]:
    """Contiguous parts of nearly equal size, each but the last a whole number of pages."""
    bounds = [len(rows) * part // parts // page * page for part in range(parts)]
    return [
        range(rows.start + start, rows.start + stop)
        for start, stop in zip(bounds, [*bounds[1:], len(rows)], strict=True)
    ]


def _up(row: int, page: int) -> int:
    return -(-row // page) * page
