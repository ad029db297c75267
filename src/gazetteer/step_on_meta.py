"""One training step on models without weights: what it would need of memory.

The step is that of step.py, on texts as long as flags allow; nothing is loaded or computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from gazetteer import build
from gazetteer.build_reader import adapt_reader
from gazetteer.build_retriever import (
    PADDED_TOKENS,
    asked_of_towers,
    prepare_learning,
)
from gazetteer.build_search import retriever_max_tokens
from gazetteer.indexing.embedding import CHUNK_ROWS
from gazetteer.live_tensors import FusedOnGpu, LiveTensors
from gazetteer.memory_estimate import ModelMemory, StepMemory, extended
from gazetteer.options import Options
from gazetteer.reader import CausalReader, FusionReader, Reader
from gazetteer.reader.causal import CausalPrompt
from gazetteer.reader.loading import DTYPES, enable_gradient_checkpointing, reader_class
from gazetteer.records import Batch, Example, Hits, Ranks, Targets, TokenIds
from gazetteer.retriever import DualEncoder, EmbeddingBatch
from gazetteer.retriever.loading import tower_on_meta
from gazetteer.stats import Stopwatch
from gazetteer.step import TrainingStep

TARGET_TOKENS = 64
"""Of an answer, where `--target_maxlength` does not say."""
QUERY_TOKENS = 64
"""Of a question."""
MADE_OF_PASSAGES = ("mlm", "lm", "section")
"""Tasks whose queries are as long as passages."""
META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class ModelsOnMeta:
    """The models of a run, without weights; None where a run does without."""

    reader: Reader | None
    retriever: DualEncoder | None

    def memory(self, *, index_keeps_encoder: bool) -> list[ModelMemory]:
        """Their weights, and which of them learn.

        Args:
            index_keeps_encoder: weights that made the index are kept beside those that learn.
        """
        found = []
        if self.reader is not None:
            found.append(replace(_memory_of(self.reader), is_cut=True))
        if self.retriever is not None:
            memory, tower = _memory_of(self.retriever), self.retriever.passage_tower
            if index_keeps_encoder and memory.trained:
                memory = replace(memory, copies=sum(p.nbytes for p in tower.parameters()))
            found.append(memory)
        return found


def _memory_of(model: nn.Module) -> ModelMemory:
    learning = [p for p in model.parameters() if p.requires_grad]
    return ModelMemory(
        weights=sum(p.nbytes for p in model.parameters()),
        trained=sum(p.numel() for p in learning),
        is_half=any(p.element_size() < 4 for p in learning),
    )


def build_on_meta(
    options: Options,
    ranks: Ranks,
    reader_config: Any,  # noqa: ANN401 - each type of model has its own
    retriever_source: str | None,
) -> ModelsOnMeta:
    """The models as a run would have them, on the "meta" device.

    Args:
        options: of the run.
        ranks: this process among its peers.
        reader_config: of the reader; None without one.
        retriever_source: name or folder; None without a retriever.
    """
    reader = retriever = None
    if reader_config is not None:
        reader = _reader(options, ranks, reader_config)
    if retriever_source is not None:
        retriever = _retriever(options, ranks, retriever_source)
    return ModelsOnMeta(reader, retriever)


def _reader(options: Options, ranks: Ranks, config: Any) -> Reader:  # noqa: ANN401
    kind: Any = reader_class(config)
    attention = _attention(ranks)
    with META:
        if kind is None:
            model = AutoModelForCausalLM.from_config(config)
        else:
            config.dropout_rate = options.optimisation.dropout
            model = kind._from_config(config, attn_implementation=attention)
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


def _retriever(options: Options, ranks: Ranks, source: str) -> DualEncoder:
    tower = tower_on_meta(
        source,
        asked_of_towers(options),
        attention=_attention(ranks),
        dropout=options.optimisation.dropout,
    )
    is_bf16 = options.optimisation.precision == "bf16"
    tower = tower.to(DTYPES["bf16" if is_bf16 else "fp32"])
    limits = EmbeddingBatch(
        max_texts=options.data.per_gpu_embedder_batch_size,
        max_padded_tokens=PADDED_TOKENS[ranks.device.type],
    )
    retriever = DualEncoder(tower, tower, limits)
    prepare_learning(retriever, options)
    if not options.data.train_data:
        retriever.requires_grad_(False)
    return retriever


def _attention(ranks: Ranks) -> Any:  # noqa: ANN401 - one of two words
    return "eager" if ranks.device.type == "cpu" else "sdpa"


def measure_step(options: Options, ranks: Ranks, models: ModelsOnMeta) -> StepMemory:
    """What a step, and embedding passages, need beside weights, optimiser and index.

    Memory grows by the same amount with each query, so one and two are enough to look at.
    """
    queries = options.data.per_gpu_batch_size
    whole = activations = 0
    if options.data.train_data and models.reader is not None:
        first = _step_peak(options, ranks, models, 1)
        second = first if queries == 1 else _step_peak(options, ranks, models, 2)
        whole, activations = (extended(a, b, queries) for a, b in zip(first, second, strict=True))
    embedding = 0 if models.retriever is None else _embedding_peak(options, ranks, models.retriever)
    return StepMemory(whole=whole, activations=activations, embedding=embedding)


def _step_peak(
    options: Options, ranks: Ranks, models: ModelsOnMeta, queries: int
) -> tuple[int, int]:
    """Peak of a micro-batch with so many queries: with gradients, and without them."""
    texts = _LongTexts(options, models)
    assert models.reader is not None
    step = TrainingStep(
        source=texts,
        inputs=texts,  # type: ignore[arg-type]
        retriever_tokens=texts if models.retriever else None,  # type: ignore[arg-type]
        retriever=models.retriever,
        reader=models.reader,
        n_context=options.reader.n_context,
        lesson=build.build_lesson(options, None) if models.retriever else None,
    )
    step.train()
    step.zero_grad(set_to_none=True)
    batch = texts.batch(queries)
    with _as_on(ranks), LiveTensors([step]) as live:
        loss, _ = step(batch, step.lesson is not None)
        if loss.requires_grad:
            loss.backward()
    step.zero_grad(set_to_none=True)
    return live.peak, live.peak_beside_gradients


def _embedding_peak(options: Options, ranks: Ranks, retriever: DualEncoder) -> int:
    """Peak while passages are embedded: one call of the encoder, and the vectors of a chunk."""
    length = retriever_max_tokens(options)
    limits = retriever.batch
    count = max(1, min(limits.max_texts, limits.max_padded_tokens // length))
    with _as_on(ranks), LiveTensors([retriever]) as live:
        retriever.embed_for_index([np.zeros(length, dtype=np.int32)] * count)
    # The chunk's vectors, piece by piece, joined, and put in order.
    chunk = 3 * CHUNK_ROWS * retriever.embedding_dim * 4
    packed = 0
    if ranks.device.type == "cpu":
        layers = (m for m in retriever.passage_tower.modules() if isinstance(m, nn.Linear))
        packed = sum(layer.weight.nbytes for layer in layers)
    return live.peak + chunk + packed


def _as_on(ranks: Ranks) -> AbstractContextManager[Any]:
    return FusedOnGpu() if ranks.device.type == "cuda" else nullcontext()


class _LongTexts:
    """Stands for index, passages and their tokens: every text is as long as flags allow."""

    def __init__(self, options: Options, models: ModelsOnMeta) -> None:
        self._closed = options.data.closed_book
        self._reader_length = options.reader.text_maxlength
        self._retriever_length = retriever_max_tokens(options)
        is_long = options.task.task in MADE_OF_PASSAGES
        self._query_length = (
            self._retriever_length if is_long else min(QUERY_TOKENS, self._retriever_length)
        )
        limit = options.reader.target_maxlength
        self._target_length = limit if limit is not None and limit > 0 else TARGET_TOKENS
        self._retriever = models.retriever

    def batch(self, queries: int) -> Batch:
        """So many queries with their targets."""
        labels = torch.zeros(queries, self._target_length, dtype=torch.int64, device=META)
        return Batch(
            examples=tuple(Example(example_id=number, query="") for number in range(queries)),
            query_tokens=[np.zeros(self._query_length, dtype=np.int32)] * queries,
            targets=Targets(labels, labels),
        )

    def hits(self, batch: Batch, top_k: int, clock: Stopwatch) -> Hits:
        """Another passage for every hit."""
        if self._retriever is not None:
            self._retriever.embed_for_search(batch.query_tokens)
        shape = (len(batch.examples), top_k)
        rows = torch.arange(shape[0] * shape[1]).view(shape)
        return Hits(rows, torch.zeros(shape))

    def of(self, queries: Sequence[str], hits: Hits) -> list[list[TokenIds]]:
        """What the reader is given."""
        count = 1 if self._closed else hits.rows.shape[1]
        return [[np.zeros(self._reader_length, dtype=np.int32)] * count for _ in queries]

    def beside(self, queries: Sequence[str]) -> list[int]:
        """Ids that are not a passage's."""
        return [0] * len(queries)

    def passage_inputs(self, rows: Sequence[int] | np.ndarray) -> list[TokenIds]:
        """What the retriever is given."""
        return [np.zeros(self._retriever_length, dtype=np.int32)] * len(rows)
