"""Every shape of tower: BERT or T5, tied or not, with a head or without, normalised or not."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import MT5Config, MT5Model, T5Config, T5EncoderModel, T5Model

from gazetteer.errors import CheckpointError, OptionError
from gazetteer.records import TokenIds
from gazetteer.retriever import (
    DualEncoder,
    EmbeddingBatch,
    load_retriever,
    save_retriever,
    tower_fingerprint,
)
from gazetteer.retriever.head import NewHead
from tests.support.tiny_models import reader_tokenizer, retriever_tokenizer

TEXTS = ("the capital of peru", "lima", "what is the river in egypt and the lake of austria", "x")


def token_lists(kind: str = "t5") -> list[TokenIds]:
    tokenizer = retriever_tokenizer() if kind == "bert" else reader_tokenizer()
    return [np.array(ids, dtype=np.int32) for ids in tokenizer(list(TEXTS))["input_ids"]]


def load(folder: Path | str, dtype: torch.dtype = torch.float32, **changes: Any) -> DualEncoder:
    how: dict[str, Any] = {"pooling": "mean", "normalize": False, "dropout": 0.0}
    return load_retriever(str(folder), **how | changes, dtype=dtype, batch=EmbeddingBatch())[0]


@pytest.fixture
def t5(reader_folder: Path) -> Path:
    return reader_folder


def move(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)


def test_a_t5_embeds_by_its_decoders_first_token(t5: Path) -> None:
    model = load(t5)
    stock = T5Model.from_pretrained(t5).eval()
    for ids, found in zip(token_lists(), model.embed_for_index(token_lists()), strict=True):
        given = torch.tensor([ids.tolist()])
        states = stock(input_ids=given, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long))
        torch.testing.assert_close(found, states.last_hidden_state[0, 0], rtol=1e-5, atol=1e-6)
    assert model.embedding_dim == 32


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_the_encoder_of_a_t5_alone(t5: Path, pooling: str) -> None:
    model = load(t5, encoder_only=True, pooling=pooling)
    assert isinstance(model.query_tower.model, T5EncoderModel)
    stock = T5EncoderModel.from_pretrained(t5).eval()
    for ids, found in zip(token_lists(), model.embed_for_index(token_lists()), strict=True):
        states = stock(input_ids=torch.tensor([ids.tolist()])).last_hidden_state[0]
        expected = states.mean(dim=0) if pooling == "mean" else states[0]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["t5-v1.1", "mt5"])
def test_gated_t5_and_mt5(tmp_path: Path, kind: str) -> None:
    sizes = {"vocab_size": len(reader_tokenizer()), "d_model": 16, "d_kv": 8, "d_ff": 32}
    sizes |= {"num_layers": 1, "num_heads": 2}
    config, model = (MT5Config, MT5Model) if kind == "mt5" else (T5Config, T5Model)
    model(config(**sizes, feed_forward_proj="gated-gelu")).save_pretrained(tmp_path)
    reader_tokenizer().save_pretrained(tmp_path)
    assert load(tmp_path).embed_for_search(token_lists()).isfinite().all()
    assert type(load(tmp_path, encoder_only=True).query_tower.model).__name__.endswith(
        "EncoderModel"
    )


def test_batches_and_padding_do_not_matter_to_the_decoders_token(t5: Path) -> None:
    model = load(t5)
    alone = [model.embed_for_index([ids])[0] for ids in token_lists()]
    together = model.embed_for_index(token_lists())
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-5, atol=1e-6)


SHAPES = list(
    itertools.product(["bert", "t5", "t5-encoder"], [True, False], [True, False], [True, False])
)


@pytest.mark.parametrize(("kind", "is_tied", "has_head", "normalize"), SHAPES)
def test_every_shape_of_tower_comes_back_as_it_was(
    tmp_path: Path,
    retriever_folder: Path,
    t5: Path,
    kind: str,
    is_tied: bool,
    has_head: bool,
    normalize: bool,
) -> None:
    model = load(
        retriever_folder if kind == "bert" else t5,
        encoder_only=kind == "t5-encoder",
        normalize=normalize,
        new_head=NewHead(output_dim=8) if has_head else None,
    )
    if not is_tied:
        model.untie()
        move(model.query_tower)
    tokenizer = retriever_tokenizer() if kind == "bert" else reader_tokenizer()
    save_retriever(model, tokenizer, tmp_path)
    loaded = load(tmp_path)
    assert (loaded.is_tied, loaded.embedding_dim) == (is_tied, 8 if has_head else 32)
    for name in ("embed_for_search", "embed_for_index"):
        expected, found = (getattr(m, name)(token_lists(kind)) for m in (model, loaded))
        assert torch.equal(expected, found)
    for before, after in (
        (model.query_tower, loaded.query_tower),
        (model.passage_tower, loaded.passage_tower),
    ):
        assert tower_fingerprint(before) == tower_fingerprint(after)
        assert (before.pooling, before.normalize) == (after.pooling, after.normalize)


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_a_head_projects_what_is_pooled_before_it_is_normalised(
    retriever_folder: Path, t5: Path, kind: str
) -> None:
    folder = retriever_folder if kind == "bert" else t5
    plain = load(folder).embed_for_index(token_lists(kind))
    headed = load(folder, normalize=True, new_head=NewHead(input_dim=32, output_dim=5, seed=3))
    head = headed.query_tower.head
    assert head is not None and head.bias is None
    expected = nn.functional.normalize(plain @ head.weight.T, dim=-1)
    torch.testing.assert_close(headed.embed_for_index(token_lists(kind)), expected)
    again = load(folder, new_head=NewHead(output_dim=5, seed=3)).query_tower.head
    other = load(folder, new_head=NewHead(output_dim=5, seed=4)).query_tower.head
    assert again is not None and torch.equal(again.weight, head.weight)
    assert other is not None and not torch.equal(other.weight, head.weight)


def test_the_head_learns_and_is_in_the_fingerprint(t5: Path) -> None:
    model = load(t5, new_head=NewHead(output_dim=4))
    head = model.query_tower.head
    assert head is not None
    assert any(parameter is head.weight for parameter in model.parameters())
    before = tower_fingerprint(model.passage_tower)
    model.embed_queries(token_lists()).sum().backward()
    assert head.weight.grad is not None and head.weight.grad.abs().sum() > 0
    with torch.no_grad():
        head.weight[0, 0] += 1
    assert tower_fingerprint(model.passage_tower) != before


def test_the_fingerprint_of_a_tower_without_a_head_is_that_of_its_model(
    retriever_folder: Path,
) -> None:
    from gazetteer.retriever import weights_fingerprint

    tower = load(retriever_folder).passage_tower
    assert tower_fingerprint(tower) == weights_fingerprint(tower.model)


def test_a_frozen_passage_tower_keeps_its_head_too(t5: Path) -> None:
    model = load(t5, new_head=NewHead(output_dim=4))
    model.freeze_passage_tower()
    query, passage = model.query_tower.head, model.passage_tower.head
    assert query is not None and passage is not None
    assert query is not passage
    assert query.weight.requires_grad and not passage.weight.requires_grad


def test_weights_of_a_t5_go_to_a_file_and_back(t5: Path, tmp_path: Path) -> None:
    tower = load(t5, new_head=NewHead(output_dim=4)).passage_tower
    # With the table of embeddings under three names this would be refused.
    save_file(tower.weights(), tmp_path / "weights.safetensors")
    other = load(t5, new_head=NewHead(output_dim=4, seed=9)).passage_tower
    move(other)
    other.load_weights({name: tensor.clone() for name, tensor in tower.weights().items()})
    assert tower_fingerprint(other) == tower_fingerprint(tower)
    with pytest.raises(CheckpointError, match=r"weights of another encoder: head\.weight"):
        load(t5).passage_tower.load_weights(tower.weights())


def test_in_bfloat16_a_head_works_with_and_without_gradient(t5: Path) -> None:
    model = load(t5, torch.bfloat16, normalize=True, new_head=NewHead(output_dim=4))
    assert model.embed_queries(token_lists()).dtype == torch.bfloat16
    norms = model.embed_for_search(token_lists()).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(len(TEXTS)), rtol=0, atol=1e-6)


def saved(folder: Path, source: Path, **how: Any) -> Path:
    save_retriever(load(source, **how), reader_tokenizer(), folder)
    return folder


@pytest.mark.parametrize(
    ("made", "asked", "message"),
    [
        ({}, {"encoder_only": True}, "--encoder_only is given, but .* decoder's first token"),
        (
            {"new_head": NewHead(output_dim=4)},
            {"new_head": NewHead(output_dim=5)},
            "--projection_out_dim is 5, but the linear head of .* has 4",
        ),
        (
            {"encoder_only": True},
            {"pooling": "no"},
            "--retriever_pooling no takes a single state",
        ),
    ],
)
def test_flags_that_contradict_what_was_saved(
    tmp_path: Path, t5: Path, made: dict, asked: dict, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        load(saved(tmp_path, t5, **made), **asked)


def test_a_head_for_another_width_is_refused(t5: Path) -> None:
    with pytest.raises(OptionError, match=r"--projection_in_dim \(768\) must be the model's 32"):
        load(t5, new_head=NewHead(input_dim=768))


@pytest.mark.parametrize("pooling", ["mean", "first", "no"])
def test_poolings_are_alike_for_a_single_state(t5: Path, pooling: str) -> None:
    assert load(t5, pooling=pooling).query_tower.pooling == "first_decoder_token"


def test_an_encoder_without_its_decoder_is_not_given_a_random_one(tmp_path: Path, t5: Path) -> None:
    T5EncoderModel.from_pretrained(t5).save_pretrained(tmp_path)
    reader_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"the encoder of a t5 alone \(--encoder_only\)"):
        load(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"is_encoder_decoder": True}))
    with pytest.raises(CheckpointError, match=r"it lacks \d+ weights, decoder\."):
        load(tmp_path)


def test_a_lost_or_damaged_head_is_named(tmp_path: Path, t5: Path) -> None:
    folder = saved(tmp_path, t5, new_head=NewHead(output_dim=4))
    weights = folder / "head" / "model.safetensors"
    save_file({"linear.weight": torch.zeros(4, 31)}, weights)
    with pytest.raises(
        CheckpointError, match="head is for states of 31 numbers, the model gives 32"
    ):
        load(folder)
    save_file({"other": torch.zeros(4, 32)}, weights)
    with pytest.raises(CheckpointError, match=r"expected linear\.weight .* found \['other'\]"):
        load(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="the linear head is not readable"):
        load(folder)
