"""Tiny indexes laid out like large ones: by pages, so that they can be mapped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from mmap import PAGESIZE
from unittest import mock

from gazetteer.index import file_layout

DIM, PAGE = 64, 64
"""Of 64 numbers, so many rows are a page in int8."""


@contextmanager
def laid_out_by_pages() -> Iterator[None]:
    """Save every index of `DIM` numbers by pages of the fewest bytes this machine can map."""
    assert PAGESIZE == PAGE * DIM, "sizes here are for pages of 4,096 bytes"
    with (
        mock.patch.object(file_layout, "MAPPED_BYTES", 0),
        mock.patch.object(file_layout, "PAGE_BYTES", PAGESIZE),
    ):
        yield
