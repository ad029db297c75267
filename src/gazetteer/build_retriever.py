"""Options -> the retriever: what its towers make of a text, and which of their weights learn."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from gazetteer.adapters import (
    LoraSettings,
    add_adapters,
    are_as_asked,
    has_adapters,
    train_adapters_only,
    without_adapters,
)
from gazetteer.options import Options
from gazetteer.reader.loading import DTYPES, enable_gradient_checkpointing
from gazetteer.records import Ranks
from gazetteer.retriever import DualEncoder, EmbeddingBatch, load_retriever
from gazetteer.retriever.head import NewHead
from gazetteer.retriever.loading import Fill, find_source
from gazetteer.retriever.ways import DEFAULT_POOLING, Asked

logger = logging.getLogger(__name__)

PADDED_TOKENS = {"cuda": 65_536, "cpu": 1_024}
"""Tokens of one encoder call. On a CPU small calls waste less on padding and stay in cache; a GPU
wants large ones."""


def build_retriever(
    options: Options, ranks: Ranks, name: str, fills: Sequence[Fill] | None = None
) -> tuple[DualEncoder, PreTrainedTokenizerBase]:
    """The towers under a name, ready to learn as flags say, on this rank's device.

    Args:
        options: of the run.
        ranks: this process among its peers.
        name: of the hub, or a folder.
        fills: give the towers their weights; None reads those under the name.

    Raises:
        CheckpointError, OptionError: they cannot be loaded, or cannot be as flags say.
    """
    retriever, tokenizer = load_encoders(options, ranks, name, fills)
    prepare_learning(retriever, options)
    return retriever.to(ranks.device), tokenizer


def prepare_learning(retriever: DualEncoder, options: Options) -> None:
    """Let towers be tied or apart, learn or stay as they are, as flags say."""
    if options.retriever.untie_retriever:
        retriever.untie()
    if options.retriever.query_side_retriever_training:
        retriever.freeze_passage_tower()
    if options.retriever.train_retriever:
        _adapt(retriever, options)
    else:
        retriever.requires_grad_(False)
    if options.optimisation.use_gradient_checkpoint_retriever:
        for tower in {id(t): t for t in (retriever.query_tower, retriever.passage_tower)}.values():
            enable_gradient_checkpointing(tower.model)


def _adapt(retriever: DualEncoder, options: Options) -> None:
    """Let the learning towers learn by adapters, or by all their weights, as flags say."""
    lora = _lora(options)
    if lora is not None and options.towers.lora_target == "passage":
        retriever.freeze_query_tower()
    for tower in retriever.learning_towers:
        if lora is not None and are_as_asked(tower.model, lora):
            train_adapters_only(tower.model)
            continue
        if has_adapters(tower.model):
            logger.info("adapters with other settings are merged into the weights")
            tower.model = without_adapters(tower.model)
        if lora is not None:
            add_adapters(tower.model, lora)


def _lora(options: Options) -> LoraSettings | None:
    towers = options.towers
    if not towers.lora_rank:
        return None
    return LoraSettings(
        rank=towers.lora_rank,
        alpha=2.0 * towers.lora_rank if towers.lora_alpha is None else towers.lora_alpha,
        modules=tuple(towers.lora_modules) or None,
        seed=options.experiment.seed,
    )


def load_encoders(
    options: Options, ranks: Ranks, name: str, fills: Sequence[Fill] | None = None
) -> tuple[DualEncoder, PreTrainedTokenizerBase]:
    """The towers under a name or in a folder, on the CPU, with the limits of this device.

    Args:
        options: of the run.
        ranks: this process among its peers.
        name: of the hub, or a folder.
        fills: give the towers their weights; None reads those under the name.

    Raises:
        CheckpointError: they cannot be loaded.
    """
    is_bf16 = options.optimisation.precision == "bf16"
    asked = asked_of_towers(options)
    return load_retriever(
        name,
        pooling=asked.pooling,
        normalize=asked.normalize,
        dropout=options.optimisation.dropout,
        # As in Atlas, fp16 leaves the retriever in fp32.
        dtype=DTYPES["bf16" if is_bf16 else "fp32"],
        batch=EmbeddingBatch(
            max_texts=options.data.per_gpu_embedder_batch_size,
            max_padded_tokens=PADDED_TOKENS[ranks.device.type],
        ),
        attention="eager" if ranks.device.type == "cpu" else "sdpa",
        fills=fills,
        encoder_only=asked.encoder_only,
        new_head=asked.new_head,
    )


def asked_of_towers(options: Options) -> Asked:
    """How flags say that embeddings are made."""
    towers, head = options.towers, None
    if towers.add_linear_head:
        head = NewHead(
            input_dim=towers.projection_in_dim,
            output_dim=towers.projection_out_dim,
            seed=options.experiment.seed,
        )
    return Asked(
        pooling=options.retriever.retriever_pooling,
        normalize=options.retriever.retriever_normalize,
        encoder_only=towers.encoder_only,
        new_head=head,
    )


def asked_of_teacher(options: Options, name: str) -> Asked:
    """How a teacher embeds: as its folder says; where that says nothing, as the student."""
    source, asked = find_source(name), asked_of_towers(options)
    if source.noted is None and source.suggested is None:
        return replace(asked, new_head=None)
    return Asked(pooling=DEFAULT_POOLING, normalize=False, encoder_only=False, new_head=None)
