"""Flags of decoder-only readers, and of readers that learn by adapters."""

# ruff: noqa: RUF009 - `flag` makes a dataclass field, which the linter cannot see.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gazetteer.flags import flag, flags_of

if TYPE_CHECKING:
    from gazetteer.options import Options


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalOptions:
    """Causal: decoder-only readers, which read passages in front of the question."""

    reader_prefix: str | None = flag(
        None,
        "decoder-only: text before the passages; none = the chat template's head, if any (new)",
    )
    reader_lora_rank: int = flag(
        0, "any reader: learn by adapters of this rank, weights frozen; 0 = no (new)"
    )
    reader_lora_alpha: float | None = flag(
        None, "adapters count alpha / rank times; none = twice the rank (new)"
    )
    reader_lora_dropout: float = flag(0.0, "of what goes into adapters (new)")
    reader_lora_modules: list[str] = flag(
        [], "ends of the names of adapted layers; none = all linear ones (new)", metavar="NAME"
    )


def causal_remarks(options: Options) -> Iterator[str]:
    """Flags of adapters that do nothing."""
    rank = options.causal.reader_lora_rank
    if rank and not options.data.train_data:
        yield f"reader_lora_rank {rank}: no effect without train_data"
    for each in flags_of(CausalOptions):
        value = getattr(options.causal, each.name)
        if each.name.startswith("reader_lora_") and not rank and value != each.default:
            yield f"{each.name} {value}: no effect without reader_lora_rank"
