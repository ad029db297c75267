"""What `--dry_run` says about memory: options -> the figures of memory_estimate.py, in words."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from gazetteer.distributed.owned_gradients import MOST_ON_THE_WAY
from gazetteer.distributed.ownership import BUCKET_BYTES
from gazetteer.index import shard_range
from gazetteer.index.codec import Codec
from gazetteer.index.flat import FEWEST_ROWS
from gazetteer.index.rounded_rows import has_first_pass
from gazetteer.memory_estimate import (
    MemoryEstimate,
    RunMemory,
    Sharding,
    estimate,
    flat_index,
)
from gazetteer.options import Options
from gazetteer.records import Ranks
from gazetteer.sharding_options import shards
from gazetteer.task_names import DENSE

GIB = 2**30


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


def memory_lines(options: Options, ranks: Ranks, measured: RunMemory, index: int) -> Iterator[str]:
    """What one worker needs at its largest moment, and what that is made of."""
    found = estimate_memory(options, ranks, measured, index)
    parts = {
        "weights": found.weights,
        "their copies": found.copies,
        "gradients": found.gradients,
        "optimiser": found.optimiser,
        "index": found.index,
        "activations": found.activations,
    }
    named = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size)
    room = f"{found.peak / GIB:.2f} GiB of {_memory(ranks):.1f} GiB"
    yield f"memory per worker: {room} ({named})"


def estimate_memory(
    options: Options, ranks: Ranks, measured: RunMemory, index: int
) -> MemoryEstimate:
    """Memory of one worker.

    Args:
        options: of the run.
        ranks: this process among its peers.
        measured: models and step.
        index: bytes of this worker's rows.
    """
    workers, optimisation = ranks.world_size, options.optimisation
    spread = workers if shards(options) else 1
    backend = options.sharding.shard_backend
    # All other backends divide gradients as well.
    keeps_all = backend == "zero" and not optimisation.shard_grads
    cuts = backend == "fsdp2" and workers > 1
    sharding = Sharding(
        optimiser=spread,
        gradients=1 if keeps_all else spread,
        weights=workers if options.sharding.shard_params else 1,
        bucket=BUCKET_BYTES if spread > 1 else 0,
        on_the_way=(MOST_ON_THE_WAY + 1) * BUCKET_BYTES if backend == "zero" else 0,
    )
    return estimate(
        measured.models,
        index=index,
        step=measured.step,
        sharding=sharding,
        keeps_gradients=workers > 1 or _accumulates(options, workers),
        # A GPU's are copied to the memory of the host.
        copies_to_save=ranks.device.type == "cpu" and (cuts or options.sharding.async_save),
    )


def _accumulates(options: Options, workers: int) -> bool:
    """Whether an update has several backward passes."""
    at_once, size = workers * options.data.per_gpu_batch_size, options.data.global_batch_size
    is_cut = options.task.task != DENSE and (size or 0) > at_once
    return is_cut or options.optimisation.accumulation_steps > 1


def _is_refreshed(options: Options) -> bool:
    can_age = not options.retriever.query_side_retriever_training
    learns = bool(options.data.train_data) and options.retriever.train_retriever
    return learns and can_age and options.index.refresh_index != "-1"


def _memory(ranks: Ranks) -> float:
    if ranks.device.type == "cuda":
        return torch.cuda.get_device_properties(ranks.device).total_memory / GIB
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return pages / GIB / ranks.local_world_size
