"""What `--dry_run` says about memory: options -> the figures of memory_estimate.py, in words."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import torch

from gazetteer import build
from gazetteer.dry_run_models import (
    ModelSize,
    reader_config,
    reader_source,
    retriever_source,
)
from gazetteer.index import shard_range
from gazetteer.index.codec import Codec
from gazetteer.index.flat import FEWEST_ROWS
from gazetteer.index.rounded_rows import has_first_pass
from gazetteer.memory_estimate import (
    MemoryEstimate,
    ModelMemory,
    Sharding,
    StepMemory,
    estimate,
    flat_index,
)
from gazetteer.options import Options
from gazetteer.records import Ranks
from gazetteer.sharding_options import shards
from gazetteer.step_on_meta import build_on_meta, measure_step
from gazetteer.task_names import DENSE

GIB = 2**30
BYTES_PER_WEIGHT = {"fp32": 4, "fp16": 2, "bf16": 2}


def index_memory(
    options: Options, ranks: Ranks, passages: int, dim: int, codec: Codec | None
) -> int:
    """Bytes of this worker's shard, or of two versions of it where a refresh makes another."""
    rows = len(shard_range(passages, 0, ranks.world_size))
    versions = 2 if _is_refreshed(options) and not ranks.set_aside else 1
    if codec is not None:
        return versions * rows * codec.row_bytes
    on_cpu = ranks.device.type == "cpu"
    return versions * flat_index(
        rows,
        dim,
        options.index.index_dtype,
        has_first_pass=rows >= FEWEST_ROWS and has_first_pass(ranks.device),
        is_mapped=on_cpu and options.index.load_index_path is not None and versions == 1,
    )


def memory_lines(
    options: Options, ranks: Ranks, models: Mapping[str, ModelSize | None], index: int
) -> Iterator[str]:
    """What one worker needs at its largest moment, and what that is made of."""
    found, is_whole = estimate_memory(options, ranks, models, index)
    parts = {
        "weights": found.weights,
        "their copies": found.copies,
        "gradients": found.gradients,
        "optimiser": found.optimiser,
        "index": found.index,
        "activations": found.activations,
    }
    named = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size)
    aside = "" if is_whole else ", activations aside"
    room = f"{found.peak / GIB:.2f} GiB of {_memory(ranks):.1f} GiB"
    yield f"memory per worker{aside}: {room} ({named})"


def estimate_memory(
    options: Options, ranks: Ranks, models: Mapping[str, ModelSize | None], index: int
) -> tuple[MemoryEstimate, bool]:
    """Memory of one worker.

    Args:
        options: of the run.
        ranks: this process among its peers.
        models: what was found of each by name; None where the run does without.
        index: bytes of this worker's rows.

    Returns:
        The estimate, and whether activations are in it: those of a compressor, of a teacher, and
        of `--task dense` are not.
    """
    workers, optimisation = ranks.world_size, options.optimisation
    spread = workers if shards(options) else 1
    # All other backends divide gradients as well.
    keeps_all = options.sharding.shard_backend == "zero" and not optimisation.shard_grads
    sharding = Sharding(
        optimiser=spread,
        gradients=1 if keeps_all else spread,
        weights=workers if options.sharding.shard_params else 1,
    )
    is_usual = models["compressor"] is None and models["teacher"] is None
    is_usual = is_usual and options.task.task != DENSE
    if is_usual:
        held, step = _on_meta(options, ranks, models)
    else:
        held, step = _counted(options, models), StepMemory()
    found = estimate(
        held,
        index=index,
        step=step,
        sharding=sharding,
        keeps_gradients=workers > 1 or _accumulates(options, workers),
    )
    return found, is_usual


def _on_meta(
    options: Options, ranks: Ranks, models: Mapping[str, ModelSize | None]
) -> tuple[list[ModelMemory], StepMemory]:
    checkpoint = build.model_folder(options)
    config = None
    if models["reader"] is not None:
        atlas = build.open_atlas(options, checkpoint)
        config = reader_config(reader_source(options, checkpoint, atlas))
    retriever = None if models["retriever"] is None else retriever_source(options, checkpoint)
    on_meta = build_on_meta(options, ranks, config, retriever)
    held = on_meta.memory(index_keeps_encoder=bool(options.data.train_data))
    return held, measure_step(options, ranks, on_meta)


def _counted(options: Options, models: Mapping[str, ModelSize | None]) -> list[ModelMemory]:
    """Models by their number of weights alone, all of which are taken to learn if any does."""
    trains = bool(options.data.train_data)
    learns = {
        "reader": trains,
        "compressor": trains,
        "retriever": trains and options.retriever.train_retriever,
        "teacher": options.lead.train_teacher,
    }
    size = BYTES_PER_WEIGHT[options.optimisation.precision]
    return [
        ModelMemory(
            weights=model.weights * size,
            trained=model.weights if learns[name] else 0,
            is_half=size < 4,
            is_cut=name == "reader",
        )
        for name, model in models.items()
        if model is not None
    ]


def _accumulates(options: Options, workers: int) -> bool:
    """Whether an update has several backward passes."""
    at_once, size = workers * options.data.per_gpu_batch_size, options.data.global_batch_size
    return options.optimisation.accumulation_steps > 1 or (size or 0) > at_once


def _is_refreshed(options: Options) -> bool:
    can_age = not options.retriever.query_side_retriever_training
    learns = bool(options.data.train_data) and options.retriever.train_retriever
    return learns and can_age and options.index.refresh_index != "-1"


def _memory(ranks: Ranks) -> float:
    if ranks.device.type == "cuda":
        return torch.cuda.get_device_properties(ranks.device).total_memory / GIB
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return pages / GIB / ranks.local_world_size
