"""How good a list of hits is: answer found, recall at k, reciprocal rank.

A judged list is one bool per hit, best hit first: is this passage relevant? Graded relevance and
run files are elsewhere.
"""

import unicodedata
from collections.abc import Collection, Sequence


class _WordCharacters(dict[int, int]):
    """Translation table that keeps letters, marks and numbers, and blanks the rest."""

    def __missing__(self, code: int) -> int:
        is_word = unicodedata.category(chr(code))[0] in "LMN"
        self[code] = code if is_word else ord(" ")
        return self[code]


_WORD_CHARACTERS = _WordCharacters()


def word_tokens(text: str) -> list[str]:
    """Split text into lower-case words: runs of letters, marks and numbers, in NFD form."""
    return unicodedata.normalize("NFD", text).translate(_WORD_CHARACTERS).lower().split()


def has_answer(text: str, answers: Collection[str]) -> bool:
    """Say whether the words of an answer occur in the text, one after the other.

    An answer without a word, such as an emoji, never occurs. Accents count; case, punctuation and
    the way accents are encoded do not.

    Source:
        "Dense Passage Retrieval for Open-Domain Question Answering", arXiv:2004.04906, which
        also wants the punctuation between the words to be equal.
    """
    haystack = _spaced(word_tokens(text))
    wanted = (word_tokens(answer) for answer in answers)
    return any(_spaced(tokens) in haystack for tokens in wanted if tokens)


def first_relevant_position(is_relevant: Sequence[bool]) -> int | None:
    """Position of the first relevant hit, 1 being the best; None if there is none."""
    return next((position for position, good in enumerate(is_relevant, 1) if good), None)


def recall_at(judged_lists: Sequence[Sequence[bool]], ks: Sequence[int]) -> dict[int, float]:
    """Share of queries with a relevant passage among their first k hits, for each k.

    This is what open-domain question answering calls R@k, or accuracy at k. A list shorter than
    k counts with what it has.

    Args:
        judged_lists: one per query.
        ks: each >= 1.

    Returns:
        0..1 by k, in the order given.

    Raises:
        ValueError: there are no queries, or a k is not positive.
    """
    if any(k < 1 for k in ks):
        raise ValueError(f"ks must be positive, got {list(ks)}")
    positions = _first_positions(judged_lists)
    return {
        k: sum(position is not None and position <= k for position in positions) / len(positions)
        for k in ks
    }


def mean_reciprocal_rank(
    judged_lists: Sequence[Sequence[bool]], cutoff: int | None = None
) -> float:
    """Average over queries of 1 / position of the first relevant hit, 0 where there is none.

    Args:
        judged_lists: one per query.
        cutoff: hits after this position do not count (10 for MRR@10); None counts all.

    Returns:
        0..1.

    Raises:
        ValueError: there are no queries, or the cutoff is not positive.
    """
    if cutoff is not None and cutoff < 1:
        raise ValueError(f"cutoff must be positive, got {cutoff}")
    positions = _first_positions(judged_lists)
    counted = (p for p in positions if p is not None and (cutoff is None or p <= cutoff))
    return sum(1 / position for position in counted) / len(positions)


def _first_positions(judged_lists: Sequence[Sequence[bool]]) -> list[int | None]:
    if not judged_lists:
        raise ValueError("judged_lists must not be empty")
    return [first_relevant_position(is_relevant) for is_relevant in judged_lists]


def _spaced(tokens: list[str]) -> str:
    """Spaces around every word, so that no match starts or ends inside one."""
    return f" {' '.join(tokens)} "
