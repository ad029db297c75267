"""Flags of what is spread over the workers, and of how it is saved."""

# ruff: noqa: RUF009 - `flag` makes a dataclass field, which the linter cannot see.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from gazetteer.flags import flag
from gazetteer.task_names import DENSE

if TYPE_CHECKING:
    from gazetteer.options import Options

ShardBackend = Literal["zero", "fsdp2", "fairscale"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardingOptions:
    """Sharding: who spreads what does not fit, and how checkpoints are written."""

    shard_backend: ShardBackend = flag("zero", "who spreads state over the workers (new)")
    shard_params: bool = flag(False, "spread the reader's weights, too; fsdp2 only (new)")
    async_save: bool = flag(False, "write checkpoints while training goes on (new)")


def sharding_rules(options: Options) -> Iterator[str]:
    """What cannot be spread over the workers."""
    sharding, optimisation = options.sharding, options.optimisation
    backend = sharding.shard_backend
    if backend != "zero" and not shards(options):
        yield (
            f"--shard_backend ({backend}) must come with --shard_optim, --shard_grads or"
            " --shard_params"
        )
    if sharding.shard_params and backend != "fsdp2":
        yield f"--shard_params must come with --shard_backend fsdp2, not {backend}"
    if backend == "fairscale" and find_spec("fairscale") is None:
        yield "--shard_backend (fairscale) needs fairscale: pip install gazetteer[fairscale]"
    if options.task.task == DENSE:
        if optimisation.shard_grads or backend != "zero":
            yield f"--task {DENSE} must come with --shard_optim and --shard_backend zero alone"
        if sharding.async_save and options.lead.train_teacher:
            yield "--async_save must not come with --train_teacher"
    elif backend == "fsdp2":
        yield from _uncut_rules(options)


def _uncut_rules(options: Options) -> Iterator[str]:
    """Models whose layers are not called alike on all workers, or not known by their weights."""
    refused = {
        "--compressor": options.compressor.compressor,
        "--reader_lora_rank": options.causal.reader_lora_rank,
    }
    for flag_name, value in refused.items():
        if value and value != "none":
            yield f"--shard_backend (fsdp2) must not come with {flag_name}: use zero"


def sharding_remarks(options: Options) -> Iterator[str]:
    """What sharding flags imply."""
    if shards(options) and not options.optimisation.shard_optim:
        name = "shard_grads" if options.optimisation.shard_grads else "shard_params"
        yield (
            f"{name}: optimiser state is spread as well; the models clip jointly, as they do"
            " without shard_optim"
        )


def shards(options: Options) -> bool:
    """Whether anything is spread over the workers, if there are several."""
    optimisation = options.optimisation
    return optimisation.shard_optim or optimisation.shard_grads or options.sharding.shard_params
