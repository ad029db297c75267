"""LoRA: a tower learns by small matrices beside its weights, which stay as they are (through peft).

What is saved serves two purposes. The tower's folder has weights with the adapters in them, for
everybody to read. `adapter/` has the adapters, as peft reads them, and the original weights of the
layers: from these a run goes on with the same bits.
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
from gazetteer.retriever.encoder import TextEncoder

ADAPTER_FOLDER = "adapter"
WEIGHTS, ORIGINALS = "adapter_model.safetensors", "original_weights.safetensors"
PREFIX = "base_model.model."
"""Of names in peft's files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """Adapters for a tower.

    Attributes:
        rank: of the product that is added to a layer's weights.
        alpha: the product is multiplied by alpha / rank.
        modules: ends of the names of the layers; None = those that peft has for this type of model.
        seed: fixes the first weights, on every rank alike.

    Source:
        "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685.
    """

    rank: int
    alpha: float
    modules: tuple[str, ...] | None = None
    seed: int = 0


def has_adapters(tower: TextEncoder) -> bool:
    """Whether a tower learns by adapters."""
    return getattr(tower.model, "peft_config", None) is not None


def are_as_asked(tower: TextEncoder, settings: LoraSettings) -> bool:
    """Whether a tower has just these adapters."""
    if not has_adapters(tower):
        return False
    found = _config(tower)
    is_same_product = (found.r, found.lora_alpha) == (settings.rank, settings.alpha)
    modules = settings.modules
    return is_same_product and (modules is None or set(modules) == set(found.target_modules))


def add_adapters(tower: TextEncoder, settings: LoraSettings) -> None:
    """Put adapters beside the weights of a tower that has none; it embeds as before.

    Raises:
        OptionError: peft is not installed, or the model has no layers of these names.
    """
    peft = _peft()
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=None if settings.modules is None else list(settings.modules),
        task_type="FEATURE_EXTRACTION",
        base_model_name_or_path=tower.model.name_or_path,
    )
    model: Any = tower.model
    dtype = next(model.parameters()).dtype
    try:
        peft.inject_adapter_in_model(config, model)
    except ValueError as error:
        raise OptionError(f"--lora_modules: {str(error).splitlines()[0]}") from None
    generator = torch.Generator().manual_seed(settings.seed)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            first = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(first, a=math.sqrt(5), generator=generator)
            parameter.data.copy_(first)
    model.to(dtype)
    train_adapters_only(tower)


def train_adapters_only(tower: TextEncoder) -> None:
    """Let gradients reach adapters and head, and nothing else."""
    for name, parameter in tower.model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    if tower.head is not None:
        tower.head.requires_grad_(True)


def without_adapters(model: Any) -> Any:  # noqa: ANN401 - any model of transformers
    """A copy of a model with its adapters in its weights."""
    merged = copy.deepcopy(model)
    for name, layer in list(_adapted_layers(merged)):
        layer.merge()
        owner, _, field = name.rpartition(".")
        setattr(merged.get_submodule(owner), field, layer.get_base_layer())
    del merged.peft_config
    return merged


def merge_adapters(tower: TextEncoder) -> None:
    """Put a tower's adapters into its weights, for good; all of them are trained from then on."""
    tower.model = without_adapters(tower.model).requires_grad_(True)


def save_adapters(tower: TextEncoder, tower_folder: Path) -> None:
    """Write adapters and what they are added to beside the merged weights of a tower."""
    folder = tower_folder / ADAPTER_FOLDER
    folder.mkdir(exist_ok=True)
    _config(tower).save_pretrained(str(folder))
    tensors = _peft().get_peft_model_state_dict(tower.model, save_embedding_layers=False)
    save_file(
        {PREFIX + n: t.detach().cpu().contiguous() for n, t in tensors.items()}, folder / WEIGHTS
    )
    originals = {
        f"{name}.{part}": tensor.detach().cpu().contiguous()
        for name, layer in _adapted_layers(tower.model)
        for part, tensor in layer.get_base_layer().state_dict().items()
    }
    save_file(originals, folder / ORIGINALS)


def forget_adapters(tower_folder: Path) -> None:
    """Remove what `save_adapters` wrote of a tower that was there before."""
    shutil.rmtree(tower_folder / ADAPTER_FOLDER, ignore_errors=True)


def load_adapters(tower: TextEncoder, tower_folder: Path) -> None:
    """Take a tower of merged weights apart again, to the same bits; nothing if it has no adapters.

    Raises:
        CheckpointError: they are damaged, or of another model.
        OptionError: peft is not installed.
    """
    folder = tower_folder / ADAPTER_FOLDER
    if not folder.is_dir():
        return
    peft = _peft()
    try:
        config = peft.LoraConfig.from_pretrained(str(folder))
        tensors, originals = load_file(folder / WEIGHTS), load_file(folder / ORIGINALS)
        unknown = tower.model.load_state_dict(originals, strict=False).unexpected_keys
        peft.inject_adapter_in_model(config, tower.model)
        named = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
        unknown += peft.set_peft_model_state_dict(tower.model, named).unexpected_keys
        if unknown:
            raise ValueError(f"{unknown[0]} is not in this model")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{folder}: the adapters cannot be loaded ({reason})") from None


def adapter_scale(tower: TextEncoder) -> float | None:
    """What the product of the adapters is multiplied by; None without any."""
    if not has_adapters(tower):
        return None
    config = _config(tower)
    return config.lora_alpha / config.r


def _config(tower: TextEncoder) -> Any:  # noqa: ANN401 - a class of peft
    return tower.model.peft_config["default"]


def _adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A") and hasattr(layer, "get_base_layer"):
            yield name, layer


def _peft() -> Any:  # noqa: ANN401 - a module
    try:
        import peft
    except ImportError:
        raise OptionError(
            "LoRA needs peft, which is not installed: pip install gazetteer[dense] (--lora_rank)"
        ) from None
    return peft
