"""What travels inside a dense run: frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from gazetteer.records import TokenLists


@dataclass(frozen=True, slots=True)
class BatchKeys:
    """By what passages of a batch are known, see `known_positives.py`; int64, on the CPU.

    Attributes:
        passages: two keys of each passage of the batch.
        positives: keys of everything that is known to answer each query.
    """

    passages: Int[Tensor, "passage 2"]
    positives: Int[Tensor, "query key"]


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
        keys: None where all other passages are negatives.
    """

    examples: tuple[int, ...]
    query_tokens: TokenLists
    passage_tokens: TokenLists
    teacher_scores: Float[Tensor, "query passage"] | None = None
    keys: BatchKeys | None = None

    @property
    def target_tokens(self) -> None:
        """Nothing is read."""
        return None
