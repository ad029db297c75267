"""How good one predicted answer is: exact match, F1, accuracy.

ROUGE (rouge.py) and averages over examples are elsewhere.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Remove what does not matter: case, ASCII punctuation, English articles, extra spaces.

    Source:
        The evaluation script of SQuAD 1.1, arXiv:1606.05250; the same in Atlas.
    """
    without_punctuation = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", without_punctuation).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction equals one of the answers after `normalize_answer`, else 0.0.

    Raises:
        ValueError: there are no answers; an example without answers has no score.
    """
    normalized = normalize_answer(prediction)
    return _best(lambda answer: float(normalize_answer(answer) == normalized), answers)


def f1(
    prediction: str,
    answers: Sequence[str],
    normalize: Callable[[str], str] = normalize_answer,
) -> float:
    """Overlap with the closest answer, as bags of normalized words: 2 PR / (P + R).

    Args:
        prediction: one text.
        answers: what it is compared with.
        normalize: applied to both before they are split into words at white space.

    Returns:
        0..1; 0 without a common word, so also for two empty strings.

    Raises:
        ValueError: there are no answers; an example without answers has no score.
    """
    words = Counter(normalize(prediction).split())
    return _best(lambda answer: _bag_f1(words, Counter(normalize(answer).split())), answers)


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction is one of the answers to the letter, else 0.0.

    Raises:
        ValueError: there are no answers; an example without answers has no score.
    """
    return _best(lambda answer: float(answer == prediction), answers)


def _best(score: Callable[[str], float], answers: Sequence[str]) -> float:
    if not answers:
        raise ValueError("answers must not be empty")
    return max(map(score, answers))


def _bag_f1(predicted: Counter[str], gold: Counter[str]) -> float:
    common = (predicted & gold).total()
    if common == 0:
        return 0.0
    precision, recall = common / predicted.total(), common / gold.total()
    return 2 * precision * recall / (precision + recall)
