"""A saved index as a library: opened with its encoder, asked, and refused where they differ."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gazetteer.data.passages import PassageStore
from gazetteer.errors import CheckpointError, IndexFileError
from gazetteer.index import (
    FlatShard,
    ShardedIndex,
    faiss_codec,
    load_rows,
    open_index,
    read_manifest,
    save_index,
)
from gazetteer.index.__main__ import main
from gazetteer.index.codec import CodecSettings
from gazetteer.index.compressed import CompressedShard
from gazetteer.index.compressor import Compressor
from gazetteer.index.storage import save_rows
from gazetteer.records import Ranks
from tests.support import tiny_data
from tests.support.saved_indexes import save_embedded
from tests.support.tiny_models import save_tiny_retriever

COUNT = 30
QUERIES = ["who wrote the book", "the capital of france", "a river in the north"]


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_retriever(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def shared_index(tmp_path_factory: pytest.TempPathFactory, retriever: Path) -> Path:
    folder = tmp_path_factory.mktemp("index") / "saved"
    return save_embedded(folder, tiny_data.passages(COUNT), retriever)


@pytest.fixture
def saved(tmp_path: Path, shared_index: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(shared_index, tmp_path / "saved"))


def test_records_are_the_best_passages_with_their_scores(
    shared_index: Path, retriever: Path
) -> None:
    searcher = open_index(shared_index, retriever)
    found = searcher.search(QUERIES, k=5)
    manifest = read_manifest(shared_index)
    vectors = load_rows(shared_index, manifest, range(COUNT))
    scores, rows = (searcher.embed(QUERIES) @ vectors.T).topk(5)
    store = PassageStore(shared_index / "passages")
    assert searcher.count == COUNT
    for line, expected, wanted in zip(found, scores, rows, strict=True):
        assert [record["score"] for record in line] == pytest.approx(expected.tolist(), abs=1e-5)
        texts = [{key: value for key, value in r.items() if key != "score"} for r in line]
        assert texts == store.records(wanted.tolist())
        assert all(list(record)[:4] == ["score", "id", "title", "text"] for record in line)


def test_a_passages_own_field_is_no_score(tmp_path: Path, retriever: Path) -> None:
    rows = [passage | {"score": "mine"} for passage in tiny_data.passages(4)]
    folder = save_embedded(tmp_path / "saved", rows, retriever)
    (line,) = open_index(folder, retriever).search(["a book"], k=4)
    assert all(isinstance(record["score"], float) for record in line)


def test_a_passages_own_words_find_it(shared_index: Path, retriever: Path) -> None:
    searcher = open_index(str(shared_index), str(retriever))
    record = searcher.passages.records([7])[0]
    vector = load_rows(shared_index, read_manifest(shared_index), range(7, 8))
    query = f"{record['title']} {record['text']}"
    assert torch.allclose(searcher.embed([query]), vector, atol=1e-5)


def test_few_passages_and_no_queries(shared_index: Path, retriever: Path) -> None:
    searcher = open_index(shared_index, retriever)
    assert searcher.search([]) == []
    assert [len(line) for line in searcher.search(QUERIES, k=1000)] == [COUNT] * 3
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        searcher.search(QUERIES, k=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "cls"},
        {"pooling": "sqrt", "normalize": True},
        {"dtype": torch.bfloat16},
    ],
    ids=str,
)
def test_the_encoder_is_used_as_the_index_was_made(
    settings: dict[str, Any], tmp_path: Path, retriever: Path
) -> None:
    folder = save_embedded(tmp_path / "saved", tiny_data.passages(5), retriever, **settings)
    searcher = open_index(folder, retriever)
    record = searcher.passages.records([3])[0]
    best = searcher.embed([f"{record['title']} {record['text']}"])
    vector = load_rows(folder, read_manifest(folder), range(3, 4))
    tolerance = 0.05 if "dtype" in settings else 1e-5
    assert torch.allclose(best, vector, atol=tolerance)


def test_another_encoder_is_refused_with_both_fingerprints(
    shared_index: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = save_tiny_retriever(tmp_path / "other", seed=1)
    with pytest.raises(IndexFileError) as caught:
        open_index(shared_index, other)
    made_by = read_manifest(shared_index).identity.encoder.weights
    message = str(caught.value)
    assert message.startswith(f"{shared_index}: not made by {other} (encoder weights: ")
    assert f"index has {made_by}, in use is " in message
    assert "allow_stale=True" in message and "\n" not in message
    with caplog.at_level(logging.WARNING):
        assert len(open_index(shared_index, other, allow_stale=True).search(QUERIES)[0]) == 10
    assert made_by in caplog.text


def test_an_encoder_that_embeds_in_another_way_is_refused(
    saved: Path, tmp_path: Path, retriever: Path
) -> None:
    pooled = tmp_path / "pooled"
    shutil.copytree(retriever, pooled)
    (pooled / "embedding.json").write_text('{"pooling": "cls", "normalize": true}')
    with pytest.raises(IndexFileError, match=r"pooling: index has mean, in use is cls.*normalize"):
        open_index(saved, pooled)


def test_an_encoder_of_another_width_is_refused_even_so(saved: Path, retriever: Path) -> None:
    identity = read_manifest(saved).identity
    narrow = [torch.zeros(COUNT, 3)]
    save_rows(narrow, saved, identity=identity, step=0, embedding_dim=3)
    with pytest.raises(IndexFileError, match=f"vectors of 3 numbers, {retriever} makes 32"):
        open_index(saved, retriever, allow_stale=True)


def test_an_index_needs_its_own_passages(saved: Path, retriever: Path) -> None:
    manifest = read_manifest(saved)
    other = replace(manifest.identity, corpus="another")
    vectors = load_rows(saved, manifest, range(COUNT))
    save_rows([vectors], saved, identity=other, step=0, embedding_dim=32)
    with pytest.raises(IndexFileError, match=r"other passages than were embedded: .* another$"):
        open_index(saved, retriever)
    shutil.rmtree(saved / "passages")
    with pytest.raises(IndexFileError, match="passages: no passages here"):
        open_index(saved, retriever)


def test_an_unknown_model_is_refused(shared_index: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere' cannot be loaded"):
        open_index(shared_index, tmp_path / "nowhere")


def test_an_index_from_atlas_is_searched_once_its_encoder_is_named(
    shared_index: Path, tmp_path: Path, retriever: Path
) -> None:
    def convert(*words: object) -> None:
        assert main(["convert", *map(str, words), "--files", "3", "--no_progress"]) == 0

    atlas, plain, named = (tmp_path / name for name in ("atlas", "plain", "named"))
    convert(shared_index, "--to", "atlas", "--output", atlas)
    convert(atlas, "--output", plain)
    with pytest.raises(IndexFileError, match="encoder weights: index has unknown, in use is "):
        open_index(plain, retriever)
    expected = open_index(shared_index, retriever).search(QUERIES, k=3)
    stale = open_index(plain, retriever, allow_stale=True).search(QUERIES, k=3)
    convert(atlas, "--output", named, "--encoder_model", retriever)
    for found in (stale, open_index(named, retriever).search(QUERIES, k=3)):
        assert [[r["id"] for r in line] for line in found] == [
            [r["id"] for r in line] for line in expected
        ]


@pytest.fixture
def coded(saved: Path) -> Path:
    """The same index with codes of faiss beside its vectors."""
    pytest.importorskip("faiss")
    manifest = read_manifest(saved)
    vectors = load_rows(saved, manifest, range(COUNT))
    compressor = Compressor(
        CodecSettings(kind="ivfsq", nlist=3),
        count=COUNT,
        dim=manifest.embedding_dim,
        ranks=Ranks(),
        folder=saved.parent / "vectors",
        show_progress=False,
    )
    index = ShardedIndex(COUNT, Ranks(), vectors, build_shard=compressor)
    save_index(index, saved, identity=manifest.identity, step=0, files=2, ranks=Ranks())
    return saved


@pytest.mark.parametrize("exact", [False, True])
def test_codes_of_faiss_are_searched_unless_told_otherwise(
    exact: bool, coded: Path, shared_index: Path, retriever: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_codec, "train_codec", None)
    found = open_index(coded, retriever, exact=exact)
    assert isinstance(found._shard, FlatShard if exact else CompressedShard)
    # All lists are looked into, and the best candidates are scored exactly.
    expected = open_index(shared_index, retriever).search(QUERIES, k=4)
    assert found.search(QUERIES, k=4) == expected


def test_a_large_index_is_mapped(saved: Path, retriever: Path) -> None:
    manifest = read_manifest(saved)
    vectors = load_rows(saved, manifest, range(COUNT))
    expected = open_index(saved, retriever).search(QUERIES, k=4)
    save_rows(
        [vectors],
        saved,
        identity=manifest.identity,
        step=0,
        embedding_dim=manifest.embedding_dim,
        is_mappable=True,
    )
    searcher = open_index(saved, retriever)
    assert f"{saved}/embeddings." in Path("/proc/self/maps").read_text()
    assert searcher.search(QUERIES, k=4) == expected
