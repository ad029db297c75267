"""A compressor's folder: settings, weights of its own, and unless it is the reader's its backbone.

Nothing in it can execute code: JSON and safetensors.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gazetteer.compressor.backbones import load_backbone, new_mapping, own_encoder
from gazetteer.compressor.compress import Compressor
from gazetteer.compressor.settings import CompressorSettings
from gazetteer.errors import CheckpointError

BACKBONE_FOLDER = "backbone"
WEIGHTS_FILE = "compressor.safetensors"
RELEVANCE = "relevance_"


def save_compressor(
    compressor: Compressor, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write what `load_compressor` reads back."""
    folder.mkdir(parents=True, exist_ok=True)
    compressor.settings.save(folder)
    own = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in compressor.own_named_parameters()
        if not name.startswith("backbone.")
    }
    save_file(own, folder / WEIGHTS_FILE)
    if not compressor.is_shared:
        compressor.backbone.save_pretrained(folder / BACKBONE_FOLDER)  # type: ignore[operator]
        tokenizer.save_pretrained(folder / BACKBONE_FOLDER)


def make_compressor(
    backbone: nn.Module,
    settings: CompressorSettings,
    *,
    reader_width: int,
    dtype: torch.dtype,
    max_padded_tokens: int,
) -> Compressor:
    """A compressor with new weights beside its backbone's.

    What is cut from the reader, or is its own, speaks its language already and needs no mapping.
    """
    width: int = backbone.config.hidden_size  # type: ignore[union-attr, assignment]
    embeddings = backbone.get_input_embeddings().weight  # type: ignore[operator, union-attr]
    # Without contents there is nothing to measure.
    scale = 1.0 if embeddings.is_meta else float(embeddings.detach().float().std())
    maps = settings.kind == "encoder" or width != reader_width
    made = Compressor(
        backbone,
        settings,
        mapping=new_mapping(width, reader_width) if maps else nn.Identity(),
        is_shared=settings.kind == "pool",
        learned_scale=scale,
        max_padded_tokens=max_padded_tokens,
    )
    return made.to(dtype)


def load_compressor(
    folder: Path,
    settings: CompressorSettings,
    *,
    reader: PreTrainedModel,
    reader_tokenizer: PreTrainedTokenizerBase,
    reader_width: int,
    dropout: float,
    attention: str,
    max_padded_tokens: int,
) -> tuple[Compressor, PreTrainedTokenizerBase]:
    """Read a compressor and its tokenizer.

    Args:
        folder: written by `save_compressor`.
        settings: those of the folder, or others that its weights fit: a relevance token that is
            not there begins with new weights.
        reader: lends its encoder where the compressor has none of its own.
        reader_tokenizer: likewise.
        reader_width: of the vectors it takes.
        dropout: replaces the backbone's own.
        attention: implementation inside transformers.
        max_padded_tokens: of one call of the backbone.

    Raises:
        CheckpointError: the folder is not whole, or its weights do not fit.
    """
    if settings.kind == "pool":
        backbone, tokenizer = own_encoder(reader), reader_tokenizer
    else:
        source = str(folder / BACKBONE_FOLDER)
        backbone, tokenizer = load_backbone(source, dropout=dropout, attention=attention)
    made = make_compressor(
        backbone,
        settings,
        reader_width=reader_width,
        dtype=reader.dtype,
        max_padded_tokens=max_padded_tokens,
    )
    _fill(made, folder / WEIGHTS_FILE)
    return made, tokenizer


@torch.no_grad()
def _fill(compressor: Compressor, path: Path) -> None:
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable ({error})") from None
    for name, parameter in compressor.own_named_parameters():
        if name.startswith("backbone."):
            continue
        found = weights.get(name)
        if found is None and name.startswith(RELEVANCE):
            continue
        if found is None or found.shape != parameter.shape:
            shown = "absent" if found is None else tuple(found.shape)
            raise CheckpointError(f"{path}: '{name}' is {shown}, expected {tuple(parameter.shape)}")
        parameter.copy_(found)
