"""Data files are checked once and then read by number, with the passages that come along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gazetteer.data.examples import ExampleFiles
from gazetteer.data.jsonl import Field
from gazetteer.errors import DataError, IndexFileError
from gazetteer.records import Example
from gazetteer.tasks import TASKS
from tests.support.tiny_data import passages, questions, write_jsonl

FIELDS = (Field("question", "text", required=True), Field("answers", "texts", required=False))


def _open(*paths: Path, fields: tuple[Field, ...] = FIELDS, **settings: Any) -> ExampleFiles:
    return ExampleFiles.open(paths, fields, flag="--train_data", **settings)


def _with_passages(count: int) -> list[dict[str, Any]]:
    """Questions with 0, 1, 2, 0, 1, 2 ... passages."""
    rows, given, start = questions(count), passages(count * 2), 0
    for number, row in enumerate(rows):
        row["passages"] = given[start : start + number % 3]
        start += number % 3
    return rows


def test_lines_of_several_files_are_numbered_in_order(tmp_path: Path) -> None:
    rows = questions(7)
    files = _open(write_jsonl(tmp_path / "a", rows[:3]), write_jsonl(tmp_path / "b", rows[3:]))
    assert files.count == 7
    assert [files.line(index) for index in (6, 0, 3, 2)] == [rows[6], rows[0], rows[3], rows[2]]
    assert files.passages is None


def test_blank_lines_and_byte_order_marks_do_not_shift_lines(tmp_path: Path) -> None:
    rows = questions(3)
    path = tmp_path / "a"
    path.write_text("\ufeff" + "\r\n\r\n".join(map(json.dumps, rows)), encoding="utf-8")
    files = _open(path, path)
    assert [files.line(index) for index in range(6)] == rows + rows


def test_skipped_lines_are_left_out_and_told(tmp_path: Path) -> None:
    rows = questions(4)
    path = tmp_path / "a"
    path.write_text("\n".join(["{}", *map(json.dumps, rows), "oops"]))
    files = _open(path, on_bad_line="skip")
    assert [files.line(index) for index in range(files.count)] == rows
    assert len(files.skipped) == 2
    assert files.skipped[0].startswith(f"{path}:1: field 'question': found nothing")
    assert files.skipped[1].startswith(f"{path}:6: not valid JSON")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("id", 7.0, "the number 7.0, expected a string or a whole number"),
        ("id", True, "the boolean true, expected a string or a whole number"),
        ("id", ["q"], "a list, expected a string or a whole number"),
        ("gold_passage_id", 7, "the number 7, expected a string"),
    ],
)
def test_common_fields_are_checked(tmp_path: Path, field: str, value: object, message: str) -> None:
    path = write_jsonl(tmp_path / "a", [{"question": "q", field: value}])
    with pytest.raises(DataError, match=f"a:1: field '{field}': found {message} \\("):
        _open(path)


def test_a_question_without_an_answer_is_left_out_of_training_and_counted(tmp_path: Path) -> None:
    rows = [
        {"question": "a", "answers": ["x"]},
        {"question": "b"},
        {"question": "c", "target": "y"},
    ]
    path = write_jsonl(tmp_path / "a", rows)
    files = ExampleFiles.open(
        [path], TASKS["qa"]().training_fields, flag="--train_data", on_bad_line="skip"
    )
    assert [files.line(index)["question"] for index in range(files.count)] == ["a", "c"]
    assert files.skipped == (
        f"{path}:2: field 'answers': found nothing, expected a list of strings, not empty, "
        "or field 'target' (--train_data)",
    )


@pytest.mark.parametrize("content", ["", "\n", "oops\n"])
def test_no_examples_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a"
    path.write_text(content)
    with pytest.raises(DataError, match=r"a: found no examples \(--train_data\)"):
        _open(path, on_bad_line="skip")


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: No such file or directory \(--train_data\)"):
        _open(write_jsonl(tmp_path / "a", questions(1)), tmp_path / "gone")


@pytest.mark.parametrize("content", ["", "\n" * 500, '{"question": "cut'])
def test_file_that_changes_while_in_use_is_an_error(tmp_path: Path, content: str) -> None:
    path = write_jsonl(tmp_path / "a", questions(3))
    files = _open(path)
    path.write_text(content)
    with pytest.raises(DataError, match="a: changed while in use"):
        files.line(0)
    path.unlink()
    with pytest.raises(DataError, match="a: changed while in use"):
        files.line(0)


def test_given_passages_are_found_by_the_rows_of_their_line(tmp_path: Path) -> None:
    rows = _with_passages(7)
    path = write_jsonl(tmp_path / "a", rows)
    for _ in ("built", "reused"):
        files = _open(path, passages_folder=tmp_path / "cache")
        assert files.passages is not None
        for number, row in enumerate(rows):
            example = files.with_passages(Example(example_id=0, query="q"), number)
            assert example.passage_rows is not None
            found = files.passages.ids(example.passage_rows)
            assert found == [passage["id"] for passage in row["passages"]]
    assert len(list((tmp_path / "cache" / "passages").iterdir())) == 1


def test_given_passages_are_left_alone_when_not_asked_for(tmp_path: Path) -> None:
    files = _open(write_jsonl(tmp_path / "a", _with_passages(3)))
    example = Example(example_id=2, query="q")
    assert files.with_passages(example, 0) is example


def test_given_passages_must_be_there_when_asked_for(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a", questions(2))
    with pytest.raises(DataError, match="a:1: field 'passages': found nothing"):
        _open(path, passages_folder=tmp_path / "cache")


def test_given_passages_may_lack_ids_and_repeat_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"question": "q", "passages": [{"text": "a"}, {"id": "p", "text": "b"}]}
    files = _open(write_jsonl(tmp_path / "a", [row, row]), passages_folder=tmp_path / "cache")
    assert files.passages is not None
    assert files.passages.ids(range(4)) == ["", "p", "", "p"]
    assert not caplog.records


def test_lines_left_out_take_their_passages_along(tmp_path: Path) -> None:
    """What is a bad line depends on the task's fields: each has its own stored passages."""
    rows = _with_passages(6)
    del rows[1]["answers"]
    path = write_jsonl(tmp_path / "a", rows)
    needs_answers = (FIELDS[0], Field("answers", "texts", required=True))
    settings = {"passages_folder": tmp_path / "cache", "on_bad_line": "skip"}
    for fields, kept in ((FIELDS, rows), (needs_answers, rows[:1] + rows[2:])):
        files = _open(path, fields=fields, **settings)
        assert files.passages is not None
        assert files.count == len(kept)
        assert files.passages.count == sum(len(row["passages"]) for row in kept)


def test_damaged_given_passages_are_stored_anew(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a", _with_passages(6))
    store = _open(path, passages_folder=tmp_path / "cache").passages
    assert store is not None
    records, file = store.records(range(store.count)), store.folder / "passages.arrow"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:100])
    again = _open(path, passages_folder=tmp_path / "cache").passages
    assert again is not None
    assert again.records(range(again.count)) == records


def test_given_passages_of_another_number_are_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a", _with_passages(6))
    store = _open(path, passages_folder=tmp_path / "cache").passages
    other = write_jsonl(tmp_path / "b", _with_passages(4))
    foreign = _open(other, passages_folder=tmp_path / "cache").passages
    assert store is not None and foreign is not None
    for source in foreign.folder.iterdir():
        source.replace(store.folder / source.name)
    with pytest.raises(IndexFileError, match="found 3 passages, expected 6"):
        _open(path, passages_folder=tmp_path / "cache")
