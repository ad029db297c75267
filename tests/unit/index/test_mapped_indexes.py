"""Saved indexes that are mapped: any rows of them, whoever saved them, are searched alike."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gazetteer import stamps
from gazetteer.files import STAMP, file_digest
from gazetteer.index import (
    ShardedIndex,
    first_pass,
    flat,
    making,
    read_manifest,
    rounded_rows,
    save_index,
    stored_files,
)
from gazetteer.index.flat import FlatShard
from gazetteer.index.loading import load_rows
from gazetteer.index.making import FlatMaker, IndexDtype
from gazetteer.index.rounded_rows import RoundedRows
from gazetteer.index.shards import shard_range
from gazetteer.index.storage import save_rows
from gazetteer.index.verification import find_problems
from gazetteer.records import Ranks
from tests.support.identities import IDENTITY
from tests.support.page_files import DIM, PAGE, laid_out_by_pages

COUNT, FILES = 11 * PAGE + 13, 4
VECTORS = torch.randn(COUNT, DIM, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def by_pages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Mapped files, and a first pass however few rows there are."""
    monkeypatch.setattr(flat, "ROWS_PER_HIT", 1)
    monkeypatch.setattr(flat, "FEWEST_ROWS", 1)
    monkeypatch.setattr(making, "FEWEST_ROWS", 1)
    with laid_out_by_pages():
        yield


def save(folder: Path, vectors: Tensor = VECTORS, **changes: Any) -> Path:
    index = ShardedIndex(len(vectors), Ranks(), vectors)
    wanted = {"identity": IDENTITY, "step": 1, "files": FILES, "ranks": Ranks()} | changes
    save_index(index, folder, **wanted)
    return folder


def load(folder: Path, dtype: IndexDtype = "fp32", rank: int = 0, world_size: int = 1) -> FlatShard:
    """A rank's shard; the others are not there."""
    manifest = read_manifest(folder)
    maker = FlatMaker(
        dtype, count=manifest.count, dim=DIM, ranks=Ranks(), folder=folder.parent / "vectors"
    )
    maker._rows = shard_range(manifest.count, rank, world_size)
    return maker.load(folder, manifest)


def codes_of(shard: FlatShard) -> RoundedRows:
    assert shard._codes is not None
    return shard._codes


def maps() -> str:
    return Path("/proc/self/maps").read_text()


def assert_exact(shard: FlatShard, vectors: Tensor, top_k: int, seed: int = 0) -> None:
    queries = torch.randn(6, DIM, generator=torch.Generator().manual_seed(seed))
    queries[0] = vectors[0]
    queries[1] = vectors[-1]
    expected = (queries.double() @ vectors.double().T).float()
    order = expected.argsort(dim=1, descending=True, stable=True)[:, :top_k]
    scores, rows = shard.search(queries, top_k)
    assert torch.equal(rows, order)
    assert torch.equal(scores, expected.gather(1, order))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with laid_out_by_pages():
        return save(tmp_path_factory.mktemp("shared") / "index")


def test_files_are_whole_pages_and_every_row_is_in_one(shared: Path) -> None:
    manifest = read_manifest(shared)
    assert len(manifest.files) == len(manifest.rounded) == FILES
    for files in (manifest.files, manifest.rounded):
        assert [file.rows % PAGE for file in files[:-1]] == [0] * (FILES - 1)
        assert sum(file.rows for file in files) == COUNT
    assert torch.equal(load_rows(shared, manifest, range(COUNT)), VECTORS)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_what_is_loaded_is_a_map_of_the_files(shared: Path, dtype: IndexDtype) -> None:
    shard = load(shared, dtype)
    names = {file.name for file in read_manifest(shared).all_files}
    assert all(name in maps() for name in names)
    assert torch.equal(shard.vectors, VECTORS)
    assert not (shared.parent / "vectors").exists()
    del shard
    assert not any(name in maps() for name in names)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_other_codes_are_made_of_mapped_vectors(shared: Path, dtype: IndexDtype) -> None:
    shard = load(shared, dtype)
    assert codes_of(shard).codes.dtype == (torch.half if dtype == "fp16" else torch.bfloat16)
    assert read_manifest(shared).files[0].name in maps()
    assert_exact(shard, VECTORS, 9)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_any_part_of_it_is_searched_exactly(
    shared: Path, world_size: int, dtype: IndexDtype
) -> None:
    for rank in range(world_size):
        rows = shard_range(COUNT, rank, world_size)
        shard = load(shared, dtype, rank, world_size)
        assert codes_of(shard).skipped == rows.start % 64
        assert_exact(shard, VECTORS[rows.start : rows.stop], 10)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(bounds=st.tuples(st.integers(0, COUNT), st.integers(0, COUNT)), top_k=st.integers(1, 30))
def test_any_rows_are_searched_exactly(shared: Path, bounds: tuple[int, int], top_k: int) -> None:
    rows = range(min(bounds), max(bounds))
    if len(rows) == 0:
        return
    manifest = read_manifest(shared)
    maker = FlatMaker("int8", count=COUNT, dim=DIM, ranks=Ranks(), folder=shared)
    maker._rows = rows
    shard = maker.load(shared, manifest)
    found = VECTORS[rows.start : rows.stop]
    assert_exact(shard, found, min(top_k, len(rows)), seed=rows.start)
    # The bound holds for the rows of the neighbours that the first pass leaves out, too.
    assert codes_of(shard).norms.max() >= found.norm(dim=1).max()


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize(
    ("first", "last"),
    [(PAGE + 24, 7 * PAGE - 8), (PAGE + 7, 7 * PAGE - 9)],
    ids=["whole groups", "parts of groups"],
)
def test_foreign_rows_never_raise_the_threshold(
    first: int, last: int, side: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several steps, for each of which a block may raise it.
    monkeypatch.setattr(rounded_rows, "TILE_ROWS", 2 * PAGE)
    monkeypatch.setitem(first_pass.SCORES_PER_STEP, "cpu", 1)
    vectors = torch.randn(8 * PAGE, DIM)
    # Were they looked at, nothing of our own would be left.
    vectors[slice(first) if side == "before" else slice(last, None)] *= 100
    folder = save(tmp_path / "index", vectors, files=2)
    maker = FlatMaker("int8", count=len(vectors), dim=DIM, ranks=Ranks(), folder=tmp_path)
    maker._rows = range(first, last)
    shard = maker.load(folder, read_manifest(folder))
    for top_k in (1, 2, 5):
        assert_exact(shard, vectors[first:last], top_k)


def test_codes_are_never_written_back(shared: Path) -> None:
    before = {path.name: file_digest(path) for path in shared.iterdir()}
    for rank in range(3):
        load(shared, "int8", rank, 3)
    assert {path.name: file_digest(path) for path in shared.iterdir()} == before


def test_an_index_is_saved_over_the_one_it_was_loaded_from(tmp_path: Path) -> None:
    folder = save(tmp_path / "index")
    shard = load(folder)
    old = {file.name for file in read_manifest(folder).all_files}
    index = ShardedIndex(COUNT, Ranks())
    index.adopt(shard)
    save_index(index, folder, identity=IDENTITY, step=2, files=FILES + 1, ranks=Ranks())
    new = {file.name for file in read_manifest(folder).all_files}
    assert old - new and {path.name for path in folder.iterdir()} == new | {"manifest.json"}
    # The old one is still there for whoever has it, though its files have no names any more.
    assert_exact(shard, VECTORS, 5)
    assert_exact(load(folder), VECTORS, 5)
    # The same content gets the same names; they are replaced, not written into.
    save_index(index, folder, identity=IDENTITY, step=3, files=FILES + 1, ranks=Ranks())
    assert {file.name for file in read_manifest(folder).all_files} == new
    assert_exact(shard, VECTORS, 5)


def test_numbers_that_are_not_finite_are_saved_without_codes(tmp_path: Path) -> None:
    vectors = VECTORS.clone()
    vectors[PAGE * 6, 3] = float("inf")
    folder = save(tmp_path / "index", vectors)
    assert read_manifest(folder).rounded == ()
    assert not list(folder.glob("rounded.*"))
    assert torch.equal(load(folder).vectors, vectors)


def test_half_precision_files_are_copied(tmp_path: Path) -> None:
    parts = VECTORS.half().split(4 * PAGE)
    save_rows(
        parts, tmp_path / "index", identity=IDENTITY, step=0, embedding_dim=DIM, is_mappable=True
    )
    shard = load(tmp_path / "index")
    assert shard.vectors.dtype == torch.float32
    assert "embeddings.0" not in maps()
    assert_exact(shard, VECTORS.half().float(), 7)


def test_files_saved_by_rows_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = VECTORS.split(PAGE - 1)
    save_rows(parts, tmp_path / "index", identity=IDENTITY, step=0, embedding_dim=DIM)
    shard = load(tmp_path / "index")
    assert "embeddings.0" not in maps()
    assert_exact(shard, VECTORS, 7)


# ---- stamps


@pytest.fixture
def digests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read; every file is large, and settled when it is written."""
    read: list[str] = []

    def counted(path: Path) -> tuple[str, int]:
        read.append(path.name)
        return file_digest(path)

    monkeypatch.setattr(stored_files, "file_digest", counted)
    monkeypatch.setattr(stamps, "LARGE_BYTES", 0)
    monkeypatch.setattr(stamps, "SETTLED_NS", -1)
    return read


def test_what_was_just_saved_is_not_read_again_but_to_verify(
    tmp_path: Path, digests: list[str]
) -> None:
    folder = save(tmp_path / "index")
    load(folder)
    assert digests == []
    (folder / STAMP).unlink()
    for _ in range(3):
        load(folder)
    names = {file.name for file in read_manifest(folder).all_files}
    assert sorted(digests) == sorted(names)
    digests.clear()
    assert find_problems(folder, lambda _: None) == []
    assert sorted(digests) == sorted(names)


def test_only_the_files_of_a_ranks_rows_are_read_and_remembered(
    tmp_path: Path, digests: list[str]
) -> None:
    folder = save(tmp_path / "index")
    (folder / STAMP).unlink()
    load(folder, "int8", 0, FILES)
    first = list(digests)
    assert len(first) in (2, 4)
    load(folder)
    assert sorted(digests) == sorted({file.name for file in read_manifest(folder).all_files})
    save(folder, VECTORS + 1)
    digests.clear()
    load(folder)
    assert digests == []


def test_a_file_that_changed_a_moment_ago_is_read_again(
    tmp_path: Path, digests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "SETTLED_NS", 10**10)
    folder = save(tmp_path / "index")
    assert not (folder / STAMP).exists()
    load(folder, "int8")
    load(folder, "int8")
    assert len(digests) == 4 * FILES


def test_a_file_that_changed_since_the_stamp_is_refused(tmp_path: Path, digests: list[str]) -> None:
    folder = save(tmp_path / "index")
    load(folder)
    # Further apart than the clock of any local file system ticks.
    time.sleep(0.03)
    for file in read_manifest(folder).all_files:
        content = (folder / file.name).read_bytes()
        with (folder / file.name).open("r+b") as handle:
            handle.seek(len(content) - 3)
            handle.write(bytes([content[-3] ^ 1]))
        with pytest.raises(stored_files.IndexFileError, match=f"{file.name}: SHA-256"):
            load(folder)
        (folder / file.name).write_bytes(content)
    load(folder)
