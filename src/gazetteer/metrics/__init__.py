"""How good a prediction (answers.py) or a list of hits (ranking.py) is, in plain floats."""

from gazetteer.metrics.answers import accuracy, exact_match, f1, normalize_answer
from gazetteer.metrics.ranking import has_answer, mean_reciprocal_rank, recall_at

__all__ = [
    "accuracy",
    "exact_match",
    "f1",
    "has_answer",
    "mean_reciprocal_rank",
    "normalize_answer",
    "recall_at",
]
