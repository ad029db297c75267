"""What travels inside a dense run: frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gazetteer.records import TokenLists


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseBatch:
    """What one rank learns from at once; ranks may have different numbers of queries, or none.

    Attributes:
        examples: numbers of the lines behind it, one per query.
        query_tokens: ids of each query, special tokens included, unpadded.
        passage_tokens: ids of the passages, as many for each query: its positive, then its
            negatives; then those of the next query.
        teacher_scores: what a teacher thinks of each query's own passages, float32, on the CPU;
            None where no loss asks for it.
    """

    examples: tuple[int, ...]
    query_tokens: TokenLists
    passage_tokens: TokenLists
    teacher_scores: Float[Tensor, "query passage"] | None = None
