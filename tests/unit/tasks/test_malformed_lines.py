"""Every kind of malformed line, for every task: one error that says where, or a line left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gazetteer.data.examples import ExampleFiles
from gazetteer.errors import DataError
from gazetteer.task_names import TASK_NAMES
from gazetteer.tasks import TASKS
from tests.support.malformed_lines import KINDS, TASK_LINES, malformed

WRONG: dict[str, list[tuple[dict[str, Any], str]]] = {
    "base": [({"target": None}, "'target': found null"), ({"target": 3}, "'target': found the n")],
    "mlm": [({"id": [1]}, "'id': found a list, expected a string or a whole number")],
    "lm": [({"id": 1.5}, "'id': found the number 1.5, expected a string or a whole number")],
    "section": [
        ({"title": ["oslo"]}, "'title': found a list, expected a string"),
        ({"section": 4}, "'section': found the number 4, expected a string"),
    ],
    "qa": [
        ({"answers": "x"}, "'answers': found the string \"x\", expected a list of strings"),
        ({"answers": ["x", 3]}, "'answers': found the number 3 at position 1"),
        ({"target": ["x"]}, "'target': found a list, expected a string"),
        ({"gold_passage_id": 7}, "'gold_passage_id': found the number 7, expected a string"),
    ],
    "fever": [
        ({"label": "TRUE"}, "'label': found the string \"TRUE\", expected SUPPORTS or REFUTES or"),
        ({"label": True}, "'label': found the boolean true, expected a string"),
    ],
    "kilt": [
        ({"output": "x"}, "'output': found the string \"x\", expected a list of objects"),
        ({"output": ["x"]}, "'output', output 0: found the string \"x\", expected an object"),
        ({"output": [{"answer": ["x"]}]}, "'output', output 0, field 'answer': found a list"),
        ({"filename": 3}, "'filename': found the number 3, expected a string"),
    ],
    "multiple_choice": [
        ({"options": ["x"] * 4}, "'options': found a list, expected an object of strings"),
        ({"options": {"A": "x"}}, "'options': found options A, expected A, B, C, D"),
        ({"answer": "E"}, "'answer': found the string \"E\", expected A or B or C or D"),
        ({"answer": 1}, "'answer': found the number 1, expected a string"),
    ],
}
"""What else a task refuses in one of its fields."""

PROGRAMS = ("--train_data", "--eval_data")


def _open(path: Path, task: str, flag: str, **settings: Any) -> ExampleFiles:
    made = TASKS[task]()
    fields = made.training_fields if flag == "--train_data" else made.evaluation_fields
    return ExampleFiles.open([path], fields, keeps=made.keeps, flag=flag, **settings)


def assert_refused_or_left_out(folder: Path, task: str, bad: bytes, expected: str) -> None:
    """In training and evaluation, with passages in the lines and without."""
    passages = {"passages": [{"text": "p"}]}
    good = json.dumps(TASK_LINES[task][1] | passages).encode()
    path = folder / "lines.jsonl"
    path.write_bytes(b"\n".join([good, bad, good]))
    for flag in PROGRAMS:
        with pytest.raises(DataError) as caught:
            _open(path, task, flag, passages_folder=folder / "cache")
        message = str(caught.value)
        assert message.startswith(f"{path}:2: ") and message.endswith(f" ({flag})")
        assert expected in message
        assert len(message.splitlines()) == 1 and message.isprintable()
        assert [left for left in folder.rglob("*") if left.is_file()] == [path]
        for cache in (None, folder / "cache"):
            files = _open(path, task, flag, on_bad_line="skip", passages_folder=cache)
            assert [files.line(number) for number in range(files.count)] == [json.loads(good)] * 2
            assert files.skipped == (message,)
            assert files.passages is None or files.passages.count == 2
        for left in sorted((folder / "cache").rglob("*"), reverse=True):
            left.unlink() if left.is_file() else left.rmdir()


def test_there_is_a_line_of_every_task() -> None:
    assert set(TASK_LINES) == set(WRONG) == set(TASK_NAMES)
    assert len(KINDS) >= 28


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", TASK_LINES)
def test_malformed_line(tmp_path: Path, task: str, kind: str) -> None:
    field, good = TASK_LINES[task]
    with_passages = good | {"passages": [{"text": "p"}]}
    assert_refused_or_left_out(tmp_path, task, *malformed(with_passages, field)[kind])


@pytest.mark.parametrize(
    ("task", "change", "expected"), [(t, *case) for t, cases in WRONG.items() for case in cases]
)
def test_field_of_another_type(
    tmp_path: Path, task: str, change: dict[str, Any], expected: str
) -> None:
    line = TASK_LINES[task][1] | {"passages": []} | change
    assert_refused_or_left_out(tmp_path, task, json.dumps(line).encode(), expected)


@pytest.mark.parametrize("task", TASK_LINES)
@pytest.mark.parametrize("value", [5, True, "text", {"text": "p"}, [3], [{"text": 1}]])
def test_passages_of_the_line_are_looked_at_only_where_they_are_used(
    tmp_path: Path, task: str, value: object
) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(json.dumps(TASK_LINES[task][1] | {"passages": value}))
    assert _open(path, task, "--eval_data").count == 1
    with pytest.raises(DataError, match=r"lines\.jsonl:1: field 'passages'.*found .*--eval_data"):
        _open(path, task, "--eval_data", passages_folder=tmp_path / "cache")
