"""Readers from disk or hub, and back; of decoder-only ones see causal_loading.py.

Any T5 family goes through its stock class and its own config, so tied (v1.0, flan-small excepted)
and untied heads (v1.1, lm-adapt, flan, mT5) are read as they were trained.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    MT5ForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5ForConditionalGeneration,
)

from gazetteer.adapters import load_adapters, save_model
from gazetteer.errors import CheckpointError
from gazetteer.reader.base import Reader
from gazetteer.reader.causal import CausalReader
from gazetteer.reader.causal_loading import is_causal, load_causal, model_source
from gazetteer.reader.fusion import FusionReader, T5Model
from gazetteer.reader.words import OWN_WORDS, ReaderWords

Precision = Literal["fp32", "fp16", "bf16"]
Attention = Literal["eager", "sdpa"]
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

NOT_LOADABLE = (OSError, ValueError, KeyError, IndexError, TypeError, struct.error, SafetensorError)
"""What transformers raises of names nobody has, of foreign files, and of damaged ones."""
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
    words: ReaderWords = OWN_WORDS,
) -> tuple[Reader, PreTrainedTokenizerBase]:
    """Load a reader and its tokenizer: T5 or decoder-only, as the config says.

    Args:
        name_or_folder: hub name, a folder written by `save_pretrained`, or a GGUF file.
        dropout: replaces the model's own dropout everywhere.
        precision: weights are cast to it.
        max_padded_tokens: tokens of one encoder call.
        attention: implementation inside transformers, of T5 alone. T5's position bias keeps "sdpa"
            from its fast kernels on a CPU, where "eager" is faster.
        fill: gives a model made of the config alone, its weights on the "meta" device, weights of a
            dtype; None reads those that lie under the name. For T5 alone.
        words: around a decoder-only reader's passages; what they do not say is as it was saved.

    Raises:
        CheckpointError: nothing usable under that name; the message says what was missing.
    """
    source = HUB_NAMES.get(name_or_folder, name_or_folder)
    try:
        source, file = model_source(source)
        config = AutoConfig.from_pretrained(source, **file)
        kind = reader_class(config)
        if kind is None and fill is None:
            dtype = DTYPES[precision]
            return load_causal(source, file, config, dropout=dropout, dtype=dtype, words=words)
        if kind is None:
            raise ValueError("it is decoder-only; weights of Atlas are a T5's")
        tokenizer = AutoTokenizer.from_pretrained(source)
        if fill is not None:
            config = AutoConfig.from_pretrained(source, dropout_rate=dropout)
            with torch.device("meta"):
                model = kind._from_config(config, attn_implementation=attention)
        else:
            model = kind.from_pretrained(
                source, dropout_rate=dropout, dtype=torch.float32, attn_implementation=attention
            )
    except NOT_LOADABLE as error:
        raise cannot_load("reader", name_or_folder, error) from error
    if fill is not None:
        fill(model, DTYPES[precision])
        model.eval()
    else:
        load_adapters(model, Path(source))
    reader = FusionReader(model, max_padded_tokens=max_padded_tokens)
    return reader.to(DTYPES[precision]), tokenizer


def load_reader_tokenizer(name_or_folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer alone, for what is cut as the reader would, and not read.

    Raises:
        CheckpointError: nothing usable under that name.
    """
    try:
        source, file = model_source(HUB_NAMES.get(name_or_folder, name_or_folder))
        return AutoTokenizer.from_pretrained(source, **file)
    except NOT_LOADABLE as error:
        raise cannot_load("tokenizer of reader", name_or_folder, error) from error


def reader_class(config: PreTrainedConfig) -> type[T5Model] | None:
    """What a config is for; None = a decoder-only model.

    Raises:
        ValueError: another type of model.
    """
    kind = config.model_type
    if kind not in READER_CLASSES and not is_causal(kind):
        raise ValueError(
            f"it is a {kind}, expected a t5 or mt5, or a decoder-only model (--reader_model_type)"
        )
    return READER_CLASSES.get(kind)


def is_decoder_only(name_or_folder: str) -> bool:
    """Whether a `CausalReader` is what `load_reader` makes of this name; no weights are read.

    Raises:
        CheckpointError: nothing usable under that name.
    """
    try:
        source = HUB_NAMES.get(name_or_folder, name_or_folder)
        source, file = model_source(source)
        return reader_class(AutoConfig.from_pretrained(source, **file)) is None
    except NOT_LOADABLE as error:
        raise cannot_load("reader", name_or_folder, error) from error


def save_reader(reader: Reader, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write weights (safetensors), config and tokenizer; `load_reader(folder)` reads them back.

    Weights have adapters in them, which `load_reader` takes apart again.
    """
    save_model(reader.model, folder)
    tokenizer.save_pretrained(folder)
    if isinstance(reader, CausalReader):
        reader.prompt.words.save(folder)


def cannot_load(what: str, name: str, error: Exception) -> CheckpointError:
    """The error that says in one line what could not be loaded, and why."""
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return CheckpointError(f"{what} '{name}' cannot be loaded: {reason}")


def enable_gradient_checkpointing(model: PreTrainedModel) -> None:
    """Recompute activations in the backward pass; acts in training mode only.

    transformers 5.23 renamed the method and warns about the old name; older ones know no other.
    """
    enable = getattr(model, "activation_checkpointing_enable", None)
    if enable is None:
        enable = model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
