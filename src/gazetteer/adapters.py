"""LoRA: a model learns by small matrices beside its weights, which stay as they are (through peft).

For the retriever's towers and for readers. What is saved serves two purposes. The model's folder
has weights with the adapters in them, for everybody to read. `adapter/` has the adapters, as peft
reads them, and the original weights of the layers: from these a run goes on with the same bits.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from gazetteer.errors import CheckpointError, OptionError
from gazetteer.optional_packages import import_optional

ADAPTER_FOLDER = "adapter"
WEIGHTS, ORIGINALS = "adapter_model.safetensors", "original_weights.safetensors"
PREFIX = "base_model.model."
"""Of names in peft's files."""
ALL_LINEAR = "all-linear"
"""Stands for every linear layer but the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """Adapters for a model.

    Attributes:
        rank: of the product that is added to a layer's weights.
        alpha: the product is multiplied by alpha / rank.
        modules: ends of the names of the layers, or `ALL_LINEAR` alone; None = those that peft has
            for this type of model.
        dropout: of what goes into the adapters, in training.
        seed: fixes the first weights, on every rank alike.
        task_type: noted for those who read the adapters through peft.
        flags: what the names of its flags begin with, for errors.

    Source:
        "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685.
    """

    rank: int
    alpha: float
    modules: tuple[str, ...] | None = None
    dropout: float = 0.0
    seed: int = 0
    task_type: str = "FEATURE_EXTRACTION"
    flags: str = "lora"


def has_adapters(model: nn.Module) -> bool:
    """Whether a model learns by adapters."""
    return getattr(model, "peft_config", None) is not None


def are_as_asked(model: nn.Module, settings: LoraSettings) -> bool:
    """Whether a model has just these adapters; with what dropout is no matter."""
    if not has_adapters(model):
        return False
    found = _config(model)
    is_same_product = (found.r, found.lora_alpha) == (settings.rank, settings.alpha)
    modules = settings.modules
    takes_any = modules is None or modules == (ALL_LINEAR,)
    return is_same_product and (takes_any or set(modules or ()) == set(found.target_modules))


def add_adapters(model: Any, settings: LoraSettings) -> None:  # noqa: ANN401 - of transformers
    """Put adapters beside the weights of a model that has none; it computes what it did before.

    From then on adapters alone get a gradient.

    Raises:
        OptionError: peft is not installed, or the model has no layers of these names.
    """
    peft = _peft()
    modules: Any = None if settings.modules is None else list(settings.modules)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=ALL_LINEAR if modules == [ALL_LINEAR] else modules,
        task_type=settings.task_type,
        base_model_name_or_path=model.name_or_path,
    )
    dtype = next(model.parameters()).dtype
    try:
        peft.inject_adapter_in_model(config, model)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"--{settings.flags}_modules: {reason}") from None
    generator = torch.Generator().manual_seed(settings.seed)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            first = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(first, a=math.sqrt(5), generator=generator)
            parameter.data.copy_(first)
    _cast_adapters(model, dtype)
    train_adapters_only(model)


def train_adapters_only(model: nn.Module) -> None:
    """Let gradients reach adapters, and nothing else of the model."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def set_adapter_dropout(model: nn.Module, dropout: float) -> None:
    """Give adapters another dropout than they were made with."""
    for _, layer in _adapted_layers(model):
        for name in layer.lora_dropout:
            layer.lora_dropout[name] = nn.Dropout(dropout) if dropout else nn.Identity()


def without_adapters(model: Any) -> Any:  # noqa: ANN401 - any model of transformers
    """A copy of a model with its adapters in its weights, all of which learn."""
    merged = copy.deepcopy(model)
    merge_adapters(merged)
    return merged.requires_grad_(True)


def merge_adapters(model: Any) -> None:  # noqa: ANN401 - any model of transformers
    """Put a model's adapters into its weights, as it is served; nothing if it has none."""
    if not has_adapters(model):
        return
    for name, layer in list(_adapted_layers(model)):
        layer.merge()
        owner, _, field = name.rpartition(".")
        setattr(model.get_submodule(owner), field, layer.get_base_layer())
    del model.peft_config


def save_model(model: Any, folder: Path) -> None:  # noqa: ANN401 - any model of transformers
    """Write a model, its adapters in its weights; `load_adapters` takes them apart again."""
    if has_adapters(model):
        without_adapters(model).save_pretrained(folder)
        save_adapters(model, folder)
    else:
        model.save_pretrained(folder)
        # Of a model that was there before.
        shutil.rmtree(folder / ADAPTER_FOLDER, ignore_errors=True)


def save_adapters(model: nn.Module, model_folder: Path) -> None:
    """Write adapters and what they are added to beside the merged weights of a model."""
    folder = model_folder / ADAPTER_FOLDER
    folder.mkdir(exist_ok=True)
    _config(model).save_pretrained(str(folder))
    tensors = _peft().get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {PREFIX + n: t.detach().cpu().contiguous() for n, t in tensors.items()}, folder / WEIGHTS
    )
    originals = {
        f"{name}.{part}": tensor.detach().cpu().contiguous()
        for name, layer in _adapted_layers(model)
        for part, tensor in layer.get_base_layer().state_dict().items()
    }
    save_file(originals, folder / ORIGINALS)


def load_adapters(model: nn.Module, model_folder: Path) -> None:
    """Take a model of merged weights apart again, to the same bits; nothing if it has no adapters.

    Raises:
        CheckpointError: they are damaged, or of another model.
        OptionError: peft is not installed.
    """
    folder = model_folder / ADAPTER_FOLDER
    if not folder.is_dir():
        return
    peft = _peft()
    try:
        config = peft.LoraConfig.from_pretrained(str(folder))
        tensors, originals = load_file(folder / WEIGHTS), load_file(folder / ORIGINALS)
        unknown = model.load_state_dict(originals, strict=False).unexpected_keys
        dtype = next(model.parameters()).dtype
        peft.inject_adapter_in_model(config, model)
        _cast_adapters(model, dtype)
        named = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
        unknown += peft.set_peft_model_state_dict(model, named).unexpected_keys
        if unknown:
            raise ValueError(f"{unknown[0]} is not in this model")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{folder}: the adapters cannot be loaded ({reason})") from None


def adapter_scale(model: nn.Module) -> float | None:
    """What the product of the adapters is multiplied by; None without any."""
    if not has_adapters(model):
        return None
    config = _config(model)
    return config.lora_alpha / config.r


def _config(model: Any) -> Any:  # noqa: ANN401 - a class of peft
    return model.peft_config["default"]


def _cast_adapters(model: nn.Module, dtype: torch.dtype) -> None:
    """Give adapters the model's dtype; of the model itself, tables of places stay in float32."""
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)


def _adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A") and hasattr(layer, "get_base_layer"):
            yield name, layer


def _peft() -> Any:  # noqa: ANN401 - a module
    return import_optional("peft", "LoRA (--lora_rank, --reader_lora_rank) needs peft")
