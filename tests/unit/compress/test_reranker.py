"""The cross-encoder: scores one per document, raw unless asked otherwise, best first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gazetteer.compress.reranker import Reranker, add_reranking_scores, rerank_and_filter
from gazetteer.errors import CheckpointError
from tests.support.compress_models import save_tiny_cross_encoder

ITEMS = [
    {"query": "what is paris", "documents": ["paris city", {"title": "oslo", "text": "norway"}]},
    {"query": "who", "documents": ["king of spain", "lima peru", "one two three", "river"]},
]


@pytest.fixture(scope="module")
def reranker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_cross_encoder(tmp_path_factory.mktemp("reranker"))


def test_scores_are_added_and_the_order_stays(reranker_folder: Path) -> None:
    scored = add_reranking_scores(ITEMS, str(reranker_folder), device="cpu")
    assert [len(each["reranking_scores"]) for each in scored] == [2, 4]
    assert [each["documents"] for each in scored] == [each["documents"] for each in ITEMS]
    logits = Reranker(str(reranker_folder), device=torch.device("cpu"))
    pair = [("what is paris", "oslo: norway")]
    assert logits.score(pair) == pytest.approx(scored[0]["reranking_scores"][1:], rel=1e-4)
    shares = Reranker(str(reranker_folder), device=torch.device("cpu"), scores="probabilities")
    expected = torch.sigmoid(torch.tensor(logits.score(pair)))
    assert shares.score(pair) == pytest.approx(expected.tolist(), rel=1e-4)
    assert not 0 <= logits.score(pair)[0] <= 1


def test_the_best_are_kept_best_first(reranker_folder: Path) -> None:
    scored = add_reranking_scores(ITEMS, str(reranker_folder), device="cpu")
    kept = rerank_and_filter(ITEMS, 2, str(reranker_folder), device="cpu")
    for before, after in zip(scored, kept, strict=True):
        pairs = zip(before["reranking_scores"], before["documents"], strict=True)
        best = sorted(pairs, key=lambda pair: -pair[0])[:2]
        assert after["documents"] == [document for _, document in best]
        assert after["reranking_scores"] == pytest.approx([score for score, _ in best])


def test_a_model_of_several_labels_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_cross_encoder(tmp_path, labels=3)
    with pytest.raises(CheckpointError, match="gives 3 numbers for a pair, expected one"):
        Reranker(str(folder), device=torch.device("cpu"))
