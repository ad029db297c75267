"""Questions of DPR, LEAD and KILT, and what was found for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gazetteer.errors import DataError
from gazetteer.ir.answer_accuracy import accuracies, answer_positions
from gazetteer.ir.question_files import (
    Found,
    Question,
    dpr_output,
    page_qrels,
    read_dpr_output,
    read_kilt_evidence,
    read_kilt_run,
    read_questions,
    relevant_ids,
    write_kilt_output,
)
from gazetteer.ir.records import Document

DOCUMENTS = [Document("d1", "Paris", "nothing here"), Document("d2", "", "It is Paris, he said.")]


def _file(folder: Path, text: str, name: str = "file.tsv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_questions_are_numbered_where_they_have_no_id(tmp_path: Path) -> None:
    path = _file(tmp_path, 'what?\t[\'a\', "b\'s"]\r\nwho?\t"[\'say ""hi""\']"\n')
    assert read_questions(path, flag="--f") == [
        Question("0", "what?", ("a", "b's")),
        Question("1", "who?", ('say "hi"',)),
    ]
    path = _file(tmp_path, "q7\twhat?\t[3, 'd4']\n")
    questions = read_questions(path, flag="--f")
    assert relevant_ids(questions) == {"q7": {"3": 1, "d4": 1}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("what?\tParis\n", ':1: found answers the string "Paris", expected a list'),
        ("what?\t__import__('os')\n", ":1: found answers"),
        ("what?\t[1.5]\n", ":1: found answers"),
        ("what?\n", ":1: found 1 columns, expected 2 or 3"),
        ("1\twhat?\t['a']\n1\twho?\t['a']\n", ":2: found question id"),
        ("", ": found no questions"),
    ],
)
def test_bad_questions_are_named(tmp_path: Path, text: str, expected: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_questions(path, flag="--answer")
    assert str(caught.value).startswith(f"{path}{expected}")


def test_what_dpr_writes_reads_back(tmp_path: Path) -> None:
    found = Found(Question("7", "where?", ("Paris",)), ((DOCUMENTS[0], 2.5), (DOCUMENTS[1], 1.0)))
    records = dpr_output([found])
    assert [context["has_answer"] for context in records[0]["ctxs"]] == [False, True]
    path = _file(tmp_path, json.dumps(records), "o.json")
    assert read_dpr_output(path, flag="--f") == [found]
    records[0]["ctxs"][0]["score"] = "2.5"
    path = _file(tmp_path, json.dumps(records[0]), "o.jsonl")
    assert read_dpr_output(path, flag="--f") == [found]


def test_kilt_evidence_is_pages_and_the_ranking_reads_back(tmp_path: Path) -> None:
    line = {
        "id": "k",
        "input": "q",
        "output": [
            {"answer": "a", "provenance": [{"wikipedia_id": "1"}, {"wikipedia_id": 2}]},
            {"answer": "a"},
            {"provenance": [{"wikipedia_id": "3", "title": "t"}]},
        ],
    }
    path = _file(tmp_path, json.dumps(line), "k.jsonl")
    evidence = read_kilt_evidence(path, flag="--f")
    assert evidence == {"k": [frozenset({"1", "2"}), frozenset({"3"})]}
    assert page_qrels({**evidence, "none": []}) == {"k": {"1": 1, "2": 1, "3": 1}}
    assert write_kilt_output(tmp_path / "o.jsonl", {"k": "q"}, {"k": {"3": 1.0, "1": 2.0}}) == 1
    assert read_kilt_run(tmp_path / "o.jsonl", flag="--f") == {"k": {"1": -1.0, "3": -2.0}}


def test_answers_are_looked_for_in_the_texts_found() -> None:
    answers = {"q1": ("Paris",), "q2": ("Rome",), "q3": ("Paris",)}
    run = {"q1": {"d1": 2.0, "d2": 1.0}, "q2": {"d2": 1.0}}

    def positions(**changes: dict[str, dict[str, float]]) -> dict[str, int | None]:
        return answer_positions(
            {**run, **changes}, answers, DOCUMENTS, collection=Path("c.tsv"), flag="--collection"
        )

    assert positions() == {"q1": 2, "q2": None, "q3": None}
    assert accuracies(positions()) == {
        "accuracy@1": 0.0,
        "accuracy@5": 1 / 3,
        "accuracy@20": 1 / 3,
        "accuracy@100": 1 / 3,
    }
    with pytest.raises(
        DataError, match=r'c\.tsv: found no document the string "x", .* query .*"q3"'
    ):
        positions(q3={"x": 1.0})
