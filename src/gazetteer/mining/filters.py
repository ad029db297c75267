"""Negatives that are none: each filter is a function that says which candidates may stay.

About candidates a collection says less than it seems: what nobody judged may well answer the query.
A filter here returns one bool per candidate, True where it may stay; counting is `Filters`' matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from gazetteer.ir.records import Candidate
from gazetteer.metrics.ranking import has_answer, word_tokens

PERCENT_OF_POSITIVE = 0.05
"""Margin below the positive's score: TopK-PercPos with 95 %, the best setting of its paper."""
CONFIDENT_NEGATIVE = 0.1
"""Probability of relevance under which RocketQA takes a passage for a negative."""

JUDGED = "judged relevant"
DUPLICATE = "same text as a positive or an earlier negative"
NEAR_POSITIVE = "scored too close to the positive"
CROSS_ENCODER = "relevant to the cross-encoder"
HAS_ANSWER = "holds an answer"
REASONS = (JUDGED, NEAR_POSITIVE, DUPLICATE, HAS_ANSWER, CROSS_ENCODER)
"""Why a candidate is dropped; for a candidate with several, the first of these counts."""

PairScores = Callable[["Asked", Sequence[Candidate]], Sequence[float | None]]
"""Relevance of each candidate to a query, higher is better; None where unknown."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What filters know of a query.

    Attributes:
        query_id: of the query.
        text: of the query.
        positives: all of them; with text where a filter reads texts, with the score of the run
            that candidates come from where it has one.
        answers: strings that a negative must not hold; may be empty.
    """

    query_id: str
    text: str
    positives: tuple[Candidate, ...]
    answers: tuple[str, ...] = ()

    @property
    def positive_score(self) -> float | None:
        """The best score of a positive; None where none has one."""
        scores = (candidate.score for candidate in self.positives)
        return max((score for score in scores if score is not None), default=None)


def not_judged(candidates: Sequence[Candidate], relevant: Collection[str]) -> list[bool]:
    """Drop every passage judged relevant, whatever type its id had in the file."""
    return [candidate.id not in relevant for candidate in candidates]


def below_positive(
    candidates: Sequence[Candidate], positive_score: float | None, margin: float
) -> list[bool]:
    """Drop what scores above the positive's score less a share of it.

    Args:
        candidates: those without a score stay.
        positive_score: in the same run; without it all stay.
        margin: share of the positive's score; 0.05 keeps what is below 95 % of it.

    Source:
        "NV-Retriever: Improving text embedding models with effective hard-negative mining",
        TopK-PercPos, arXiv:2407.15831. There scores are positive; for a negative one the share
        is taken of its size, so that the limit is below it as well.
    """
    if positive_score is None:
        return [True] * len(candidates)
    limit = highest_allowed(positive_score, margin)
    return [candidate.score is None or candidate.score <= limit for candidate in candidates]


def highest_allowed(positive_score: float, margin: float) -> float:
    """The highest score of a negative that `below_positive` keeps."""
    return positive_score - margin * abs(positive_score)


def of_new_text(candidates: Sequence[Candidate], known: Collection[str]) -> list[bool]:
    """Drop what says the same as something known, or as an earlier candidate; empty texts stay.

    Args:
        candidates: with text.
        known: texts as `normalised` makes them.
    """
    seen = set(known)
    kept = []
    for candidate in candidates:
        text = normalised(candidate.text or "")
        kept.append(not text or text not in seen)
        seen.add(text)
    return kept


def normalised(text: str) -> str:
    """The words of a text: case, punctuation, spaces and the encoding of accents do not count."""
    return " ".join(word_tokens(text))


def without_answer(candidates: Sequence[Candidate], answers: Collection[str]) -> list[bool]:
    """Drop passages, title included, that hold one of the answers as whole words."""
    return [not has_answer(f"{c.title} {c.text or ''}", answers) for c in candidates]


def scored_below(scores: Sequence[float | None], threshold: float) -> list[bool]:
    """Drop what scores at or above a threshold; what has no score stays."""
    return [score is None or score < threshold for score in scores]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which filters are in use beside that of judged passages, and with what settings.

    Attributes:
        margin: see `below_positive`; None leaves it out.
        drops_duplicates: see `of_new_text`.
        drops_answers: see `without_answer`.
        pair_scores: what scores pairs; None leaves that filter out.
        threshold: for those scores.
    """

    margin: float | None = None
    drops_duplicates: bool = False
    drops_answers: bool = False
    pair_scores: PairScores | None = None
    threshold: float = CONFIDENT_NEGATIVE

    @property
    def reads_texts(self) -> bool:
        """Whether candidates need their text."""
        return self.drops_duplicates or self.drops_answers or self.pair_scores is not None

    def apply(
        self, asked: Asked, candidates: Sequence[Candidate], kept: Sequence[Candidate] = ()
    ) -> tuple[list[Candidate], Counter[str]]:
        """The candidates that stay, in their order, and how many were dropped for each reason.

        Args:
            asked: the query.
            candidates: judged ones are out already.
            kept: of the same query, from before.
        """
        dropped: Counter[str] = Counter()
        left = list(candidates)

        def keep(reason: str, verdicts: Sequence[bool]) -> None:
            nonlocal left
            dropped[reason] += len(verdicts) - sum(verdicts)
            left = [candidate for candidate, stays in zip(left, verdicts, strict=True) if stays]

        if self.margin is not None:
            keep(NEAR_POSITIVE, below_positive(left, asked.positive_score, self.margin))
        if self.drops_duplicates:
            known = {normalised(c.text or "") for c in (*asked.positives, *kept)}
            keep(DUPLICATE, of_new_text(left, known))
        if self.drops_answers:
            keep(HAS_ANSWER, without_answer(left, asked.answers))
        if self.pair_scores is not None and left:
            keep(CROSS_ENCODER, scored_below(self.pair_scores(asked, left), self.threshold))
        return left, dropped
