"""How good answers are, by five measures side by side, and how sure one can be of a difference.

Exact match and "the answer occurs in it" disagree wildly where answers are long, so both are
printed, with the length.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gazetteer.metrics.answers import exact_match, f1, normalize_answer
from gazetteer.metrics.bootstrap import RESAMPLES, bootstrap_interval
from gazetteer.metrics.rouge import rouge

MEASURES = ("exact_match", "token_f1", "rouge_l", "answer_match", "answer_length")
"""Shares of 1, and words."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a reader said to each question.

    Attributes:
        questions: in the order of the file.
        predictions: one for each.
        answers: gold ones, at least one for each.
    """

    questions: tuple[str, ...]
    predictions: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]

    def measured(self) -> dict[str, np.ndarray]:
        """By measure, float64 (question)."""
        rows = [measure(p, a) for p, a in zip(self.predictions, self.answers, strict=True)]
        return {name: np.array([row[name] for row in rows]) for name in MEASURES}


def measure(prediction: str, answers: Sequence[str]) -> dict[str, float]:
    """All measures of one prediction, the best over the answers."""
    return {
        "exact_match": exact_match(prediction, answers),
        "token_f1": f1(prediction, answers),
        "rouge_l": rouge(prediction, answers)["rouge_L"],
        "answer_match": answer_match(prediction, answers),
        "answer_length": float(len(prediction.split())),
    }


def answer_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if an answer occurs in the prediction, whole words after normalisation, else 0.0.

    An answer of which nothing is left never occurs.
    """
    said = f" {normalize_answer(prediction)} "
    wanted = (normalize_answer(answer) for answer in answers)
    return float(any(f" {words} " in said for words in wanted if words))


def read_answers(path: Path) -> Answered:
    """What `--write_results` wrote."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return Answered(
        tuple(record["query"] for record in records),
        tuple(record["generation"] for record in records),
        tuple(tuple(record["answers"]) for record in records),
    )


def averages(measured: Mapping[str, np.ndarray]) -> dict[str, float]:
    """By measure."""
    return {name: float(values.mean()) for name, values in measured.items()}


def intervals(measured: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """95 % bootstrap interval of each average."""
    return {name: bootstrap_interval(values) for name, values in measured.items()}


def difference_interval(values: np.ndarray, baseline: np.ndarray) -> tuple[float, float]:
    """95 % interval of the average difference to a baseline on the same questions.

    Args:
        values: float64 (question).
        baseline: likewise, paired.
    """
    return bootstrap_interval(values - baseline)


def ratio_interval(values: np.ndarray, baseline: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of the ratio of two averages, the questions drawn together.

    Args:
        values: float64 (question), not negative.
        baseline: likewise, paired.

    Returns:
        None where a resampled baseline is nothing but zeros.
    """
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    below = baseline[drawn].mean(axis=1)
    if not below.all():
        return None
    low, high = np.quantile(values[drawn].mean(axis=1) / below, [0.025, 0.975])
    return float(low), float(high)
