"""Scores of pairs: by a cross-encoder on disk, or by a file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

from gazetteer.errors import OptionError
from gazetteer.ir.records import Candidate
from gazetteer.mining.filters import Asked
from gazetteer.mining.pair_scores import scores_of_cross_encoder, scores_of_run
from tests.support.tiny_models import retriever_tokenizer, tiny_bert

ASKED = Asked("1", "what is red", ())
CANDIDATES = [
    Candidate("a", None, None, "run", "river", "the lake"),
    Candidate("b", None, None, "run", "", "a city in france"),
]


def save_model(folder: Path, labels: int) -> Path:
    torch.manual_seed(0)
    config = tiny_bert().config
    config.num_labels = labels
    BertForSequenceClassification(config).save_pretrained(folder)
    retriever_tokenizer().save_pretrained(folder)
    return folder


def test_probabilities_of_a_cross_encoder(tmp_path: Path) -> None:
    folder = save_model(tmp_path, 1)
    scores = scores_of_cross_encoder(str(folder))(ASKED, CANDIDATES)
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    pairs = retriever_tokenizer()(
        [ASKED.text] * 2, ["river the lake", "a city in france"], return_tensors="pt", padding=True
    )
    with torch.no_grad():
        expected = model(**pairs).logits.sigmoid().flatten().tolist()
    assert scores == pytest.approx(expected, abs=1e-5)


def test_what_is_no_cross_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="has 2 labels, expected 1"):
        scores_of_cross_encoder(str(save_model(tmp_path, 2)))
    with pytest.raises(OptionError, match=r"'.*gone' cannot be loaded"):
        scores_of_cross_encoder(str(tmp_path / "gone"))
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(OptionError, match=r"pip install gazetteer\[dense\]"):
        scores_of_cross_encoder(str(tmp_path))


def test_scores_of_a_file() -> None:
    assert scores_of_run({"1": {"b": 0.5}})(ASKED, CANDIDATES) == [None, 0.5]
    assert scores_of_run({"2": {"b": 0.5}})(ASKED, CANDIDATES) == [None, None]
