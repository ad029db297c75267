"""Answer metrics against golden values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazetteer.metrics import accuracy, exact_match, f1, normalize_answer


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("a an the", ""),
        ("Theatre of an Anthem", "theatre of anthem"),
        ("U.S.A.", "usa"),
        ("Jay-Z", "jayz"),
        ("\tnew\nline ", "new line"),
        ("the-end", "theend"),
        ("it's $5,000", "its 5000"),
        ("“curly” — dash", "“curly” — dash"),
        ("“the”", "“ ”"),
        ("ÉCOLE", "école"),
        ("", ""),
    ],
)
def test_normalisation_is_that_of_squad(text, normalized):
    assert normalize_answer(text) == normalized


@given(st.text(max_size=30))
def test_normalisation_leaves_no_space_at_the_ends_or_doubled(text):
    normalized = normalize_answer(text)
    assert normalized == " ".join(normalized.split())


@pytest.mark.parametrize(
    ("prediction", "answers", "value"),
    [
        ("the Beatles", ["Beatles"], 1.0),
        ("Beatles.", ["Rolling Stones", "The Beatles"], 1.0),
        ("Beatle", ["Beatles"], 0.0),
        ("the", [""], 1.0),
    ],
)
def test_exact_match_takes_the_best_answer_after_normalisation(prediction, answers, value):
    assert exact_match(prediction, answers) == value


@pytest.mark.parametrize(
    ("prediction", "answers", "value"),
    [
        ("the cat sat", ["cat sat"], 1.0),
        ("cat sat on mat", ["cat sat"], 2 / 3),
        ("cat cat", ["cat"], 2 / 3),
        ("cat cat dog", ["cat dog dog"], 2 / 3),
        ("dog", ["cat", "hot dog"], 2 / 3),
        ("dog", ["cat"], 0.0),
        ("", [""], 0.0),
        ("the", ["a"], 0.0),
        ("", ["cat"], 0.0),
    ],
)
def test_f1_takes_the_best_answer_as_bags_of_words(prediction, answers, value):
    assert f1(prediction, answers) == pytest.approx(value)


@pytest.mark.parametrize(
    ("prediction", "answers", "value"),
    [("true", ["true"], 1.0), ("True", ["true"], 0.0), ("B", ["A", "B"], 1.0)],
)
def test_accuracy_is_to_the_letter(prediction, answers, value):
    assert accuracy(prediction, answers) == value


@pytest.mark.parametrize("metric", [accuracy, exact_match, f1])
def test_values_are_floats(metric):
    assert type(metric("yes", ["yes"])) is float
    assert type(metric("yes", ["no"])) is float


@pytest.mark.parametrize("metric", [accuracy, exact_match, f1])
def test_example_without_answers_has_no_score(metric):
    with pytest.raises(ValueError, match="answers must not be empty"):
        metric("yes", [])


@given(st.text(alphabet="abc the,.", max_size=12), st.text(alphabet="abc the,.", max_size=12))
def test_f1_is_symmetric_and_one_for_equal_words(prediction, answer):
    assert f1(prediction, [answer]) == pytest.approx(f1(answer, [prediction]))
    if normalize_answer(prediction):
        assert f1(prediction, [prediction]) == 1.0
