"""Flags of the retriever's towers: what makes an embedding, and which weights learn it."""

# ruff: noqa: RUF009 - `flag` makes a dataclass field, which the linter cannot see.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gazetteer.flags import flag
from gazetteer.task_names import DENSE

if TYPE_CHECKING:
    from gazetteer.options import Options


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerOptions:
    """Towers: what makes an embedding, and which weights learn it."""

    encoder_only: bool = flag(
        False, "T5: pool the encoder's states; otherwise the decoder's first token is taken (new)"
    )
    add_linear_head: bool = flag(False, "project embeddings, before they are normalised (new)")
    projection_in_dim: int | None = flag(None, "of the linear head; none = the model's width (new)")
    projection_out_dim: int | None = flag(
        None, "length of embeddings with a linear head; none = the model's width (new)"
    )
    lora_rank: int = flag(0, "learn by adapters of this rank, weights frozen; 0 = no (new)")
    lora_alpha: float | None = flag(
        None, "adapters count alpha / rank times; none = twice the rank (new)"
    )
    lora_target: Literal["both", "query", "passage"] = flag(
        "both", "towers that get adapters; another is separate and stays as it is (new)"
    )
    lora_modules: list[str] = flag(
        [], "ends of the names of adapted layers; none = peft's for the model (new)", metavar="NAME"
    )


def tower_rules(options: Options) -> Iterator[str]:
    """What cannot be asked of the towers."""
    towers = options.towers
    for name in ("projection_in_dim", "projection_out_dim"):
        value = getattr(towers, name)
        if value is not None and not towers.add_linear_head:
            yield f"--{name} ({value}) must come with --add_linear_head"
    is_query_side = options.retriever.query_side_retriever_training
    if _adapts(options) and towers.lora_target == "passage" and is_query_side:
        yield (
            "--lora_target (passage) must not come with --query_side_retriever_training, which"
            " freezes the passage tower"
        )


def tower_overrides(options: Options) -> tuple[str, dict[str, Any]]:
    """What adapters for one tower imply for the other."""
    target = options.towers.lora_target
    if not _adapts(options) or target == "both":
        return "", {}
    implied = "query_side_retriever_training" if target == "query" else "untie_retriever"
    return f"lora_target {target}", {implied: True}


def tower_remarks(options: Options) -> Iterator[str]:
    """Flags of adapters that do nothing."""
    towers = options.towers
    if towers.lora_rank and not _adapts(options):
        yield f"lora_rank {towers.lora_rank}: no effect without train_retriever"
    given = {
        "lora_alpha": towers.lora_alpha is not None,
        "lora_target": towers.lora_target != "both",
        "lora_modules": bool(towers.lora_modules),
    }
    for name in (name for name, is_given in given.items() if is_given and not towers.lora_rank):
        yield f"{name} {getattr(towers, name)}: no effect without lora_rank"


def _adapts(options: Options) -> bool:
    trains = options.retriever.train_retriever or options.task.task == DENSE
    return options.towers.lora_rank > 0 and trains
