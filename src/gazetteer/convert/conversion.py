"""Atlas's checkpoints as folders of transformers, and such folders as Atlas's checkpoints."""

from __future__ import annotations

import argparse
import json
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gazetteer.convert.atlas_checkpoint import (
    ATLAS_FILE,
    PASSAGE,
    QUERY,
    READER,
    TIED,
    AtlasCheckpoint,
    open_atlas_checkpoint,
)
from gazetteer.convert.saved_tensors import SavedTensor
from gazetteer.convert.weights import (
    EMBEDDINGS,
    HEAD,
    SHARED,
    reader_fill,
    reader_name,
    retriever_fills,
)
from gazetteer.errors import CheckpointError
from gazetteer.files import MANIFEST, replace_json, require_intact, sync, write_manifest
from gazetteer.index.conversion import appearing_folder
from gazetteer.options import (
    OPTIONS_FILE,
    Options,
    options_to_dict,
    read_options,
)
from gazetteer.reader import Reader, load_reader, save_reader
from gazetteer.reader.loading import DTYPES
from gazetteer.retriever import DualEncoder, EmbeddingBatch, load_retriever, save_retriever
from gazetteer.retriever.sources import EMBEDDING, PASSAGE_FOLDER, QUERY_FOLDER

logger = logging.getLogger(__name__)

READER_FOLDER, RETRIEVER_FOLDER = "reader", "retriever"
NOTES = "atlas.json"
"""Beside converted folders: what a checkpoint of Atlas held besides weights."""
POSITIONS, TYPES = "embeddings.position_ids", "embeddings.token_type_ids"


@dataclass(frozen=True, slots=True)
class ModelNames:
    """Where configs and tokenizers come from, which Atlas's checkpoints do not hold.

    Attributes:
        reader: hub name or folder; None takes what the checkpoint's options say.
        retriever: hub name or folder.
    """

    reader: str | None
    retriever: str


def import_atlas(source: Path, target: Path, names: ModelNames) -> None:
    """Make `reader/` and `retriever/` of a checkpoint of Atlas, in its own dtypes.

    Args:
        source: the file.
        target: must not exist; `--model_path` takes it afterwards.
        names: of config and tokenizer.

    Raises:
        CheckpointError, OptionError: the checkpoint is damaged or does not fit the configs.
        IndexFileError: there is a target already.
    """
    atlas = open_atlas_checkpoint(source)
    with appearing_folder(target) as partial:
        # Both before anything is written: what does not fit is said at once.
        retriever = _load_retriever(atlas, names.retriever) if atlas.has_retriever else None
        reader = _load_reader(atlas, names.reader) if atlas.has_reader else None
        if retriever is not None:
            save_retriever(*retriever, partial / RETRIEVER_FOLDER)
        if reader is not None:
            save_reader(*reader, partial / READER_FOLDER)
        notes = {"step": atlas.step, "options": atlas.options, "buffers": _buffers(atlas)}
        replace_json(partial / NOTES, notes)
        write_manifest(partial)


def export_atlas(source: Path, target: Path) -> None:
    """Write `model.pth.tar`, as Atlas loads it with `--model_path`, of a checkpoint of ours.

    Args:
        source: a checkpoint, or what `import_atlas` wrote.
        target: folder; must not exist.

    Raises:
        CheckpointError: the source is damaged, or holds models that Atlas does not have.
        IndexFileError: there is a target already.
    """
    require_intact(source)
    notes = _read_notes(source)
    model: OrderedDict[str, Tensor] = OrderedDict()
    if (source / READER_FOLDER).is_dir():
        tensors = _reader_tensors(source / READER_FOLDER)
        model.update((f"{READER}.{name}", tensor) for name, tensor in tensors.items())
    towers = _towers(source / RETRIEVER_FOLDER)
    for part, folder in towers.items():
        tensors = _tower_tensors(folder, notes["buffers"])
        model.update((f"{part}.{name}", tensor) for name, tensor in tensors.items())
    if not model:
        raise CheckpointError(f"{source}: holds neither {READER_FOLDER}/ nor {RETRIEVER_FOLDER}/")
    options = dict(notes["options"])
    # Atlas decides by it whether the towers it loads are tied.
    options["query_side_retriever_training"] = QUERY in towers
    content = {
        "step": notes["step"],
        "model": model,
        "optimizer": None,
        "retr_optimizer": None,
        "scheduler": None,
        "retr_scheduler": None,
        "opt": argparse.Namespace(**options),
    }
    with appearing_folder(target) as partial:
        torch.save(content, partial / ATLAS_FILE)
        sync(partial / ATLAS_FILE)


def _load_reader(
    atlas: AtlasCheckpoint, given: str | None
) -> tuple[Reader, PreTrainedTokenizerBase]:
    name = reader_name(atlas, given)
    logger.info("%s/: reader.*, config and tokenizer of %s", READER_FOLDER, name)
    return load_reader(
        name,
        dropout=_dropout(atlas),
        precision=_precision(atlas.parts[READER].values()),
        max_padded_tokens=1,
        fill=reader_fill(atlas),
    )


def _load_retriever(
    atlas: AtlasCheckpoint, name: str
) -> tuple[DualEncoder, PreTrainedTokenizerBase]:
    part = TIED if TIED in atlas.parts else QUERY
    logger.info("%s/: retriever.*, config and tokenizer of %s", RETRIEVER_FOLDER, name)
    return load_retriever(
        name,
        pooling="mean",
        normalize=False,
        dropout=_dropout(atlas),
        dtype=DTYPES[_precision(atlas.parts[part].values())],
        batch=EmbeddingBatch(),
        fills=retriever_fills(atlas),
    )


def _precision(tensors: Iterable[SavedTensor]) -> Any:  # noqa: ANN401 - a literal
    """The dtype of all weights, where they have one; else the widest."""
    found = {tensor.dtype for tensor in tensors if tensor.dtype.is_floating_point}
    named = {dtype: name for name, dtype in DTYPES.items()}
    return named.get(found.pop(), "fp32") if len(found) == 1 else "fp32"


def _dropout(atlas: AtlasCheckpoint) -> float:
    value = atlas.options.get("dropout")
    return float(value) if isinstance(value, float | int) and 0 <= value <= 1 else 0.1


def _buffers(atlas: AtlasCheckpoint) -> list[str]:
    part = TIED if TIED in atlas.parts else QUERY
    return [name for name in (POSITIONS, TYPES) if name in atlas.parts.get(part, {})]


def _read_notes(source: Path) -> dict[str, Any]:
    """Step, options and buffers for Atlas: as they were there, or as our own run's are."""
    try:
        if (source / NOTES).is_file():
            notes = json.loads((source / NOTES).read_text(encoding="utf-8"))
            return {name: notes[name] for name in ("step", "options", "buffers")}
        options = Options()
        if (source / OPTIONS_FILE).is_file():
            options = read_options(source / OPTIONS_FILE)
        suffix = source.resolve().name.removeprefix("step-")
        return {
            "step": int(suffix) if suffix.isdecimal() else 0,
            "options": options_to_dict(options),
            "buffers": [POSITIONS, TYPES],
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{source}: its notes are not readable ({error})") from None


def _towers(folder: Path) -> dict[str, Path]:
    """Folders of the towers by Atlas's names."""
    if not folder.is_dir():
        return {}
    how = folder / EMBEDDING
    if how.is_file():
        saved = json.loads(how.read_text(encoding="utf-8"))
        if saved != {"pooling": "mean", "normalize": False}:
            raise CheckpointError(
                f"{how}: Atlas takes the mean of token states and nothing else; this retriever was "
                f"trained with {saved}"
            )
    if (folder / QUERY_FOLDER).is_dir():
        return {QUERY: folder / QUERY_FOLDER, PASSAGE: folder / PASSAGE_FOLDER}
    return {TIED: folder}


def _reader_tensors(folder: Path) -> dict[str, Tensor]:
    """By Atlas's names: as in the files, and the embeddings under all their names."""
    _require_type(folder, "t5")
    tensors = _saved_tensors(folder)
    if SHARED not in tensors:
        raise CheckpointError(f"{folder}: lacks {SHARED}")
    for name in (*EMBEDDINGS, HEAD):
        tensors.setdefault(name, tensors[SHARED])
    return tensors


def _tower_tensors(folder: Path, buffers: Iterable[str]) -> dict[str, Tensor]:
    config = _require_type(folder, "bert")
    tensors = _saved_tensors(folder)
    positions = torch.arange(int(config["max_position_embeddings"])).unsqueeze(0)
    made = {POSITIONS: positions, TYPES: torch.zeros_like(positions)}
    return {name: made[name] for name in buffers} | tensors


def _require_type(folder: Path, kind: str) -> Mapping[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: its config.json is not readable ({error})") from None
    if found != kind:
        raise CheckpointError(f"{folder}: a {found}; Atlas knows only {kind} there")
    return config


def _saved_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's safetensors files."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder}: no *.safetensors there")
    tensors: dict[str, Tensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    tensors[name] = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not readable ({error})") from None
    return tensors


def is_ours(source: Path) -> bool:
    """Whether a folder is a checkpoint of ours."""
    return (source / MANIFEST).is_file()
