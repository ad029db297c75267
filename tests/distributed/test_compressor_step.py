"""A step with a compressor on 1, 2 and 3 gloo ranks: losses and gradients are those of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gazetteer.compressor import Compressor, CompressorLesson, CompressorSettings
from gazetteer.compressor.backbones import first_layers, load_backbone, own_encoder
from gazetteer.compressor.saving import make_compressor
from gazetteer.data.passages import PassageStore, write_passages
from gazetteer.data.queries import QueryTokenizer
from gazetteer.data.targets import TargetTokenizer
from gazetteer.data.templates import PassageTemplate
from gazetteer.data.tokens import PassageTokens
from gazetteer.distributed.replicas import replicate
from gazetteer.reader import CausalReader, FusionReader, Reader
from gazetteer.reader.causal import CausalPrompt
from gazetteer.records import Batch, Example, Ranks
from gazetteer.stats import WeightedStats
from gazetteer.step import GivenPassages, ReaderInputs, TrainingStep
from tests.support.ranks import run_on_ranks
from tests.support.tiny_data import passages, questions
from tests.support.tiny_models import (
    reader_tokenizer,
    retriever_tokenizer,
    save_tiny_retriever,
    tiny_t5,
)
from tests.unit.compressor.test_compress import tiny_llama

QUERIES = 6
GIVEN = (3, 1, 0, 2, 3, 2)
"""Passages of each query: their number differs, and one has none."""
CASES = {
    "t5 n_layers": ("t5", "n_layers", "memory", "file"),
    "t5 pool": ("t5", "pool", "memory", "reader"),
    "t5 encoder": ("t5", "encoder", "mean", "reader"),
    "decoder n_layers": ("decoder", "n_layers", "memory", "file"),
}


def reader_of(family: str) -> Reader:
    if family == "t5":
        return FusionReader(tiny_t5(), max_padded_tokens=120)
    prompt = CausalPrompt(
        prefix=(5,), end_ids=(1,), pad_id=0, passage_format="{text}", question_format="{query}"
    )
    return CausalReader(tiny_llama(), prompt)


def compressor_of(kind: str, pooling: str, reader: Reader, folder: str) -> Compressor:
    settings = CompressorSettings(
        kind=kind,  # type: ignore[arg-type]
        pooling=pooling,  # type: ignore[arg-type]
        vectors=2,
        rate=None,
        format="{query} {title} {text}",
        max_tokens=40,
        has_relevance=True,
    )
    if kind == "encoder":
        backbone = load_backbone(folder, dropout=0.0, attention="eager")[0]
    else:
        model: Any = reader.model
        backbone = first_layers(model, 1) if kind == "n_layers" else own_encoder(model)
    torch.manual_seed(3)
    return make_compressor(
        backbone, settings, reader_width=32, dtype=torch.float32, max_padded_tokens=120
    )


def inputs_of(tokenizer: Any, family: str, store: PassageStore, folder: str) -> ReaderInputs:
    """A T5 reads a query without passages alone; a decoder has its question elsewhere."""
    template = PassageTemplate.parse("{query} {title} {text}")
    tokens = PassageTokens(store, tokenizer, template, max_tokens=40, cache_dir=Path(folder))
    return ReaderInputs(
        tokens, QueryTokenizer(tokenizer, max_tokens=40) if family == "t5" else None
    )


def batch_of(numbers: range) -> Batch:
    asked, starts = questions(QUERIES), np.cumsum([0, *GIVEN])
    examples = tuple(
        Example(
            example_id=number,
            query=asked[number]["question"],
            target=" ".join(asked[number]["answers"]),
            passage_rows=tuple(range(starts[number], starts[number + 1])),
            reranking_scores=tuple(0.5 * place for place in range(GIVEN[number])),
        )
        for number in numbers
    )
    targets = TargetTokenizer(reader_tokenizer(), decoder_start_id=0).encode(
        [each.query for each in examples], [each.target for each in examples]
    )
    return Batch(examples=examples, query_tokens=(), targets=targets)


def learn(ranks: Ranks, case: str, folder: str, order: range | None = None) -> tuple[dict, Any]:
    """Losses as they would be logged, and averaged gradients of reader and compressor."""
    family, kind, pooling, target = CASES[case]
    store = PassageStore(Path(folder) / "passages")
    reader = reader_of(family)
    compressor = compressor_of(kind, pooling, reader, f"{folder}/encoder")
    tokenizer = retriever_tokenizer() if kind == "encoder" else reader_tokenizer()
    step = TrainingStep(
        source=GivenPassages(),
        inputs=inputs_of(tokenizer, family, store, folder),
        retriever_tokens=None,
        retriever=None,
        reader=reader,
        n_context=3,
        lesson=None,
        compressor=compressor,
        compressor_lesson=CompressorLesson(
            distill_weight=0.7,
            whole_inputs=inputs_of(reader_tokenizer(), family, store, folder).of,
            rerank_target=target,  # type: ignore[arg-type]
            rerank_weight=0.3,
            reader_temperature=0.5,
        ),
    )
    share = QUERIES // ranks.world_size
    mine = order or range(ranks.rank * share, (ranks.rank + 1) * share)
    replicated = replicate(step, ranks).train()
    loss, numbers = replicated(batch_of(mine), False)
    loss.backward()
    stats = WeightedStats()
    for name, value in numbers.items():
        stats.add(name, value, weight=len(mine))
    losses = {name: x for name, x in stats.averages().items() if name.startswith("loss/")}
    gradients = {n: p.grad.numpy() for n, p in step.named_parameters() if p.grad is not None}
    return losses, gradients


def everything(ranks: Ranks, folder: str) -> dict[str, Any]:
    return {case: learn(ranks, case, folder) for case in CASES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("step")
    write_passages(passages(sum(GIVEN)), folder / "passages")
    save_tiny_retriever(folder / "encoder")
    return str(folder)


@pytest.fixture(scope="module")
def alone(folder: str) -> dict[str, Any]:
    return everything(Ranks(), folder)


def assert_alike(found: tuple[dict, Any], expected: tuple[dict, Any]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        scale = max(0.01, float(np.abs(gradient).max()))
        assert float(np.abs(found[1][name] - gradient).max()) <= 1e-5 * scale, name


def test_the_loss_is_the_weighted_sum_of_its_terms(alone: dict[str, Any]) -> None:
    for losses, gradients in alone.values():
        terms = (losses[f"loss/{name}_loss"] for name in ("reader", "distill", "rerank"))
        total = sum(weight * term for weight, term in zip((1, 0.7, 0.3), terms, strict=True))
        assert losses["loss/train_loss"] == pytest.approx(total, rel=1e-5)
        assert np.abs(gradients["compressor.relevance_head.weight"]).max() > 0


def test_nothing_depends_on_the_order_of_queries(alone: dict[str, Any], folder: str) -> None:
    for case in CASES:
        assert_alike(learn(Ranks(), case, folder, range(QUERIES - 1, -1, -1)), alone[case])


@pytest.mark.parametrize("size", [2, 3])
def test_nothing_depends_on_the_number_of_workers(
    alone: dict[str, Any], folder: str, size: int
) -> None:
    for result in run_on_ranks(everything, size, folder):
        for case, expected in alone.items():
            assert_alike(result[case], expected)
