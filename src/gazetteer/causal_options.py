"""Flags of decoder-only readers, and of readers that learn by adapters."""

from __future__ import annotations

from dataclasses import dataclass

from gazetteer.flags import flag


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalOptions:
    """Causal: decoder-only readers, which read passages in front of the question."""

    reader_prefix: str | None = flag(
        None,
        "decoder-only: text before the passages; none = the chat template's head, if any (new)",
    )
