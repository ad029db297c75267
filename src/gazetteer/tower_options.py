"""Flags of the retriever's towers: what makes an embedding, and which weights learn it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gazetteer.flags import flag

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


def tower_rules(options: Options) -> Iterator[str]:
    """What cannot be asked of the towers."""
    towers = options.towers
    for name in ("projection_in_dim", "projection_out_dim"):
        value = getattr(towers, name)
        if value is not None and not towers.add_linear_head:
            yield f"--{name} ({value}) must come with --add_linear_head"
