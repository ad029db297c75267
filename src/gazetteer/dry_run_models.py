"""What `--dry_run` finds out about models: that they can be loaded, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from gazetteer import build
from gazetteer.build_compressor import count_weights
from gazetteer.build_reader import require_possible
from gazetteer.build_retriever import asked_of_teacher, asked_of_towers
from gazetteer.convert.atlas_checkpoint import AtlasCheckpoint
from gazetteer.convert.weights import reader_name, require_fit
from gazetteer.errors import CheckpointError
from gazetteer.lead.states import layer_count
from gazetteer.lead.teachers import ranker_on_meta
from gazetteer.options import Options
from gazetteer.reader.causal_loading import model_source
from gazetteer.reader.loading import HUB_NAMES, NOT_LOADABLE, cannot_load, reader_class
from gazetteer.retriever.loading import find_source, tower_on_meta
from gazetteer.task_names import DENSE

FILES = {
    "weights": ("*.safetensors", "pytorch_model*.bin"),
    "tokenizer": ("tokenizer.json", "vocab.txt", "spiece.model", "tokenizer.model", "vocab.json"),
}
"""What a model's folder needs; one of each."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Weights of a model, and what its embeddings measure.

    Attributes:
        weights: number of parameters.
        dim: hidden size; of a retriever, length of its embeddings.
    """

    weights: int
    dim: int


def model_sizes(options: Options) -> tuple[ModelSize | None, ModelSize | None, ModelSize | None]:
    """Reader, retriever and compressor; None for what the run does without."""
    checkpoint = build.model_folder(options)
    atlas = build.open_atlas(options, checkpoint)
    reader = retriever = compressor = None
    if not options.retriever.retrieve_only and options.task.task != DENSE:
        source = reader_source(options, checkpoint, atlas)
        require_possible(options, source)
        config = reader_config(source)
        reader = _reader_size(source, config, atlas)
        counted = count_weights(options, checkpoint, config)
        if counted is not None:
            if options.compressor.compressor_model_path is not None:
                for part in FILES:
                    _check_files(
                        Path(options.compressor.compressor_model_path), "compressor", part=part
                    )
            compressor = ModelSize(counted, reader.dim)
    if not options.data.use_file_passages:
        retriever = _retriever_size(retriever_source(options, checkpoint), options, atlas)
    return reader, retriever, compressor


def reader_source(options: Options, checkpoint: Path | None, atlas: AtlasCheckpoint | None) -> str:
    """Where the reader's config lies: a name of the hub, or a folder."""
    name = options.reader.reader_model_type or ""
    if atlas is not None:
        name, checkpoint = reader_name(atlas, options.reader.reader_model_type), None
    return str(checkpoint / build.READER_FOLDER) if checkpoint else HUB_NAMES.get(name, name)


def retriever_source(options: Options, checkpoint: Path | None) -> str:
    """Where the retriever lies: the checkpoint, or what its flag names."""
    saved = checkpoint / build.RETRIEVER_FOLDER if checkpoint else None
    is_saved = saved is not None and saved.is_dir()
    return str(saved) if is_saved else options.retriever.retriever_model_path


def teacher_size(options: Options) -> ModelSize | None:
    """Count a teacher's weights; it needs as many layers as are compared, as the student does."""
    lead, name = options.lead, options.lead.teacher
    if name is None:
        return None
    if lead.teacher_kind == "de":
        teacher = tower_on_meta(name, asked_of_teacher(options, name)).model
        _check_towers(name, "teacher")
    else:
        teacher = _ranker(name, "teacher")
    student = retriever_source(options, build.model_folder(options))
    layers = (tower_on_meta(student, asked_of_towers(options)).model, teacher)
    build.build_chooser(
        options, "distill_layer_num", lead.distill_layer_num, *map(layer_count, layers)
    )
    return _counted(teacher, teacher.config.hidden_size, "teacher", teacher, None)


def _ranker(name: str, what: str) -> PreTrainedModel:
    """The transformer of a late-interaction model or a cross-encoder, without weights."""
    model = ranker_on_meta(name)
    for part in FILES:
        _check_files(Path(name), what, part=part)
    return model


def _check_files(folder: Path, what: str, *, part: str) -> None:
    """Refuse a model's folder without weights or tokenizer; a name of the hub is no folder."""
    patterns = FILES[part]
    if folder.is_dir() and not any(next(folder.glob(pattern), None) for pattern in patterns):
        raise CheckpointError(
            f"{what} '{folder}' cannot be loaded: no {part} there ({', '.join(patterns)})"
        )


def reader_config(source: str) -> Any:  # noqa: ANN401 - each type of model has its own
    """The reader's config. Raises CheckpointError."""
    try:
        folder, file = model_source(source)
        config = AutoConfig.from_pretrained(folder, **file)
        reader_class(config)
        return config
    except NOT_LOADABLE as error:
        raise cannot_load("reader", source, error) from None


def _reader_size(source: str, config: Any, atlas: AtlasCheckpoint | None) -> ModelSize:  # noqa: ANN401
    """Count the reader's weights; those of Atlas's checkpoint have to fit it."""
    _, file = model_source(source)
    kind: Any = reader_class(config)
    for part in () if file else FILES:
        _check_files(Path(source), "reader", part=part)
    with torch.device("meta"):
        model = kind(config) if kind else AutoModelForCausalLM.from_config(config)
    return _counted(model, int(config.hidden_size), "reader", model, atlas)


def _retriever_size(name: str, options: Options, atlas: AtlasCheckpoint | None) -> ModelSize:
    """Count a tower's weights; those of Atlas's checkpoint have to fit it."""
    if options.lead.retriever_kind != "de":
        model = _ranker(name, "retriever")
        return _counted(model, model.config.hidden_size, "retriever", model, None)
    tower = tower_on_meta(name, asked_of_towers(options))
    _check_towers(name, "retriever")
    return _counted(tower, tower.embedding_dim, "retriever", tower.model, atlas)


def _check_towers(name: str, what: str) -> None:
    source = find_source(name)
    for folder in source.towers:
        _check_files(Path(folder), what, part="weights")
    _check_files(Path(source.tokenizer), what, part="tokenizer")


def _counted(
    whole: nn.Module, dim: int, what: str, model: nn.Module, atlas: AtlasCheckpoint | None
) -> ModelSize:
    if atlas is not None:
        for part in atlas.parts:
            if part.split(".")[0] == what:
                require_fit(atlas, part, model)
    return ModelSize(sum(p.numel() for p in whole.parameters()), dim)
