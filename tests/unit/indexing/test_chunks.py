"""Chunks on disk: what is read is what was written, or nothing."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gazetteer.indexing.chunks import ChunkFolder, pieces, uncovered

KEY = "ab" * 32


def folder(tmp_path: Path, key: str = KEY, dim: int = 3) -> ChunkFolder:
    chunks = ChunkFolder.of_version(tmp_path / "refresh", key, dim)
    chunks.create()
    return chunks


def test_what_is_written_is_read_by_any_split_of_the_rows(tmp_path: Path) -> None:
    chunks, vectors = folder(tmp_path), torch.randn(10, 3)
    for rows in (range(4), range(4, 5), range(5, 10)):
        chunks.write(rows.start, vectors[rows.start : rows.stop])
    assert chunks.listed() == [range(4), range(4, 5), range(5, 10)]
    for rows in (range(10), range(2, 7), range(5, 5), range(9, 10)):
        out = torch.full((len(rows), 3), float("nan"))
        assert uncovered(rows, chunks.read_into(rows, out)) == []
        assert torch.equal(out, vectors[rows.start : rows.stop])


def test_rows_that_are_in_no_file_are_left_alone(tmp_path: Path) -> None:
    chunks, vectors = folder(tmp_path), torch.randn(10, 3)
    chunks.write(2, vectors[2:4])
    out = torch.zeros(10, 3)
    assert chunks.read_into(range(10), out) == [range(2, 4)]
    assert torch.equal(out[2:4], vectors[2:4])
    assert not out[:2].any() and not out[4:].any()
    assert uncovered(range(10), [range(2, 4)]) == [range(2), range(4, 10)]


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    chunks = ChunkFolder(tmp_path / "none", KEY, 3)
    assert chunks.listed() == [] and chunks.read(range(3)) is None
    with pytest.raises(FileNotFoundError):
        chunks.write(0, torch.zeros(2, 3))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer"])
def test_no_damage_goes_unnoticed(tmp_path: Path, damage: str, caplog) -> None:
    chunks, vectors = folder(tmp_path), torch.randn(4, 3)
    chunks.write(6, vectors)
    path = chunks.file_of(range(6, 10))
    whole = path.read_bytes()
    positions = range(len(whole)) if damage in ("flip", "cut") else range(1)
    for position in positions:
        content = bytearray(whole)
        if damage == "flip":
            content[position] ^= 0x10
        elif damage == "longer":
            content += b"x"
        else:
            content = content[: position if damage == "cut" else 0]
        path.write_bytes(content)
        found = chunks.read(range(6, 10))
        # A flip in the header's padding or in a fact nobody reads may leave what counts.
        assert found is None or (damage == "flip" and torch.equal(found, vectors))
    assert "as if it were not there" in caplog.text
    assert chunks.keep_intact() == []
    assert chunks.listed() == []


def test_a_file_of_another_version_or_of_other_rows_counts_as_none(tmp_path: Path) -> None:
    ours, other = folder(tmp_path), folder(tmp_path, key="cd" * 32)
    other.write(0, torch.ones(2, 3))
    other.file_of(range(2)).rename(ours.file_of(range(2)))
    assert ours.read(range(2)) is None
    ours.write(5, torch.ones(2, 3))
    ours.file_of(range(5, 7)).rename(ours.file_of(range(7, 9)))
    assert ours.read(range(7, 9)) is None
    ours.write(20, torch.ones(2, 4))
    assert ours.read(range(20, 22)) is None
    assert ours.read_into(range(30), torch.zeros(30, 3)) == []


def test_a_removed_folder_is_not_wanted(tmp_path: Path) -> None:
    chunks = folder(tmp_path)
    assert not chunks.is_wanted
    (chunks.path / "encoder").mkdir()
    chunks.write(0, torch.zeros(1, 3))
    assert chunks.is_wanted
    chunks.remove()
    assert not chunks.is_wanted and not chunks.path.exists()


RANGES = st.tuples(st.integers(0, 40), st.integers(0, 12)).map(lambda p: range(p[0], p[0] + p[1]))


@given(RANGES, st.lists(RANGES, max_size=8))
def test_uncovered_is_what_no_range_holds(rows: range, covered: list[range]) -> None:
    gaps = uncovered(rows, covered)
    missing = [row for row in rows if not any(row in part for part in covered)]
    assert [row for gap in gaps for row in gap] == missing
    assert all(len(gap) for gap in gaps)
    assert all(a.stop < b.start for a, b in pairwise(gaps))


@given(RANGES, st.integers(1, 7))
def test_pieces_are_the_rows_in_order(rows: range, size: int) -> None:
    parts = pieces(rows, size)
    assert [row for part in parts for row in part] == list(rows)
    assert all(0 < len(part) <= size for part in parts)
