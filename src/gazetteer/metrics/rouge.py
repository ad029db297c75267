"""ROUGE-1, ROUGE-2 and ROUGE-L of one prediction, by Google's `rouge-score`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from gazetteer.metrics.ranking import word_tokens

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

NAMES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_L": "rougeL"}
"""Atlas's names, and the library's."""


def rouge(prediction: str, answers: Sequence[str]) -> dict[str, float]:
    """F measures, each that of the answer for which it is best; 0 without a common word.

    Words are runs of letters, marks and numbers of any script, in lower case: for ASCII text what
    the library itself takes for words.

    Raises:
        ValueError: there are no answers; an example without answers has no score.

    Source:
        "ROUGE: A Package for Automatic Evaluation of Summaries", aclanthology.org/W04-1013.
    """
    if not answers:
        raise ValueError("answers must not be empty")
    best = _scorer().score_multi(list(answers), prediction)
    return {name: float(best[theirs].fmeasure) for name, theirs in NAMES.items()}


class _Words:
    """The library's interface for a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return word_tokens(text)


@cache
def _scorer() -> RougeScorer:
    # Imported where it is used: it brings NLTK along, which takes a second.
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(NAMES.values()), tokenizer=_Words())
