"""Answer hits, recall at k, reciprocal rank."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazetteer.metrics import has_answer, mean_reciprocal_rank, recall_at
from gazetteer.metrics.ranking import first_relevant_position, word_tokens

JUDGED = [
    [True, False, False],
    [False, False, True],
    [False, False, False],
    [False, True, True],
]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The U.S.A., 1776!", ["the", "u", "s", "a", "1776"]),
        ("snake_case don't", ["snake", "case", "don", "t"]),
        ("caf\u00e9", ["cafe\u0301"]),
        ("東京タワー", ["東京タワー"]),
        ("x\u00a0y\u200bz\nw", ["x", "y", "z", "w"]),
        ("🎉 !?", []),
    ],
)
def test_words_are_runs_of_letters_marks_and_numbers(text, tokens):
    assert word_tokens(text) == tokens


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("He was born in New York City.", "new york", True),
        ("He was born in NEW  YORK", "New York", True),
        ("new things in york", "New York", False),
        ("york new", "New York", False),
        ("concatenate", "cat", False),
        ("the cats", "cat", False),
        ("a wildcat", "cat", False),
        ("a 1,000 men", "1,000", True),
        ("in 10000 ways", "1000", False),
        ("Beyonc\u00e9 sang", "Beyonce\u0301", True),
        ("Beyonc\u00e9 sang", "Beyonce", False),
        ("ends with answer", "answer", True),
        ("", "answer", False),
        ("🎉 party 🎉", "🎉", False),
        ("anything", "", False),
        ("", "", False),
        ("anything", "...", False),
    ],
)
def test_answer_is_found_as_contiguous_words(text, answer, found):
    assert has_answer(text, [answer]) is found


def test_any_answer_will_do_and_no_answers_never_do():
    assert has_answer("the capital is Paris", ["Lyon", "Paris"])
    assert not has_answer("the capital is Paris", [])


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_answer_between_other_words_is_found_however_it_is_encoded(before, answer, after):
    text = unicodedata.normalize("NFC", f"{before} {answer} {after}")
    assert has_answer(text, [answer]) is bool(word_tokens(answer))


@pytest.mark.parametrize(("is_relevant", "position"), [*zip(JUDGED, [1, 3, None, 2], strict=True)])
def test_first_relevant_position_counts_from_one(is_relevant, position):
    assert first_relevant_position(is_relevant) == position


def test_recall_is_the_share_of_queries_with_a_relevant_hit():
    assert recall_at(JUDGED, [1, 2, 3, 100]) == {1: 0.25, 2: 0.5, 3: 0.75, 100: 0.75}


def test_reciprocal_rank_is_averaged_over_all_queries():
    assert mean_reciprocal_rank(JUDGED) == pytest.approx((1 + 1 / 3 + 0 + 1 / 2) / 4)


def test_reciprocal_rank_ignores_hits_beyond_the_cutoff():
    assert mean_reciprocal_rank(JUDGED, cutoff=2) == pytest.approx((1 + 1 / 2) / 4)
    assert mean_reciprocal_rank(JUDGED, cutoff=1) == 0.25


def test_query_without_hits_counts_as_a_miss():
    assert recall_at([[], [True]], [1]) == {1: 0.5}
    assert mean_reciprocal_rank([[], [True]]) == 0.5


def test_no_queries_have_no_average():
    with pytest.raises(ValueError, match="judged_lists"):
        recall_at([], [1])
    with pytest.raises(ValueError, match="judged_lists"):
        mean_reciprocal_rank([])


def test_cutoffs_must_be_positive():
    with pytest.raises(ValueError, match=r"ks must be positive, got \[1, 0\]"):
        recall_at(JUDGED, [1, 0])
    with pytest.raises(ValueError, match="cutoff must be positive, got 0"):
        mean_reciprocal_rank(JUDGED, cutoff=0)
