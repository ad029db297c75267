"""ROUGE against the library itself, by hand, and in other scripts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from gazetteer.metrics.rouge import rouge


def test_values_by_hand() -> None:
    # 3 of 4 words, 1 of 3 pairs; the longest common sequence is "the cat mat".
    scores = rouge("the cat on mat", ["the cat, mat sat!"])
    assert scores == {"rouge_1": pytest.approx(0.75), "rouge_2": pytest.approx(1 / 3),
                      "rouge_L": pytest.approx(0.75)}  # fmt: skip


def test_repeated_words_count_as_often_as_they_occur() -> None:
    assert rouge("a a a a", ["a b"])["rouge_1"] == pytest.approx(1 / 3)


def test_each_measure_takes_its_best_answer() -> None:
    scores = rouge("one two three", ["three two one", "one two"])
    assert scores["rouge_1"] == 1.0
    assert scores["rouge_2"] == pytest.approx(2 / 3)


@given(st.text(st.characters(codec="ascii")), st.text(st.characters(codec="ascii")))
def test_ascii_text_gives_the_library_s_own_values(prediction: str, answer: str) -> None:
    own = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(answer, prediction)
    assert list(rouge(prediction, [answer]).values()) == [own[n].fmeasure for n in own]


@pytest.mark.parametrize("text", ["река Москва", "Größe über alles", "北京 是 首都", "مرحبا يا"])
def test_words_of_any_script_count(text: str) -> None:
    assert rouge(text, [text])["rouge_2"] == 1.0


def test_nothing_in_common_is_zero() -> None:
    assert set(rouge("", [""]).values()) == {0.0}
    assert set(rouge("...", ["a"]).values()) == {0.0}


def test_without_answers_there_is_no_score() -> None:
    with pytest.raises(ValueError, match="answers"):
        rouge("a", [])
