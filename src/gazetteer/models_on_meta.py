"""The models of a run as it would have them, without weights: on torch's "meta" device.

Nothing is read but configs, and what says how a folder's model embeds or compresses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from gazetteer import build
from gazetteer.build_compressor import require_fit, saved_folder, settle
from gazetteer.build_reader import adapt_reader
from gazetteer.build_retriever import PADDED_TOKENS, asked_of_towers, prepare_learning
from gazetteer.build_search import retriever_max_tokens
from gazetteer.compressor import Compressor, CompressorSettings
from gazetteer.compressor.backbones import (
    encoder_on_meta,
    first_layers,
    own_encoder,
    positions,
    read_config,
)
from gazetteer.compressor.saving import BACKBONE_FOLDER, make_compressor
from gazetteer.dry_run_models import reader_config, reader_source, retriever_source
from gazetteer.memory_estimate import ModelMemory
from gazetteer.options import Options
from gazetteer.reader import CausalReader, FusionReader, Reader
from gazetteer.reader.causal import CausalPrompt
from gazetteer.reader.loading import DTYPES, enable_gradient_checkpointing, reader_class
from gazetteer.records import Ranks
from gazetteer.retriever import DualEncoder, EmbeddingBatch
from gazetteer.retriever.loading import find_source, tower_on_meta
from gazetteer.retriever.ways import Asked
from gazetteer.task_names import DENSE

META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class ModelsOnMeta:
    """Models without weights; None where a run does without."""

    reader: Reader | None
    retriever: DualEncoder | None
    compressor: Compressor | None

    def memory(self, *, index_keeps_encoder: bool) -> list[ModelMemory]:
        """Their weights, and which of them learn.

        Args:
            index_keeps_encoder: weights that made the index are kept beside those that learn.
        """
        found = []
        if self.reader is not None:
            found.append(replace(memory_of(self.reader.parameters()), is_cut=True))
        if self.retriever is not None:
            found.append(retriever_memory(self.retriever, index_keeps_encoder=index_keeps_encoder))
        if self.compressor is not None:
            own = dict(self.compressor.own_named_parameters())
            found.append(memory_of(own.values()))
        return found


def retriever_memory(retriever: DualEncoder, *, index_keeps_encoder: bool) -> ModelMemory:
    """Both towers, and of one that learns the weights that made the index beside its own."""
    memory = memory_of(retriever.parameters())
    if not (index_keeps_encoder and memory.trained):
        return memory
    return replace(memory, copies=sum(p.nbytes for p in retriever.passage_tower.parameters()))


def memory_of(parameters: Any) -> ModelMemory:  # noqa: ANN401 - any iterable of parameters
    """A model's weights, and how many of them learn."""
    everything = list(parameters)
    learning = [p for p in everything if p.requires_grad]
    return ModelMemory(
        weights=sum(p.nbytes for p in everything),
        trained=sum(p.numel() for p in learning),
        is_half=any(p.element_size() < 4 for p in learning),
    )


def build_on_meta(options: Options, ranks: Ranks) -> ModelsOnMeta:
    """The models of a run, as `build.build_models` would load them.

    Raises:
        GazetteerError: a model cannot be loaded, or cannot be as flags say.
    """
    checkpoint = build.model_folder(options)
    reader = compressor = None
    if options.task.task != DENSE and not options.retriever.retrieve_only:
        atlas = build.open_atlas(options, checkpoint)
        reader = _reader(options, ranks, reader_config(reader_source(options, checkpoint, atlas)))
        compressor = _compressor(options, ranks, checkpoint, reader)
    retriever = None if options.data.use_file_passages else retriever_on_meta(options, ranks)
    return ModelsOnMeta(reader, retriever, compressor)


def _reader(options: Options, ranks: Ranks, config: Any) -> Reader:  # noqa: ANN401
    kind: Any = reader_class(config)
    with META:
        if kind is None:
            model = AutoModelForCausalLM.from_config(config)
        else:
            config.dropout_rate = options.optimisation.dropout
            model = kind._from_config(config, attn_implementation=attention(ranks))
    reader: Reader
    if kind is None:
        prompt = CausalPrompt(
            prefix=(0,), end_ids=(0,), pad_id=0, passage_format="", question_format=""
        )
        reader = CausalReader(model, prompt)
    else:
        reader = FusionReader(model, max_padded_tokens=PADDED_TOKENS[ranks.device.type])
    reader = reader.to(DTYPES[options.optimisation.precision])
    if options.data.train_data:
        adapt_reader(options, reader)
    else:
        reader.requires_grad_(False)
    if options.optimisation.use_gradient_checkpoint_reader:
        enable_gradient_checkpointing(reader.model)
    return reader


def retriever_on_meta(options: Options, ranks: Ranks) -> DualEncoder:
    """The retriever as `build_retriever` would load it."""
    source = retriever_source(options, build.model_folder(options))
    retriever = dual_encoder_on_meta(options, ranks, source, asked_of_towers(options))
    prepare_learning(retriever, options)
    if not options.data.train_data:
        retriever.requires_grad_(False)
    return retriever


def dual_encoder_on_meta(options: Options, ranks: Ranks, source: str, asked: Asked) -> DualEncoder:
    """Towers under a name, a retriever's or a teacher's; all of their weights learn."""
    tower = tower_on_meta(
        source, asked, attention=attention(ranks), dropout=options.optimisation.dropout
    )
    is_bf16 = options.optimisation.precision == "bf16"
    tower = tower.to(DTYPES["bf16" if is_bf16 else "fp32"])
    limits = EmbeddingBatch(
        max_texts=options.data.per_gpu_embedder_batch_size,
        max_padded_tokens=PADDED_TOKENS[ranks.device.type],
    )
    retriever = DualEncoder(tower, tower, limits)
    if len(find_source(source).towers) > 1:
        retriever.untie()
    return retriever


def _compressor(
    options: Options, ranks: Ranks, checkpoint: Path | None, reader: Reader
) -> Compressor | None:
    folder = saved_folder(options, checkpoint)
    settings = settle(options, folder)
    if settings is None:
        return None
    with META:
        made = make_compressor(
            _backbone(options, ranks, folder, settings, reader),
            settings,
            reader_width=reader.width,
            dtype=DTYPES[options.optimisation.precision],
            max_padded_tokens=PADDED_TOKENS[ranks.device.type],
        )
    require_fit(options, settings, made)
    if not options.data.train_data:
        made.requires_grad_(False)
    if options.optimisation.use_gradient_checkpoint_reader and not made.is_shared:
        enable_gradient_checkpointing(made.backbone)  # type: ignore[arg-type]
    return made


def _backbone(
    options: Options,
    ranks: Ranks,
    folder: Path | None,
    settings: CompressorSettings,
    reader: Reader,
) -> nn.Module:
    if settings.kind == "pool":
        return own_encoder(reader.model)
    if folder is None and settings.kind == "n_layers":
        return first_layers(reader.model, options.compressor.compressor_layers)
    name = str(folder / BACKBONE_FOLDER) if folder else options.compressor.compressor_model_path
    return encoder_on_meta(
        read_config(name or ""), dropout=options.optimisation.dropout, attention=attention(ranks)
    )


def embedded_tokens(options: Options, model: Any) -> int:  # noqa: ANN401 - of transformers
    """Tokens of a text that is embedded, at most: as flags say, or as there are positions."""
    limit = positions(model.config)
    most = retriever_max_tokens(options)
    return most if limit is None else min(most, limit)


def attention(ranks: Ranks) -> Literal["eager", "sdpa"]:
    """How transformers would compute it on this device."""
    return "eager" if ranks.device.type == "cpu" else "sdpa"
