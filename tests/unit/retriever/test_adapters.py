"""LoRA: what learns, what is written, and what comes back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModel, T5Model

from gazetteer.adapters import (
    LoraSettings,
    add_adapters,
    are_as_asked,
    has_adapters,
    without_adapters,
)
from gazetteer.errors import CheckpointError, OptionError
from gazetteer.retriever import DualEncoder, save_retriever, tower_fingerprint
from gazetteer.retriever.encoder import TextEncoder
from gazetteer.retriever.head import NewHead
from tests.support.tiny_models import reader_tokenizer, retriever_tokenizer
from tests.unit.retriever.test_towers import load, token_lists

LORA = LoraSettings(rank=2, alpha=3.0, seed=5)


@pytest.fixture(params=["bert", "t5"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(kind: str, reader_folder: Path, retriever_folder: Path) -> Path:
    return {"bert": retriever_folder, "t5": reader_folder}[kind]


def move_adapters(tower: TextEncoder) -> None:
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)


def adapted(folder: Path, **how: Any) -> DualEncoder:
    model = load(folder, **how)
    add_adapters(model.query_tower.model, LORA)
    move_adapters(model.query_tower)
    return model


def save(model: DualEncoder, kind: str, folder: Path) -> Path:
    tokenizer = retriever_tokenizer() if kind == "bert" else reader_tokenizer()
    save_retriever(model, tokenizer, folder)
    return folder


def test_new_adapters_change_nothing_but_what_learns(kind: str, folder: Path) -> None:
    plain, model = load(folder), load(folder, new_head=None)
    add_adapters(model.query_tower.model, LORA)
    expected, found = (m.embed_for_search(token_lists(kind)) for m in (plain, model))
    assert torch.equal(expected, found)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    assert are_as_asked(model.query_tower.model, LORA)
    assert not are_as_asked(model.query_tower.model, LoraSettings(rank=2, alpha=4.0))
    assert not are_as_asked(plain.query_tower.model, LORA)


def test_only_adapters_and_head_get_a_gradient(kind: str, folder: Path) -> None:
    model = adapted(folder, new_head=NewHead(output_dim=4))
    model.embed_queries(token_lists(kind)).pow(2).sum().backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None}
    assert touched == {
        name for name, _ in model.named_parameters() if "lora_" in name or "head" in name
    }


def test_first_weights_depend_on_the_seed_alone(kind: str, folder: Path) -> None:
    prints = []
    for seed in (5, 5, 6):
        torch.manual_seed(len(prints))
        model = load(folder)
        add_adapters(model.query_tower.model, LoraSettings(rank=2, alpha=3.0, seed=seed))
        prints.append(tower_fingerprint(model.query_tower))
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("is_tied", [True, False])
def test_adapters_come_back_with_the_same_bits(
    tmp_path: Path, kind: str, folder: Path, is_tied: bool
) -> None:
    model = adapted(folder, new_head=NewHead(output_dim=4), normalize=True)
    if not is_tied:
        model.untie()
        model.passage_tower = load(
            folder, new_head=NewHead(output_dim=4), normalize=True
        ).query_tower
    loaded = load(save(model, kind, tmp_path))
    assert (loaded.is_tied, has_adapters(loaded.passage_tower.model)) == (is_tied, is_tied)
    for name in ("query_tower", "passage_tower"):
        before, after = (getattr(m, name) for m in (model, loaded))
        assert tower_fingerprint(before) == tower_fingerprint(after)
        assert [n for n, p in before.named_parameters() if "lora_" in n and p.requires_grad] == [
            n for n, p in after.named_parameters() if "lora_" in n and p.requires_grad
        ]
    assert torch.equal(
        *(m.embed_for_search(token_lists(kind)) for m in (model, loaded)),
    )


# peft asks for it by its old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_others_read_merged_weights_and_the_adapter_alone(
    tmp_path: Path, kind: str, folder: Path
) -> None:
    model = adapted(folder)
    save(model, kind, tmp_path)
    ids = torch.tensor([token_lists(kind)[0].tolist()])
    given = {"input_ids": ids}
    if kind == "t5":
        given["decoder_input_ids"] = torch.zeros(1, 1, dtype=torch.long)
    with torch.no_grad():
        expected = model.query_tower.model(**given).last_hidden_state
        merged = AutoModel.from_pretrained(tmp_path).eval()
        assert not any("lora_" in name for name, _ in merged.named_parameters())
        torch.testing.assert_close(merged(**given).last_hidden_state, expected)
        stock = T5Model if kind == "t5" else AutoModel
        over = peft.PeftModel.from_pretrained(
            stock.from_pretrained(folder), str(tmp_path / "adapter")
        ).eval()
        torch.testing.assert_close(over(**given).last_hidden_state, expected)
        plain = stock.from_pretrained(folder).eval()
        assert not torch.allclose(plain(**given).last_hidden_state, expected)


def test_merged_adapters_leave_an_ordinary_tower(tmp_path: Path, kind: str, folder: Path) -> None:
    model = adapted(folder)
    expected = model.embed_for_search(token_lists(kind))
    save(model, kind, tmp_path)
    model.query_tower.model = without_adapters(model.query_tower.model)
    torch.testing.assert_close(model.embed_for_search(token_lists(kind)), expected)
    assert all(p.requires_grad for p in model.parameters())
    # Written over a tower with adapters, none are left.
    assert not has_adapters(load(save(model, kind, tmp_path)).query_tower.model)


def test_the_fingerprint_knows_how_much_adapters_count(folder: Path) -> None:
    models = [load(folder), load(folder)]
    for model, alpha in zip(models, (3.0, 4.0), strict=True):
        add_adapters(model.query_tower.model, LoraSettings(rank=2, alpha=alpha))
    first, second = (tower_fingerprint(model.query_tower) for model in models)
    assert first != second


def test_in_bfloat16_adapters_are_too(tmp_path: Path, kind: str, folder: Path) -> None:
    model = load(folder, torch.bfloat16)
    add_adapters(model.query_tower.model, LORA)
    move_adapters(model.query_tower)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    loaded = load(save(model, kind, tmp_path), torch.bfloat16)
    assert tower_fingerprint(model.query_tower) == tower_fingerprint(loaded.query_tower)


def test_layers_by_name(kind: str, folder: Path) -> None:
    names = {"bert": ("key",), "t5": ("k", "o")}[kind]
    model = load(folder)
    settings = LoraSettings(rank=2, alpha=3.0, modules=names)
    add_adapters(model.query_tower.model, settings)
    found = {
        n.split(".lora_")[0].split(".")[-1] for n, _ in model.named_parameters() if "lora_" in n
    }
    assert found == set(names)
    assert are_as_asked(model.query_tower.model, settings)
    assert not are_as_asked(
        model.query_tower.model, LoraSettings(rank=2, alpha=3.0, modules=("v",))
    )
    with pytest.raises(OptionError, match=r"--lora_modules: .*nothing") as caught:
        add_adapters(
            load(folder).query_tower.model, LoraSettings(rank=2, alpha=3.0, modules=("nothing",))
        )
    assert "\n" not in str(caught.value)


def test_damaged_adapters_are_named(tmp_path: Path, kind: str, folder: Path) -> None:
    saved = save(adapted(folder), kind, tmp_path)
    (saved / "adapter" / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="adapter: the adapters cannot be loaded"):
        load(saved)


def test_without_peft_it_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(folder)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(OptionError, match=r"LoRA \(--lora_rank.*pip install gazetteer\[dense\]"):
        add_adapters(model.query_tower.model, LORA)
