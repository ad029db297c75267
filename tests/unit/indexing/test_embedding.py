"""Embedding goes on where it was interrupted."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gazetteer.index import shard_range
from gazetteer.indexing import embedding
from gazetteer.indexing.chunks import ChunkFolder
from gazetteer.indexing.embedding import RowEmbedder
from gazetteer.indexing.identity import identity_of, version_key
from gazetteer.indexing.slices import SlicedVersion
from tests.unit.selection.test_selection import World


class Killed(BaseException):
    pass


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(embedding, "CHUNK_ROWS", 4)
    monkeypatch.setattr(embedding, "KEEP_SECONDS", 0)
    return World(tmp_path)


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the pieces that were embedded; an entry of -1 before the call kills it."""
    calls: list[int] = []
    original = embedding.embed

    def counts(tower, token_lists, batch) -> Tensor:
        if calls and calls[-1] == -1:
            raise Killed
        calls.append(len(token_lists))
        return original(tower, token_lists, batch)

    monkeypatch.setattr(embedding, "embed", counts)
    return calls


def chunks_of(world: World, folder: Path) -> ChunkFolder:
    tower = world.retriever.passage_tower
    key = version_key(identity_of(tower, world.corpus, world.tokens))
    return ChunkFolder.of_version(folder, key, tower.embedding_dim)


def embedder(world: World, chunks: ChunkFolder | None, rows: range, out: Tensor) -> RowEmbedder:
    tower = world.retriever.passage_tower
    return RowEmbedder(tower, world.tokens, rows, world.retriever.batch, out=out, chunks=chunks)


@pytest.mark.parametrize("done", [0, 1, 4, 7])
def test_what_a_kill_left_is_not_embedded_again(
    world: World, tmp_path: Path, embedded: list[int], done: int
) -> None:
    rows, chunks = range(30), chunks_of(world, tmp_path / "refresh")
    first = embedder(world, chunks, rows, torch.empty(30, 32))
    for start in range(0, 4 * done, 4):
        first.embed(range(start, start + 4))
    embedded.append(-1)
    with pytest.raises(Killed):
        first.embed_all(show_progress=False)
    embedded.clear()
    again = torch.full((30, 32), float("nan"))
    embedder(world, chunks, rows, again).embed_all(show_progress=False)
    assert sum(embedded) == 30 - 4 * done
    whole = torch.empty(30, 32)
    embedder(world, None, rows, whole).embed_all(show_progress=False)
    assert torch.equal(again, whole)


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_any_number_of_workers_goes_on(
    world: World, tmp_path: Path, embedded: list[int], parts: int
) -> None:
    chunks = chunks_of(world, tmp_path / "refresh")
    for part in range(3):  # Three workers, each of whom embedded four of its ten rows.
        rows = shard_range(30, part, 3)
        embedder(world, chunks, rows, torch.empty(10, 32)).embed(rows[:4])
    embedded.clear()
    found = []
    for part in range(parts):
        rows = shard_range(30, part, parts)
        found.append(torch.full((len(rows), 32), float("nan")))
        embedder(world, chunks, rows, found[-1]).embed_all(show_progress=False)
    assert sum(embedded) == 30 - 12
    torch.testing.assert_close(torch.cat(found), world.vectors, rtol=1e-5, atol=1e-6)


def test_other_weights_use_nothing_of_it(world: World, tmp_path: Path, embedded: list[int]) -> None:
    out = torch.empty(30, 32)
    embedder(world, chunks_of(world, tmp_path / "refresh"), range(30), out).embed(range(30))
    embedded.clear()
    with torch.no_grad():
        next(world.retriever.parameters()).mul_(1.01)
    embedder(world, chunks_of(world, tmp_path / "refresh"), range(30), out).embed(range(30))
    assert sum(embedded) == 30


def test_a_short_embedding_writes_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "KEEP_SECONDS", 60)
    chunks = chunks_of(world, tmp_path / "refresh")
    embedder(world, chunks, range(30), torch.empty(30, 32)).embed_all(show_progress=False)
    assert not (tmp_path / "refresh").exists()


def test_a_disk_that_takes_nothing_is_no_reason_to_stop(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "refresh").write_text("a file where the folder should be")
    out = torch.empty(30, 32)
    chunks = chunks_of(world, tmp_path / "refresh")
    embedder(world, chunks, range(30), out).embed_all(show_progress=False)
    torch.testing.assert_close(out, world.vectors, rtol=1e-5, atol=1e-6)
    assert caplog.text.count("cannot keep what is embedded") == 1


def test_slices_go_on_as_well(world: World, tmp_path: Path, embedded: list[int]) -> None:
    identity = identity_of(world.retriever.passage_tower, world.corpus, world.tokens)

    def begin() -> SlicedVersion:
        return SlicedVersion(
            world.retriever.passage_tower,
            world.tokens,
            range(30),
            world.retriever.batch,
            vectors=torch.full((30, 32), float("nan")),
            identity=identity,
            chunks=chunks_of(world, tmp_path / "refresh"),
            step=3,
            slices=5,
        )

    first = begin()
    for _ in range(3):
        first.embed_next_slice()
    embedded.clear()
    again = begin()
    again.finish()
    assert sum(embedded) == 30 - 18
    torch.testing.assert_close(again.vectors, world.vectors, rtol=1e-5, atol=1e-6)
