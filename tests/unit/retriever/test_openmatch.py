"""OpenMatch's folders: what it would write is read, what we write it could read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, BertModel, T5EncoderModel, T5Model

from gazetteer.errors import CheckpointError
from gazetteer.retriever import DualEncoder, load_retriever
from gazetteer.retriever.encoder import EmbeddingBatch
from gazetteer.retriever.head import NewHead
from gazetteer.retriever.openmatch import write_openmatch
from tests.support.tiny_models import reader_tokenizer, retriever_tokenizer
from tests.unit.retriever.test_towers import load, move, token_lists


def openmatch_folder(folder: Path, model: Any, **config: Any) -> Path:
    """A tied retriever as OpenMatch saves it, with a head of 32 -> 4."""
    model.save_pretrained(folder)
    is_bert = isinstance(model, BertModel)
    (retriever_tokenizer() if is_bert else reader_tokenizer()).save_pretrained(folder)
    torch.save({"linear.weight": torch.arange(128.0).view(4, 32) / 128}, folder / "linear.pt")
    (folder / "head_config.json").write_text('{"input_dim": 32, "output_dim": 4}')
    document = {
        "tied": True,
        "plm_backbone": {"type": type(model).__name__, "feature": "last_hidden_state"},
        "pooling": "first",
        "linear_head": True,
        "normalize": True,
    }
    (folder / "openmatch_config.json").write_text(json.dumps(document | config))
    return folder


@pytest.mark.parametrize(
    ("kind", "pooling", "expected"),
    [
        (T5Model, "first", "first_decoder_token"),
        (T5Model, "no", "first_decoder_token"),
        (T5EncoderModel, "mean", "mean"),
        (BertModel, "first", "cls"),
    ],
)
def test_a_tied_folder(
    tmp_path: Path, reader_folder: Path, retriever_folder: Path, kind, pooling: str, expected: str
) -> None:
    source = retriever_folder if kind is BertModel else reader_folder
    folder = openmatch_folder(tmp_path, kind.from_pretrained(source), pooling=pooling)
    model = load(folder)
    tower = model.query_tower
    assert (tower.pooling, tower.normalize, model.embedding_dim) == (expected, True, 4)
    assert tower.head is not None and tower.head.weight[0, 1] == 1 / 128
    assert type(tower.model) is kind


@pytest.mark.parametrize("has_head", [True, False])
@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("kind", ["bert", "t5", "t5-encoder"])
def test_what_is_written_is_read_again(
    tmp_path: Path,
    reader_folder: Path,
    retriever_folder: Path,
    kind: str,
    is_tied: bool,
    has_head: bool,
) -> None:
    model = load(
        retriever_folder if kind == "bert" else reader_folder,
        encoder_only=kind == "t5-encoder",
        normalize=True,
        new_head=NewHead(output_dim=4) if has_head else None,
    )
    if not is_tied:
        model.untie()
        move(model.query_tower)
    tokenizer = retriever_tokenizer() if kind == "bert" else reader_tokenizer()
    write_openmatch(model, tokenizer, tmp_path)
    loaded = load(tmp_path)
    assert loaded.is_tied == is_tied
    for name in ("embed_for_search", "embed_for_index"):
        expected, found = (getattr(m, name)(token_lists(kind)) for m in (model, loaded))
        assert torch.equal(expected, found)
    # Each tower is a folder that transformers reads by the name of its class.
    backbone = json.loads((tmp_path / "openmatch_config.json").read_text())["plm_backbone"]
    assert backbone["type" if is_tied else "lm_p_type"] == type(model.query_tower.model).__name__
    AutoModel.from_pretrained(tmp_path if is_tied else tmp_path / "query_model")


def test_our_own_form_of_pooling_is_not_written_for_openmatch(
    tmp_path: Path, retriever_folder: Path
) -> None:
    model = load(retriever_folder, pooling="sqrt")
    with pytest.raises(CheckpointError, match="OpenMatch has no pooling sqrt"):
        write_openmatch(model, retriever_tokenizer(), tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pooling": "no"}, "pooling is no, which gives no single vector"),
        ({"layernorm": True}, "no layer norm can be read"),
        ({"plm_backbone": {"type": "BertModel", "feature": "pooler_output"}}, "pooler_output"),
        ({"plm_backbone": None}, "not readable"),
    ],
)
def test_ways_to_embed_that_we_have_not(
    tmp_path: Path, retriever_folder: Path, config: dict, message: str
) -> None:
    model = BertModel.from_pretrained(retriever_folder)
    folder = openmatch_folder(tmp_path, model, **config)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert "openmatch_config.json" in str(caught.value)


class Payload:
    """Pickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_head_that_would_run_something_is_refused(tmp_path: Path, retriever_folder: Path) -> None:
    folder = openmatch_folder(tmp_path / "model", BertModel.from_pretrained(retriever_folder))
    torch.save({"linear.weight": Payload(tmp_path / "ran")}, folder / "linear.pt")
    with pytest.raises(
        CheckpointError, match=r"linear\.pt: the linear head is not readable"
    ) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_it_is_opened_by_name_like_any_other(tmp_path: Path, reader_folder: Path) -> None:
    folder = openmatch_folder(tmp_path, T5Model.from_pretrained(reader_folder))
    model, tokenizer = load_retriever(
        str(folder),
        pooling="first",
        normalize=True,
        dropout=0.1,
        dtype=torch.float32,
        batch=EmbeddingBatch(),
        new_head=NewHead(input_dim=32, output_dim=4),
    )
    assert isinstance(model, DualEncoder) and len(tokenizer) == len(reader_tokenizer())
