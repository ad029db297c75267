"""Checkpoints as Atlas leaves them, written by torch.save from tiny models."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertModel, T5Config, T5ForConditionalGeneration

from tests.support.tiny_models import reader_tokenizer, tiny_bert, tiny_t5

ATLAS_OPTIONS = {
    "reader_model_type": "google/t5-base-lm-adapt",
    "retriever_model_path": "facebook/contriever",
    "text_maxlength": 512,
    "n_context": 40,
    "gold_score_mode": "pdist",
    "precision": "fp32",
    "query_side_retriever_training": False,
    "train_data": [],
    "device": torch.device("cpu"),
    "qa_prompt_format": "question: {question} answer: <extra_id_0>",
}


def untied_t5(seed: int = 3) -> T5ForConditionalGeneration:
    """A v1.1-like T5 (gated, its own head, no scaling before it)."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(reader_tokenizer()),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    model = T5ForConditionalGeneration(config)
    # The config of transformers 5 ties them nevertheless.
    model.lm_head.weight = nn.Parameter(torch.randn_like(model.shared.weight) * 0.1)
    return model.eval()


def reader_state(model: T5ForConditionalGeneration) -> dict[str, Tensor]:
    """Names of transformers 4.18, which are those of today."""
    state = dict(model.state_dict())
    assert {"shared.weight", "lm_head.weight", "encoder.embed_tokens.weight"} <= state.keys()
    return state


def tower_state(model: BertModel, *, buffers: bool = True) -> dict[str, Tensor]:
    """With the counting buffers that BERT saved at the time."""
    positions = torch.arange(model.config.max_position_embeddings).unsqueeze(0)
    made = {
        "embeddings.position_ids": positions,
        "embeddings.token_type_ids": torch.zeros_like(positions),
    }
    return (made if buffers else {}) | dict(model.state_dict())


def atlas_model(
    reader: T5ForConditionalGeneration | None = None,
    query: BertModel | None = None,
    passage: BertModel | None = None,
    *,
    module: str = "",
    buffers: bool = True,
    dtype: torch.dtype | None = None,
) -> OrderedDict[str, Tensor]:
    """Atlas's state dict; `module` is "module." in sharded runs. With `passage`, untied."""
    state: OrderedDict[str, Tensor] = OrderedDict()
    for name, tensor in reader_state(reader or tiny_t5()).items():
        state[f"reader.{module}{name}"] = tensor if dtype is None else tensor.to(dtype)
    towers = {"contriever": query or tiny_bert()}
    if passage is not None:
        towers = {"query_contriever": query or tiny_bert(), "passage_contriever": passage}
    for tower, model in towers.items():
        for name, tensor in tower_state(model, buffers=buffers).items():
            state[f"retriever.{module}{tower}.{name}"] = tensor
    return state


def save_atlas(
    folder: Path,
    model: Mapping[str, Any],
    *,
    step: int = 70,
    options: Mapping[str, Any] | None = None,
    **extra: Any,
) -> Path:
    """`model.pth.tar` in a folder, with the state of an optimiser and a scheduler; the file."""
    weight = nn.Parameter(torch.ones(3))
    optimiser = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimiser.step()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda _: 1.0)
    content = {
        "step": step,
        "model": model,
        "optimizer": optimiser.state_dict(),
        "retr_optimizer": None,
        "scheduler": scheduler.state_dict(),
        "retr_scheduler": None,
        "opt": argparse.Namespace(**(ATLAS_OPTIONS | dict(options or {}))),
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content | extra, folder / "model.pth.tar")
    return folder / "model.pth.tar"
