"""The table of MMLU: subjects, categories, and what is no record of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from gazetteer.evaluation.mmlu_subjects import CATEGORIES, CATEGORY_OF
from gazetteer.evaluation.mmlu_summary import main
from tests.support.tiny_data import write_jsonl


def record(dataset: Any, answer: str | None, debiased: str, free: str, **more: Any) -> dict:
    return {
        "answers": [answer] if answer else [],
        "generation": debiased,
        "metadata": {"dataset": dataset},
        "permutations": [{"generation": free, **more}, {"generation": "A"}],
    }


def test_every_subject_is_in_one_category() -> None:
    sizes = {c: list(CATEGORY_OF.values()).count(c) for c in CATEGORIES}
    assert sizes == {"STEM": 18, "humanities": 13, "social sciences": 12, "other": 14}
    assert len(CATEGORY_OF) == 57


def test_questions_count_the_same_whatever_their_subject(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_jsonl(tmp_path / "a", [
        record("astronomy_test", "A", "A", "B"), record("machine_learning_val", "B", "B", "B"),
        record("machine_learning_val", "B", "C", "B"), record("astronomy_test", None, "C", "B"),
    ])  # fmt: skip
    second = write_jsonl(tmp_path / "b", [record("virology", "D", "A", "")])
    assert main([str(first), str(second), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "STEM": {"questions": 3, "debiased_accuracy": pytest.approx(200 / 3),
                 "accuracy": pytest.approx(200 / 3)},
        "other": {"questions": 1, "debiased_accuracy": 0, "accuracy": 0},
        "all": {"questions": 4, "debiased_accuracy": 50, "accuracy": 50},
    }  # fmt: skip
    assert main([str(first), "--per_subject"]) == 0
    assert capsys.readouterr().out == (
        "|  | questions | debiased_accuracy | accuracy |\n| --- | ---: | ---: | ---: |\n"
        "| astronomy | 1 | 100.0 | 0.0 |\n| machine_learning | 2 | 50.0 | 100.0 |\n"
        "| STEM | 3 | 66.7 | 66.7 |\n| all | 3 | 66.7 | 66.7 |\n"
    )


def test_ranked_candidates_have_a_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {"A": -3.0, "B": -1.0}
    rows = [record("virology", "B", "A", "A", candidate_log_likelihoods=scores)]
    assert main([str(write_jsonl(tmp_path / "a", rows)), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["all"]["ranking_accuracy"] == 100


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, "a:2: no record of multiple_choice (RESULTS)"),
        (record("x", "A", "A", "A") | {"metadata": [1]}, "a:2: no record of multiple_choice"),
        (record("arc_easy", "A", "A", "A"),
         "field 'metadata.dataset': found the string \"arc_easy\", expected a subject of MMLU"),
        (record(None, "A", "A", "A"), "field 'metadata.dataset': found nothing"),
        (record(["virology"], "A", "A", "A"), "field 'metadata.dataset': found a list"),
        (record("virology", "A", "A", "A") | {"permutations": []}, "a:2: no record of multiple"),
    ],
)  # fmt: skip
def test_other_records_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], row: dict, expected: str
) -> None:
    path = write_jsonl(tmp_path / "a", [record("virology", "A", "A", "A"), row])
    assert main([str(path)]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and expected in shown.err


@pytest.mark.parametrize("rows", [[], [record("virology", None, "A", "A")]])
def test_nothing_to_average_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[dict]
) -> None:
    assert main([str(write_jsonl(tmp_path / "a", rows))]) == 2
    assert "found no question with answer" in capsys.readouterr().err
    assert main([str(tmp_path / "gone")]) == 2
    assert "gone: No such file" in capsys.readouterr().err
