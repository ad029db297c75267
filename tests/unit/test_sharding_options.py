"""What can be spread over the workers, and what is refused before anything starts."""

from __future__ import annotations

import pytest

from gazetteer.flags import with_values
from gazetteer.options import Options
from gazetteer.sharding_options import sharding_rules, shards


def problems(**values: object) -> list[str]:
    """What the rules say about options with these values."""
    return list(sharding_rules(with_values(Options(), values)))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"shard_backend": "fsdp2"}, "must come with --shard_optim, --shard_grads or"),
        ({"shard_params": True}, "--shard_params must come with --shard_backend fsdp2, not zero"),
        ({"shard_optim": True, "shard_backend": "fsdp2", "reader_lora_rank": 2}, "use zero"),
        ({"shard_optim": True, "shard_backend": "fsdp2", "compressor": "pool"}, "use zero"),
        ({"shard_grads": True, "task": "dense"}, "--task dense must come with --shard_optim"),
        ({"async_save": True, "task": "dense", "train_teacher": True}, "with --train_teacher"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(
    values: dict[str, object], problem: str
) -> None:
    (found,) = problems(**values)
    assert problem in found and "\n" not in found


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"shard_optim": True, "shard_grads": True},
        {"shard_params": True, "shard_backend": "fsdp2", "async_save": True},
        {"shard_optim": True, "task": "dense"},
        {"shard_grads": True, "compressor": "pool"},
    ],
)
def test_what_goes_together_is_let_through(values: dict[str, object]) -> None:
    assert problems(**values) == []
    assert shards(with_values(Options(), values)) == bool(values)
