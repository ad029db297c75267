"""What one worker of a run holds in memory, by arithmetic alone. All sizes are in bytes.

What a step adds for its activations is measured on tensors without contents, see step_on_meta.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOMENTS = 8
"""AdamW's two averages of a weight, float32."""
MASTER = 4
"""The float32 copy of a weight in float16 or bfloat16, and for a moment that of its gradient."""
GROUP_ROWS = 8
"""Rows that share a float32 scale in the int8 codes of the first pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMemory:
    """A model of a run.

    Attributes:
        weights: bytes of all its weights.
        trained: number of those that learn.
        is_half: those are in float16 or bfloat16.
        copies: bytes of further copies of its weights, such as those that made the index.
        is_cut: its weights can be divided among the workers: the reader's.
    """

    weights: int
    trained: int = 0
    is_half: bool = False
    copies: int = 0
    is_cut: bool = False

    @property
    def gradients(self) -> int:
        """In the dtype of the weights."""
        return self.trained * (2 if self.is_half else 4)

    @property
    def optimiser(self) -> int:
        """Moments, and master copies where there are any."""
        return self.trained * (MOMENTS + (MASTER if self.is_half else 0))

    @property
    def update(self) -> int:
        """For a moment, while this model is updated: its gradients in float32."""
        return self.trained * MASTER if self.is_half else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """Among how many workers each part of a run's state is divided; 1 is not at all.

    Attributes:
        optimiser: by any of the flags.
        gradients: `--shard_grads`, and backends that always divide them.
        weights: of models that can be cut, `--shard_params`.
        bucket: bytes of weights that travel at once after an update.
        on_the_way: bytes of gradients that have not reached the worker that keeps them.
    """

    optimiser: int = 1
    gradients: int = 1
    weights: int = 1
    bucket: int = 0
    on_the_way: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """What a step needs beside what is held.

    Attributes:
        whole: at its peak, gradients that it makes included.
        activations: at its peak, gradients left out.
        embedding: while passages are embedded.
    """

    whole: int = 0
    activations: int = 0
    embedding: int = 0


@dataclass(frozen=True, slots=True)
class RunMemory:
    """What is found of a run without computing anything.

    Attributes:
        models: all that it holds.
        step: what its step needs beside them.
    """

    models: Sequence[ModelMemory]
    step: StepMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Memory of one worker.

    Attributes:
        weights: of all models.
        copies: of weights, beside them.
        gradients: of what learns.
        optimiser: moments and master copies.
        index: of this worker's rows, as often as there are versions at once.
        activations: what the largest moment needs beside weights, optimiser and index.
        peak: all of it at the largest moment.
    """

    weights: int
    copies: int
    gradients: int
    optimiser: int
    index: int
    activations: int
    peak: int


def estimate(
    models: Sequence[ModelMemory],
    *,
    index: int,
    step: StepMemory,
    sharding: Sharding,
    keeps_gradients: bool,
    copies_to_save: bool = False,
) -> MemoryEstimate:
    """Put together what is held and the largest of the moments: step, update, embedding, saving.

    Args:
        models: all of the run.
        index: bytes of this worker's rows.
        step: what a step needs.
        sharding: how state is divided.
        keeps_gradients: room for them is there before the backward pass: they are accumulated, or
            averaged over workers in buckets.
        copies_to_save: weights are copied whole, here, before they are written.
    """
    weights = sum(_share(m.weights, sharding.weights if m.is_cut else 1) for m in models)
    gradients = sum(_share(model.gradients, sharding.gradients) for model in models)
    optimiser = sum(_share(model.optimiser, sharding.optimiser) for model in models)
    copies = sum(model.copies for model in models)
    update = max((_share(model.update, sharding.optimiser) for model in models), default=0)
    is_separate = keeps_gradients or sharding.gradients > 1
    whole = sum(model.gradients for model in models)
    made = min(whole, gradients + sharding.on_the_way)
    moments = (
        step.activations + made if is_separate else step.whole,
        gradients + max(update, min(whole, sharding.bucket)),
        # Where there is room for gradients before the backward pass, it is there now.
        step.embedding + (gradients if is_separate else 0),
        sum(model.weights for model in models) if copies_to_save else 0,
    )
    held = weights + copies + optimiser + index
    return MemoryEstimate(
        weights=weights,
        copies=copies,
        gradients=gradients,
        optimiser=optimiser,
        index=index,
        activations=max(0, max(moments) - gradients),
        peak=held + max(moments),
    )


def flat_index(rows: int, dim: int, dtype: str, *, has_first_pass: bool, is_mapped: bool) -> int:
    """Bytes in memory of a shard that is searched exactly.

    Args:
        rows: of this worker.
        dim: of the embeddings.
        dtype: `--index_dtype`.
        has_first_pass: int8 codes stand beside float32 vectors.
        is_mapped: vectors lie in a file and are read as they are needed.
    """
    vectors = 0 if is_mapped or dtype != "fp32" else 4 * dim * rows
    if dtype in ("bf16", "fp16"):
        return vectors + 2 * dim * rows
    has_int8 = dtype == "int8" or has_first_pass
    padded = -(-dim // 8) * 8
    return vectors + (rows * padded + 4 * (rows // GROUP_ROWS) if has_int8 else 0)


def extended(first: int, second: int, count: int) -> int:
    """The `count`-th of numbers that grow by the same step each, from the first two."""
    return first + (count - 1) * (second - first)


def extended_square(values: Sequence[int], place: float) -> int:
    """A parabola through the values at 1, 2 and 3, at another place."""
    first, second, third = values
    step, bend = second - first, third - 2 * second + first
    return round(first + (place - 1) * step + (place - 1) * (place - 2) / 2 * bend)


def _share(size: int, workers: int) -> int:
    return -(-size // workers)
