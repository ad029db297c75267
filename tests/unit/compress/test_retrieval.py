"""Retrieval: sparse blocks, dense blocks and words find what scoring every passage would find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gazetteer.compress import retrieval
from gazetteer.compress.dense_encoder import DenseEncoder
from gazetteer.compress.retrieval import (
    BlockRetriever,
    Bm25Retriever,
    SPLADERetriever,
    found_of,
)
from gazetteer.compress.splade import SpladeEncoder, best_places
from gazetteer.data.passages import PassageStore, write_passages
from gazetteer.errors import CheckpointError
from tests.support.compress_models import save_tiny_splade
from tests.support.tiny_data import passages, questions

CPU = torch.device("cpu")
QUERIES = [each["question"] for each in questions(7)]


@pytest.fixture(scope="module")
def splade_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_splade(tmp_path_factory.mktemp("splade"))


@pytest.fixture
def corpus(tmp_path: Path) -> PassageStore:
    return write_passages(passages(50), tmp_path / "corpus")


@pytest.fixture
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "BLOCK_ROWS", 16)


def dense_splade(folder: Path, texts: list[str]) -> np.ndarray:
    """What sentence-transformers itself makes of texts, as a dense matrix: only for so few."""
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(str(folder), device="cpu")
    model.max_seq_length = 256
    return model.encode_document(texts, show_progress_bar=False).to_dense().numpy()


def best_of(scores: np.ndarray, top_k: int) -> list[list[int]]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return [[row for row in rows if scores[query, row] > 0] for query, rows in enumerate(order)]


@pytest.mark.usefixtures("_small_blocks")
def test_splade_finds_what_the_dense_product_would(
    splade_folder: Path, corpus: PassageStore, tmp_path: Path
) -> None:
    encoder = SpladeEncoder(str(splade_folder), device=CPU)
    retriever = BlockRetriever(encoder, corpus, tmp_path / "blocks", query_batch=3)
    hits = retriever.search(QUERIES, 5)
    records = corpus.records(range(corpus.count))
    documents = dense_splade(splade_folder, [f"{p['title']} {p['text']}" for p in records])
    scores = dense_splade(splade_folder, QUERIES) @ documents.T
    expected = best_of(scores, 5)
    assert [[row for row, _ in found] for found in found_of(hits)] == expected
    gathered = np.take_along_axis(scores, hits.rows, axis=1)
    np.testing.assert_allclose(hits.scores, gathered, rtol=1e-4)
    assert len({tuple(rows) for rows in expected}) > 1
    # And it takes a fraction of the words.
    block = encoder.encode_passages(["one"], ["two three"])
    assert 0 < len(block["words"]) < block["shape"][1] / 2


@pytest.mark.usefixtures("_small_blocks")
def test_encoded_blocks_are_kept_shared_and_made_again_when_damaged(
    splade_folder: Path, corpus: PassageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = SpladeEncoder(str(splade_folder), device=CPU)
    first = BlockRetriever(encoder, corpus, tmp_path / "blocks").search(QUERIES, 4)
    files = sorted((tmp_path / "blocks").rglob("*.safetensors"))
    assert len(files) == 4
    files[1].unlink()
    files[2].write_bytes(b"torn")
    encoded: list[int] = []
    encode = encoder.encode_passages
    monkeypatch.setattr(
        encoder,
        "encode_passages",
        lambda titles, texts: (encoded.append(len(texts)), encode(titles, texts))[1],
    )
    # Another process, which begins in the middle and shares what is there.
    again = BlockRetriever(encoder, corpus, tmp_path / "blocks", part=(1, 2)).search(QUERIES, 4)
    assert encoded == [16, 16]
    np.testing.assert_array_equal(first.rows, again.rows)
    np.testing.assert_array_equal(first.scores, again.scores)


def test_the_dense_retriever_is_exact(
    retriever_folder: Path, corpus: PassageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = DenseEncoder(str(retriever_folder), device=CPU)
    records = corpus.records(range(corpus.count))
    block = encoder.encode_passages([p["title"] for p in records], [p["text"] for p in records])
    scores = encoder.encode_queries(QUERIES).numpy() @ block["vectors"].T
    monkeypatch.setattr(retrieval, "BLOCK_ROWS", 16)
    hits = BlockRetriever(encoder, corpus, None).search(QUERIES, 6)
    np.testing.assert_allclose(hits.scores, -np.sort(-scores, axis=1)[:, :6], rtol=1e-5)


def test_words_find_passages_that_share_one(corpus: PassageStore) -> None:
    hits = Bm25Retriever(corpus).search(["paris", "zzz"], 50)
    found = list(found_of(hits))
    texts = [f"{p['title']} {p['text']}" for p in corpus.records(range(corpus.count))]
    assert {row for row, _ in found[0]} == {n for n, t in enumerate(texts) if "paris" in t.split()}
    assert found[1] == []


def test_the_python_surface_of_the_seed(splade_folder: Path) -> None:
    corpus = [{"id": "1", "title": "paris", "text": "city"}, {"text": "oslo"}, {"text": "lima"}]
    results = SPLADERetriever(model_name=str(splade_folder), device="cpu").retrieve(
        ["oslo", "paris city"], corpus, top_k=2
    )
    assert results[0][0]["text"] == "oslo"
    assert results[1][0]["id"] == "1"
    scores = [each["retrieval_score"] for each in results[1]]
    assert scores == sorted(scores, reverse=True)


def test_ties_go_to_the_lower_row() -> None:
    scores, rows = np.array([1.0, 2.0, 1.0, 1.0]), np.array([9, 4, 3, 5])
    assert rows[best_places(scores, rows, 2)].tolist() == [4, 3]
    assert rows[best_places(scores, rows, 9)].tolist() == [4, 3, 5, 9]


def test_a_model_that_is_not_there_is_one_line() -> None:
    with pytest.raises(CheckpointError) as caught:
        SpladeEncoder("no/such-model", device=CPU)
    assert "\n" not in str(caught.value) and "(--retriever_model)" in str(caught.value)
