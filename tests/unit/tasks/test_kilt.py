"""KILT's lines: inputs, their answers, and inputs without any."""

import random
from typing import Any

import pytest

from gazetteer.data.jsonl import BadLineError, check_fields
from gazetteer.tasks.kilt import Task

LINE = {
    "id": "5743",
    "input": "who wrote the {book}?",
    "output": [
        {"answer": " Ibsen ", "provenance": [{"wikipedia_id": "1", "title": "Peer Gynt"}]},
        {"answer": "Henrik Ibsen"},
        {"provenance": [{"wikipedia_id": "2"}]},
        {"answer": "Ibsen", "meta": {"score": 1}},
        {"answer": ""},
        {"answer": None},
    ],
}


def test_prompt_and_answers() -> None:
    example = Task().example(LINE, 0, random.Random(0))
    assert example.query == "question: who wrote the {book}? answer: <extra_id_0>"
    assert example.answers == ("Ibsen", "Henrik Ibsen")
    assert example.line_id == "5743"
    drawn = {Task().example(LINE, 0, random.Random(n)).target for n in range(20)}
    assert drawn == {"<extra_id_0> Ibsen", "<extra_id_0> Henrik Ibsen"}


@pytest.mark.parametrize(
    ("label", "answer"), [("SUPPORTS", "true"), ("REFUTES", "false"), ("other", "false")]
)
def test_claims_of_fever_are_true_or_false(label: str, answer: str) -> None:
    line = {"input": "x", "output": [{"answer": label}], "filename": "fever-dev-kilt.jsonl"}
    assert Task().example(line, 0, random.Random(0)).answers == (answer,)
    assert Task().example(line | {"filename": "nq"}, 0, random.Random(0)).answers == (label,)


@pytest.mark.parametrize("output", [None, [], [{}], [{"answer": " "}]])
def test_inputs_without_answers_are_for_evaluation_only(output: Any) -> None:
    line = {"input": "x", "output": output}
    check_fields(line, Task().evaluation_fields)
    example = Task().example(line, 0, random.Random(0))
    assert (example.target, example.answers) == ("", ())
    with pytest.raises(BadLineError, match="field 'output': found"):
        check_fields(line, Task().training_fields)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"input": 3}, "field 'input': found the number 3, expected a string"),
        ({}, "field 'input': found nothing, expected a string"),
        ({"input": "x", "output": {}}, "field 'output': found an object, expected a list of"),
        ({"input": "x", "output": ["a"]}, "field 'output', output 0: found the string"),
        (
            {"input": "x", "output": [{}, {"answer": ["a"]}]},
            "field 'output', output 1, field 'answer': found a list, expected a string",
        ),
        ({"input": "x", "filename": 1}, "field 'filename': found the number 1"),
    ],
)
def test_malformed_lines_are_named(wrong: dict[str, Any], expected: str) -> None:
    with pytest.raises(BadLineError) as caught:
        check_fields(wrong, Task().evaluation_fields)
    assert str(caught.value).startswith(expected)


def test_scores_are_the_best_over_answers_raw_and_normalised() -> None:
    assert Task().score("the Ibsen", ["x", "ibsen"]) == {
        "accuracy": 0.0, "exact_match": 1.0, "f1": 1.0,
    }  # fmt: skip
