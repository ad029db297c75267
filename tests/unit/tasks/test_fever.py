"""Claims: the prompt, the words for the labels, and lines without a label."""

import random

import pytest

from gazetteer.data.jsonl import BadLineError, check_fields
from gazetteer.tasks import TASKS

TASK = TASKS["fever"]()


@pytest.mark.parametrize(
    ("label", "word"), [("SUPPORTS", "true"), ("REFUTES", "false"), ("NOT ENOUGH INFO", "maybe")]
)
def test_a_claim_becomes_a_question_and_its_label_a_word(label: str, word: str) -> None:
    line = {"claim": "Oslo {is} in Norway.", "label": label, "id": 7, "metadata": {"a": 1}}
    example = TASK.example(line, 3, random.Random(0))
    assert example is not None
    assert example.query == "question: Oslo {is} in Norway. answer: <extra_id_0>"
    assert example.target == f"<extra_id_0> {word}"
    assert example.answers == (word,)
    assert (example.example_id, example.line_id, example.metadata) == (3, 7, {"a": 1})


@pytest.mark.parametrize("line", [{"claim": "x"}, {"claim": "x", "label": None}])
def test_a_claim_without_label_can_be_answered_but_not_learnt_from(line: dict) -> None:
    example = TASK.example(line, 0, random.Random(0))
    assert example is not None
    assert (example.target, example.answers) == ("", ())
    check_fields(line, TASK.evaluation_fields)
    with pytest.raises(BadLineError, match="field 'label': found"):
        check_fields(line, TASK.training_fields)


@pytest.mark.parametrize("label", ["supports", "DISPUTED", "", "NOT_ENOUGH_INFO"])
def test_other_labels_are_refused(label: str) -> None:
    expected = f"field 'label': found the string \"{label}\", expected SUPPORTS or REFUTES or NOT"
    for fields in (TASK.evaluation_fields, TASK.training_fields):
        with pytest.raises(BadLineError, match=expected):
            check_fields({"claim": "x", "label": label}, fields)


def test_only_the_word_itself_is_right() -> None:
    assert TASK.score("true", ("true",)) == {"accuracy": 1.0}
    assert TASK.score("True", ("true",)) == {"accuracy": 0.0}
    assert set(TASK.candidates) == {"true", "false", "maybe"}
