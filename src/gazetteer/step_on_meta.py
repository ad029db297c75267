"""One training step on models without weights: what it would need of memory.

The step is that of step.py, on texts as long as flags allow; nothing is loaded or computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from gazetteer import build
from gazetteer.data.templates import PassageTemplate
from gazetteer.distributed.collectives import apart
from gazetteer.indexing.embedding import CHUNK_ROWS
from gazetteer.live_tensors import FusedOnGpu, LiveTensors
from gazetteer.memory_estimate import RunMemory, StepMemory, extended
from gazetteer.models_on_meta import META, ModelsOnMeta, build_on_meta, embedded_tokens
from gazetteer.options import Options
from gazetteer.records import Batch, Example, Hits, Ranks, Targets, TokenIds
from gazetteer.retriever import DualEncoder
from gazetteer.stats import Stopwatch
from gazetteer.step import RetrieverLesson, TrainingStep
from gazetteer.task_names import DENSE

TARGET_TOKENS = 64
"""Of an answer, where `--target_maxlength` does not say."""
QUERY_TOKENS = 64
"""Of a question."""
MADE_OF_PASSAGES = ("mlm", "lm", "section")
"""Tasks whose queries are as long as passages."""


def measure_reading(options: Options, ranks: Ranks) -> RunMemory:
    """What models and a step need of a run with a reader, or of one that only retrieves.

    Raises:
        GazetteerError: a model cannot be loaded.
    """
    trains = bool(options.data.train_data)
    assert not trains or options.task.task != DENSE, "see dense/step_on_meta.py"
    models = build_on_meta(options, ranks)
    return RunMemory(
        models=models.memory(index_keeps_encoder=trains),
        step=measure_step(options, ranks, models),
    )


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
    embedding = 0
    if models.retriever is not None:
        embedding = embedding_peak(options, ranks, models.retriever)
    return StepMemory(whole=whole, activations=activations, embedding=embedding)


def _step_peak(
    options: Options, ranks: Ranks, models: ModelsOnMeta, queries: int
) -> tuple[int, int]:
    """Peak of a micro-batch with so many queries."""
    whole, texts = _LongTexts.of_reader(options, models), _LongTexts.of_reader(options, models)
    if models.compressor is not None:
        texts = _LongTexts.of_compressor(options, models)
    assert models.reader is not None
    step = TrainingStep(
        source=texts,
        inputs=texts,  # type: ignore[arg-type]
        retriever_tokens=texts if models.retriever else None,  # type: ignore[arg-type]
        retriever=models.retriever,
        reader=models.reader,
        n_context=options.reader.n_context,
        lesson=_lesson(options, models),
        compressor=models.compressor,
        compressor_lesson=build.compressor_lesson(options, whole.of) if models.compressor else None,
    )
    batch = texts.batch(queries)
    return peak_of(step, batch, ranks, train_retriever=step.lesson is not None)


def peak_of(
    step: nn.Module,
    batch: Any,  # noqa: ANN401 - a batch of the step's
    ranks: Ranks,
    *,
    train_retriever: bool = True,
) -> tuple[int, int]:
    """Peak of a step forward and backward: with gradients of weights, and without them."""
    step.train()
    step.zero_grad(set_to_none=True)
    with apart(), as_on(ranks), LiveTensors([step]) as live:
        loss, _ = step(batch, train_retriever)
        if loss.requires_grad:
            loss.backward()
    step.zero_grad(set_to_none=True)
    return live.peak, live.peak_beside_gradients


def _lesson(options: Options, models: ModelsOnMeta) -> RetrieverLesson | None:
    if models.retriever is None:
        return None
    both = build.Models(
        retriever=models.retriever,
        retriever_tokenizer=None,
        reader=models.reader,
        reader_tokenizer=None,
    )
    return build.build_lesson(options, build.build_reader_layers(options, both, lambda: 0))


def embedding_peak(options: Options, ranks: Ranks, retriever: DualEncoder) -> int:
    """Peak while passages are embedded: one call of the encoder, and the vectors of a chunk."""
    length = embedded_tokens(options, retriever.passage_tower.model)
    limits = retriever.batch
    count = max(1, min(limits.max_texts, limits.max_padded_tokens // length))
    with as_on(ranks), LiveTensors([retriever]) as live:
        retriever.embed_for_index([np.zeros(length, dtype=np.int32)] * count)
    # The chunk's vectors, piece by piece, joined, and put in order.
    chunk = 3 * CHUNK_ROWS * retriever.embedding_dim * 4
    packed = 0
    if ranks.device.type == "cpu":
        layers = (m for m in retriever.passage_tower.modules() if isinstance(m, nn.Linear))
        packed = sum(layer.weight.nbytes for layer in layers)
    return live.peak + chunk + packed


def as_on(ranks: Ranks) -> AbstractContextManager[Any]:
    """Have tensors without contents take the ways of this device."""
    return FusedOnGpu() if ranks.device.type == "cuda" else nullcontext()


class _LongTexts:
    """Stands for index, passages and their tokens: every text is as long as flags allow.

    Args:
        options: of the run.
        models: of the run.
        length: tokens of what is read of a passage.
    """

    def __init__(self, options: Options, models: ModelsOnMeta, length: int) -> None:
        self._closed = options.data.closed_book
        self._length = length
        self._query_length, self._retriever_length = query_and_passage_tokens(options, models)
        limit = options.reader.target_maxlength
        self._target_length = limit if limit is not None and limit > 0 else TARGET_TOKENS
        self._retriever = models.retriever

    @classmethod
    def of_reader(cls, options: Options, models: ModelsOnMeta) -> _LongTexts:
        """Whole passages."""
        return cls(options, models, options.reader.text_maxlength)

    @classmethod
    def of_compressor(cls, options: Options, models: ModelsOnMeta) -> _LongTexts:
        """What a compressor reads of them."""
        assert models.compressor is not None
        settings = models.compressor.settings
        length = settings.max_tokens
        if settings.max_passage_tokens is not None:
            has_query = PassageTemplate.parse(settings.format).has_query
            query, _ = query_and_passage_tokens(options, models)
            length = min(length, settings.max_passage_tokens + (query if has_query else 0))
        return cls(options, models, length)

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
        """What is read."""
        count = 1 if self._closed else hits.rows.shape[1]
        return [[np.zeros(self._length, dtype=np.int32)] * count for _ in queries]

    def beside(self, queries: Sequence[str]) -> list[int]:
        """Ids that are not a passage's: none, which asks for the most vectors."""
        return [0] * len(queries)

    def passage_inputs(self, rows: Sequence[int] | np.ndarray) -> list[TokenIds]:
        """What the retriever is given."""
        return [np.zeros(self._retriever_length, dtype=np.int32)] * len(rows)


def query_and_passage_tokens(options: Options, models: ModelsOnMeta) -> tuple[int, int]:
    """What the retriever is given of either; without one, what questions usually are."""
    if models.retriever is None:
        return QUERY_TOKENS, 0
    most = embedded_tokens(options, models.retriever.passage_tower.model)
    return (most if options.task.task in MADE_OF_PASSAGES else min(QUERY_TOKENS, most)), most
