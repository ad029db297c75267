"""Readers from disk or hub, and back.

Any T5 family goes through its stock class and its own config, so tied (v1.0, flan-small excepted)
and untied heads (v1.1, lm-adapt, flan, mT5) are read as they were trained.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    MT5ForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5ForConditionalGeneration,
)

from gazetteer.errors import CheckpointError
from gazetteer.reader.fusion import FusionReader, T5Model

Precision = Literal["fp32", "fp16", "bf16"]
Attention = Literal["eager", "sdpa"]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

READER_CLASSES: dict[str, type[T5Model]] = {
    "t5": T5ForConditionalGeneration,
    "mt5": MT5ForConditionalGeneration,
}
"""By the type of model that a config names."""

HUB_NAMES = {
    f"t5-{size}": f"google-t5/t5-{size}" for size in ("small", "base", "large", "3b", "11b")
}
"""The original T5 names as Atlas spells them, and where the hub keeps them now."""


def load_reader(
    name_or_folder: str,
    *,
    dropout: float,
    precision: Precision,
    max_padded_tokens: int,
    attention: Attention = "sdpa",
    fill: Callable[[T5Model, torch.dtype], None] | None = None,
) -> tuple[FusionReader, PreTrainedTokenizerBase]:
    """Load a T5 reader and its tokenizer.

    Args:
        name_or_folder: hub name, or a folder written by `save_pretrained`.
        dropout: replaces the model's own dropout everywhere.
        precision: weights are cast to it.
        max_padded_tokens: tokens of one encoder call.
        attention: implementation inside transformers. T5's position bias keeps "sdpa" from its
            fast kernels on a CPU, where "eager" is faster.
        fill: gives a model made of the config alone, its weights on the "meta" device, weights of a
            dtype; None reads those that lie under the name.

    Raises:
        CheckpointError: nothing usable under that name; the message says what was missing.
    """
    source = HUB_NAMES.get(name_or_folder, name_or_folder)
    try:
        kind = reader_class(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
        if fill is not None:
            config = AutoConfig.from_pretrained(source, dropout_rate=dropout)
            with torch.device("meta"):
                model = kind._from_config(config, attn_implementation=attention)
        else:
            model = kind.from_pretrained(
                source, dropout_rate=dropout, dtype=torch.float32, attn_implementation=attention
            )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"reader '{name_or_folder}' cannot be loaded: {reason}") from error
    if fill is not None:
        fill(model, DTYPES[precision])
        model.eval()
    reader = FusionReader(model, max_padded_tokens=max_padded_tokens)
    return reader.to(DTYPES[precision]), tokenizer


def load_reader_tokenizer(name_or_folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer alone, for what is cut as the reader would, and not read.

    Raises:
        CheckpointError: nothing usable under that name.
    """
    try:
        return AutoTokenizer.from_pretrained(HUB_NAMES.get(name_or_folder, name_or_folder))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"tokenizer of reader '{name_or_folder}' cannot be loaded: {reason}"
        ) from error


def reader_class(source: str) -> type[T5Model]:
    """What the config under a name of the hub or a folder is for.

    Raises:
        OSError, ValueError: nothing there, or another type of model.
    """
    kind = AutoConfig.from_pretrained(source).model_type
    if kind not in READER_CLASSES:
        raise ValueError(f"it is a {kind}, expected a t5 or mt5 (--reader_model_type)")
    return READER_CLASSES[kind]


def save_reader(reader: FusionReader, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write weights (safetensors), config and tokenizer; `load_reader(folder)` reads them back."""
    reader.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def enable_gradient_checkpointing(model: PreTrainedModel) -> None:
    """Recompute activations in the backward pass; acts in training mode only.

    transformers 5.23 renamed the method and warns about the old name; older ones know no other.
    """
    enable = getattr(model, "activation_checkpointing_enable", None)
    if enable is None:
        enable = model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
