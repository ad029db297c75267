"""One dense step on models without weights: what `--task dense` would need of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gazetteer.build_retriever import PADDED_TOKENS, asked_of_teacher
from gazetteer.compressor.backbones import positions
from gazetteer.dense.data import is_scored
from gazetteer.dense.distillation import build_lead_step, read_model
from gazetteer.dense.records import DenseBatch
from gazetteer.dense.step import DenseStep
from gazetteer.dense.towers import Towers
from gazetteer.dense.training import build_chunks, build_lesson
from gazetteer.dense.warm_up import RankingStep
from gazetteer.lead.cross_encoder import CrossLayers
from gazetteer.lead.dual import DualLayers
from gazetteer.lead.step import LeadBatch
from gazetteer.lead.teachers import LayeredModel
from gazetteer.memory_estimate import RunMemory, StepMemory, extended_square
from gazetteer.models_on_meta import (
    META,
    dual_encoder_on_meta,
    embedded_tokens,
    memory_of,
    retriever_memory,
    retriever_on_meta,
)
from gazetteer.options import Options
from gazetteer.records import Ranks
from gazetteer.retriever import DualEncoder
from gazetteer.step_on_meta import embedding_peak, measure_reading, peak_of
from gazetteer.task_names import DENSE
from gazetteer.training.building import step_plan
from gazetteer.training.state import Position


def measure_training(options: Options, ranks: Ranks) -> RunMemory:
    """What models and a step need, of any task.

    Raises:
        GazetteerError: a model cannot be loaded.
    """
    if options.task.task != DENSE or not options.data.train_data:
        return measure_reading(options, ranks)
    if options.lead.retriever_kind != "de":
        return _measure_ranker(options, ranks)
    retriever = retriever_on_meta(options, ranks)
    mines = options.mining.mine_negatives > 0
    models, layered = (
        [retriever_memory(retriever, index_keeps_encoder=mines)],
        DualLayers(retriever),
    )
    if options.lead.teacher is None:
        step: nn.Module = _StepAmongOthers(options, ranks, retriever)
        found = _measure(options, ranks, step, [layered])
    else:
        teacher = _teacher(options, ranks, options.lead.teacher)
        step = build_lead_step(options, Ranks(device=META), retriever, teacher, Position())
        found = _measure(options, ranks, step, [layered, teacher])
        models.append(memory_of(teacher.parameters()))
    embedding = embedding_peak(options, ranks, retriever) if mines else 0
    return RunMemory(models, replace(found, embedding=embedding))


def _measure_ranker(options: Options, ranks: Ranks) -> RunMemory:
    name = options.retriever.retriever_model_path
    model = read_model(options, ranks, options.lead.retriever_kind, name).model.to("meta")
    step = RankingStep(model, options.dense.dense_temperature)
    return RunMemory([memory_of(model.parameters())], _measure(options, ranks, step, [model]))


def _teacher(options: Options, ranks: Ranks, name: str) -> LayeredModel:
    """On the "meta" device; what sentence-transformers opens is read before."""
    kind = options.lead.teacher_kind
    if kind != "de":
        return read_model(options, ranks, kind, name).model.to("meta")
    return DualLayers(dual_encoder_on_meta(options, ranks, name, asked_of_teacher(options, name)))


class _StepAmongOthers(DenseStep):
    """The step of one of several workers, whose passages are candidates if flags say so."""

    def __init__(self, options: Options, ranks: Ranks, retriever: DualEncoder) -> None:
        lesson = build_lesson(options, retriever)
        self._others = ranks.world_size - 1 if lesson.gathers else 0
        super().__init__(Towers(retriever), replace(lesson, gathers=False), build_chunks(options))

    def _embed(
        self, batch: DenseBatch
    ) -> tuple[Float[Tensor, "query dim"], Float[Tensor, "passage dim"]]:
        queries, passages = super()._embed(batch)
        if not self._others:
            return queries, passages
        theirs = passages.new_zeros(self._others * len(passages), passages.shape[1])
        return queries, torch.cat([passages, theirs])


def _measure(
    options: Options, ranks: Ranks, step: nn.Module, models: Sequence[LayeredModel]
) -> StepMemory:
    """Peak of a step with all its queries, whose texts are as long as flags and models allow.

    Scores of all queries with all passages make it grow with their square; so a large step's is
    that of the parabola through three small ones, of several calls of the encoder each.
    """
    length = min(_passage_tokens(options, model) for model in models)
    queries = -(-step_plan(options, ranks).size // ranks.world_size)
    few = _filling(options, ranks, length)
    sizes = (queries,) if queries <= 4 * few else (2 * few, 3 * few, 4 * few)
    peaks = []
    for size in sizes:
        batch = _batch(options, size, length)
        both = LeadBatch(batch, batch) if len(models) > 1 else batch
        peaks.append(peak_of(step, both, ranks))
    whole, activations = (
        values[0] if len(sizes) == 1 else extended_square(values, queries / few - 1)
        for values in zip(*peaks, strict=True)
    )
    return StepMemory(whole=whole, activations=activations)


def _passage_tokens(options: Options, model: LayeredModel) -> int:
    """Of a passage, at most; where pairs are read, there has to be room for the query as well."""
    is_dual = isinstance(model, DualLayers)
    transformer = model.retriever.passage_tower.model if is_dual else model.transformer
    most = embedded_tokens(options, transformer)
    limit = positions(transformer.config)
    if not isinstance(model, CrossLayers) or limit is None:
        return most
    beside = options.dense.q_max_len + len(model.pairs.between)
    return max(1, min(most, limit - beside + 1))


def _filling(options: Options, ranks: Ranks, length: int) -> int:
    """Queries whose passages fill a call of the encoder; or the chunks of `--grad_cache`."""
    dense, chunks = options.dense, build_chunks(options)
    if chunks is not None:
        return max(chunks.queries, -(-chunks.passages // dense.train_n_passages))
    tokens = PADDED_TOKENS[ranks.device.type] // length
    at_once = max(1, min(tokens, options.data.per_gpu_embedder_batch_size))
    return -(-at_once // dense.train_n_passages)


def _batch(options: Options, queries: int, length: int) -> DenseBatch:
    dense = options.dense
    scores = torch.zeros(queries, dense.train_n_passages) if is_scored(options) else None
    return DenseBatch(
        examples=tuple(range(queries)),
        query_tokens=[np.zeros(dense.q_max_len, dtype=np.int32)] * queries,
        passage_tokens=[np.zeros(length, dtype=np.int32)] * (queries * dense.train_n_passages),
        teacher_scores=scores,
    )
