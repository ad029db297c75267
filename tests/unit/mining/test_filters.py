"""Each filter drops what it is for and nothing else, and is counted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gazetteer.ir.records import Candidate
from gazetteer.mining.filters import (
    CROSS_ENCODER,
    DUPLICATE,
    HAS_ANSWER,
    NEAR_POSITIVE,
    Asked,
    Filters,
    below_positive,
    not_judged,
    of_new_text,
    scored_below,
    without_answer,
)


def passage(name: str, score: float | None = None, text: str = "", title: str = "") -> Candidate:
    return Candidate(name, score, None, "run", title, text)


def test_every_judged_passage_is_dropped() -> None:
    candidates = [passage("7"), passage("07"), passage("8")]
    assert not_judged(candidates, {"7", "8"}) == [False, True, False]


@pytest.mark.parametrize(
    ("positive", "scores", "expected"),
    [
        (10.0, [9.51, 9.5, 3.0, 11.0, None], [False, True, True, False, True]),
        # 95 % of a negative score is above it, and would let everything pass.
        (-10.0, [-10.0, -10.4, -10.5, 1.0], [False, False, True, False]),
        (0.0, [0.0, 0.1], [True, False]),
        (None, [99.0], [True]),
    ],
)
def test_margin_below_the_positive(
    positive: float | None, scores: list[float | None], expected: list[bool]
) -> None:
    candidates = [passage(str(n), score) for n, score in enumerate(scores)]
    assert below_positive(candidates, positive, 0.05) == expected


def test_texts_are_compared_by_their_words() -> None:
    texts = ["Caf\u00e9, au lait!", "cafe\u0301 AU lait", "cafe au lait", "", "!", "known"]
    candidates = [passage(str(n), text=text) for n, text in enumerate(texts)]
    assert of_new_text(candidates, {"known"}) == [True, False, True, True, True, False]


def test_answers_are_whole_words_in_text_or_title() -> None:
    candidates = [
        passage("1", text="the city of Paris."),
        passage("2", text="comparison"),
        passage("3", title="PARIS"),
    ]
    assert without_answer(candidates, ["paris"]) == [False, True, False]
    assert without_answer(candidates, []) == [True] * 3


def test_threshold_on_scores_of_pairs() -> None:
    assert scored_below([0.09, 0.1, None, 0.9], 0.1) == [True, False, True, False]


def test_a_candidate_is_counted_for_the_first_reason_that_drops_it() -> None:
    def relevance(asked: Asked, candidates: Sequence[Candidate]) -> list[float]:
        assert asked.text == "where"
        return [0.9 if candidate.id == "relevant" else 0.0 for candidate in candidates]

    positives = (passage("p", 10.0, "the river"), passage("q", 12.0, "the lake"))
    asked = Asked("1", "where", positives, ("oslo",))
    candidates = [
        passage("close", 11.9, "the river"),
        passage("same", 2.0, "The River"),
        passage("kept before", 2.0, "red"),
        passage("answer", 2.0, "in Oslo"),
        passage("relevant", 2.0, "blue"),
        passage("good", 2.0, "green"),
        passage("again", 2.0, "green"),
    ]
    filters = Filters(margin=0.05, drops_duplicates=True, drops_answers=True, pair_scores=relevance)
    kept, dropped = filters.apply(asked, candidates, [passage("k", 2.0, "red")])
    assert [candidate.id for candidate in kept] == ["good"]
    assert dropped == {NEAR_POSITIVE: 1, DUPLICATE: 3, HAS_ANSWER: 1, CROSS_ENCODER: 1}


def test_without_filters_all_stay() -> None:
    candidates = [passage("1", 5.0, "x"), passage("2", 9.0, "x")]
    kept, dropped = Filters().apply(Asked("1", "q", ()), candidates)
    assert kept == candidates
    assert not dropped.total()
