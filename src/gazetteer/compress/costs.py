"""What an answer costs: FLOPs of its three parts apart, bytes of keys and values, and time.

FLOPs are counted by torch, not estimated, and are the same on every machine. Time is not: two
readers are timed in turns on the same queries, so that what else the machine does meets both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from gazetteer.compressor import Compressed
from gazetteer.evaluation.loop import ReadingStage
from gazetteer.metrics.bootstrap import bootstrap_interval
from gazetteer.modes import evaluation_mode
from gazetteer.reader import FusionReader, GenerationSettings, generate
from gazetteer.records import Batch, Hits


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Of one query, answered alone with a fixed number of tokens; averages over queries.

    Attributes:
        encode_flops: of compressing passages, or of the reader's own encoder.
        prefill_flops: of the reader, up to the first token of the answer.
        decode_flops: of the reader, for the other tokens.
        kv_bytes: keys and values kept when the answer is done, those of the context included.
        vectors: what the reader decodes over: one per token, or what is left of them.
        rate: passage tokens per vector; None where nothing is compressed.
    """

    encode_flops: float
    prefill_flops: float
    decode_flops: float
    kv_bytes: float
    vectors: float
    rate: float | None

    @property
    def total_flops(self) -> float:
        """All three."""
        return self.encode_flops + self.prefill_flops + self.decode_flops

    @property
    def reader_flops(self) -> float:
        """Of the reader, once the passages are encoded or compressed."""
        return self.prefill_flops + self.decode_flops


@dataclass(frozen=True, slots=True)
class Query:
    """Examples to answer together, with their passages.

    Attributes:
        batch: one example or more.
        hits: their passages.
        n_context: passages that are read.
    """

    batch: Batch
    hits: Hits
    n_context: int


@torch.no_grad()
def count_costs(stage: ReadingStage, queries: Sequence[Query], new_tokens: int) -> Costs:
    """Count what answering costs.

    Args:
        stage: reader and compressor.
        queries: of one example each.
        new_tokens: length of every answer, at least 2, whatever the reader would say.
    """
    assert new_tokens >= 2 and all(len(query.batch.examples) == 1 for query in queries)
    with countable(stage):
        rows = [_costs_of(stage, query, new_tokens) for query in queries]
    rates = [row.rate for row in rows if row.rate is not None]
    return Costs(
        encode_flops=_mean(rows, lambda row: row.encode_flops),
        prefill_flops=_mean(rows, lambda row: row.prefill_flops),
        decode_flops=_mean(rows, lambda row: row.decode_flops),
        kv_bytes=_mean(rows, lambda row: row.kv_bytes),
        vectors=_mean(rows, lambda row: row.vectors),
        rate=float(np.mean(rates)) if rates else None,
    )


def _mean(rows: Sequence[Costs], value: Callable[[Costs], float]) -> float:
    return float(np.mean([value(row) for row in rows]))


def _costs_of(stage: ReadingStage, query: Query, new_tokens: int) -> Costs:
    with FlopCounterMode(display=False) as encoding:
        encoded, _ = stage.encode(query.batch, query.hits, query.n_context)
    with FlopCounterMode(display=False) as first:
        answer(stage, query, encoded, 1)
    with FlopCounterMode(display=False) as whole, kept_bytes(stage.reader.model) as kept:
        answer(stage, query, encoded, new_tokens)
    return Costs(
        encode_flops=encoding.get_total_flops(),
        prefill_flops=first.get_total_flops(),
        decode_flops=whole.get_total_flops() - first.get_total_flops(),
        kv_bytes=kept[-1],
        vectors=int(encoded.passages.lengths.sum()),
        rate=encoded.rate if stage.compressor is not None else None,
    )


def answer(
    stage: ReadingStage, query: Query, encoded: Compressed, new_tokens: int
) -> list[list[int]]:
    """Answers of exactly so many tokens."""
    assert query.batch.targets is not None
    prompts = query.batch.targets.prompts
    # T5 counts the start token and a forced prompt; a decoder-only reader has its prompt before.
    is_fusion = isinstance(stage.reader, FusionReader)
    length = 1 + new_tokens + max((len(ids) for ids in prompts if is_fusion), default=0)
    settings = GenerationSettings(max_length=length, min_length=length)
    with evaluation_mode(stage.reader):
        return generate(stage.reader, encoded.passages.fused(), settings, prompts)


@contextmanager
def countable(stage: ReadingStage) -> Iterator[None]:
    """Attention as plain matrix products: torch does not count all of its fused kernels."""
    models = [stage.reader.model]
    if stage.compressor is not None and not stage.compressor.is_shared:
        models.append(stage.compressor.backbone)  # type: ignore[arg-type]
    before = [model.config._attn_implementation or "eager" for model in models]
    try:
        for model in models:
            model.set_attn_implementation("eager")
        yield
    finally:
        for model, name in zip(models, before, strict=True):
            model.set_attn_implementation(name)


@contextmanager
def kept_bytes(model: nn.Module) -> Iterator[list[int]]:
    """Bytes of keys and values after each call of a model, read off its own cache."""
    found: list[int] = []

    def note(_: nn.Module, __: Any, output: Any) -> None:  # noqa: ANN401 - any model's output
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            found.append(sum(tensor.nbytes for tensor in _cached(cache)))

    with ExitStack() as stack:
        for part in model.modules():
            if isinstance(part, PreTrainedModel):
                stack.callback(part.register_forward_hook(note).remove)
        yield found


def _cached(cache: Any) -> Iterator[Tensor]:  # noqa: ANN401 - several classes of transformers
    halves = [getattr(cache, f"{kind}_attention_cache", None) for kind in ("self", "cross")]
    for half in [each for each in halves if each is not None] or [cache]:
        for layer in half.layers:
            for tensor in (layer.keys, layer.values):
                if isinstance(tensor, Tensor):
                    yield tensor


@dataclass(frozen=True, slots=True)
class Race:
    """Seconds of two ways to answer, in turns on the same queries.

    Attributes:
        baseline: float64 (trial).
        other: likewise, paired.
    """

    baseline: np.ndarray
    other: np.ndarray

    @property
    def speedup(self) -> float:
        """How many times faster than the baseline: geometric mean over trials."""
        return float(np.exp(self._logs.mean()))

    def interval(self, share: float = 0.95) -> tuple[float, float]:
        """Bootstrap interval of the speedup."""
        low, high = bootstrap_interval(self._logs, share=share)
        return float(np.exp(low)), float(np.exp(high))

    @property
    def _logs(self) -> np.ndarray:
        return np.log(self.baseline / self.other)


def race(
    baseline: Callable[[int], object],
    other: Callable[[int], object],
    *,
    warm_up: int,
    trials: int,
    finish: Callable[[], None],
) -> Race:
    """Time two ways to answer, the one that goes first changing from trial to trial.

    Args:
        baseline: does the trial of a number, from 0.
        other: likewise.
        warm_up: rounds before the first that counts.
        trials: rounds that count, at least 1.
        finish: waits for the device.
    """
    seconds = np.zeros((2, trials))
    runners = (baseline, other)
    for number in range(warm_up + trials):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        for which in order:
            finish()
            started = time.perf_counter()
            runners[which](number)
            finish()
            if number >= warm_up:
                seconds[which, number - warm_up] = time.perf_counter() - started
    return Race(*seconds)


@torch.no_grad()
def answer_in_full(stage: ReadingStage, query: Query, new_tokens: int) -> None:
    """Compress, prefill and decode: what is timed."""
    encoded, _ = stage.encode(query.batch, query.hits, query.n_context)
    answer(stage, query, encoded, new_tokens)


def finisher(device: torch.device) -> Callable[[], None]:
    """Waits until a device has done what it was given."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
