"""The parts of the benchmark of compressed indexes that decide what its numbers mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import compressed_recall, texts
from benchmarks.compressed_recall import PIECE, embedded, recall


def test_recall_looks_at_the_first_hits_only() -> None:
    expected = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    found = torch.tensor([[2, 9, 1, 3], [6, 5, 7, 8]])
    assert recall(found, expected, 2) == 3 / 4
    assert recall(found, expected, 4) == 7 / 8


def test_windows_overlap_as_much_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [("T", "a b c d e f"), ("U", "x")]
    monkeypatch.setattr(texts, "_documents", lambda: iter(documents))
    assert texts.windows(3, words=3) == ["T a b c", "T d e f", "U x"]
    assert texts.windows(4, words=3) == ["T a b c", "T c d e", "T e f", "U x"]
    assert len(texts.windows(1_000, words=3)) == 5


class Embedder:
    """Counts; a text's vector is its length."""

    texts = 0
    is_killed = False

    def __call__(self, lines: list[str]) -> torch.Tensor:
        if Embedder.is_killed and Embedder.texts:
            raise KeyboardInterrupt
        Embedder.texts += len(lines)
        return torch.tensor([[float(len(line))] for line in lines])


def test_embedding_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed_recall, "Embedder", Embedder)
    windows = ["x" * (i % 7) for i in range(PIECE + 3)]
    assert embedded(windows, tmp_path, may_embed=False) is None
    Embedder.texts, Embedder.is_killed = 0, True
    with pytest.raises(KeyboardInterrupt):
        embedded(windows, tmp_path, may_embed=True)
    assert embedded(windows, tmp_path, may_embed=False) is None
    Embedder.texts, Embedder.is_killed = 0, False
    found = embedded(windows, tmp_path, may_embed=True)
    assert Embedder.texts == 3
    assert found is not None
    assert found[:, 0].tolist() == [len(window) for window in windows]
    assert embedded(windows[1:], tmp_path, may_embed=False) is None
