"""The swap's report: counted by index and edition, and only if one flag differs."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "example_scripts" / "factbook"
QUESTIONS = (
    ("a", "Peru", "head of government", False, "Ada NEW", "Bob OLD"),
    ("b", "Chad", "head of government", False, "Cid NEW", "Dot OLD"),
    ("c", "Mali", "chief of state", True, "Eve NEW", "Fay OLD"),
)
GIVEN = {
    "with-current": {"a": "ada new", "b": "cid new", "c": "fay old"},
    "with-2015": {"a": "bob old", "b": "nobody", "c": "fay old"},
}


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("swap_report", FOLDER / "swap_report.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "swap_report", module)
    spec.loader.exec_module(module)
    return module


def write_lines(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture
def swap(tmp_path: Path) -> Path:
    keys = ("id", "country", "field", "seen", "answers", "answers_2015")
    records = [dict(zip(keys, values, strict=True)) for values in QUESTIONS]
    for record in records:
        record["question"] = f"who leads {record['country']}?"
        record["answers"], record["answers_2015"] = [record["answers"]], [record["answers_2015"]]
    write_lines(tmp_path / "questions.jsonl", records)
    for run, answers in GIVEN.items():
        folder = tmp_path / "experiments" / run
        # In another order: what counts is the id.
        results = [{"id": key, "generation": text} for key, text in reversed(answers.items())]
        write_lines(folder / "questions-step-0.jsonl", results)
        options = {"name": run, "load_index_path": f"index of {run}", "n_context": 1}
        (folder / "options.json").write_text(json.dumps(options))
    return tmp_path


def test_answers_are_counted_by_index_and_edition(report: ModuleType, swap: Path) -> None:
    rows = [line.split("  ") for line in report.swap_table(report.read_asked(swap)).split("\n")]
    cells = {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows[2:]}

    assert cells == {
        "head of government, unseen countries; current index": ["2", "2 (100%)", "0 (0%)"],
        "head of government, unseen countries; 2015 index": ["2", "0 (0%)", "1 (50%)"],
        "chief of state, training's countries; current index": ["1", "0 (0%)", "1 (100%)"],
        "chief of state, training's countries; 2015 index": ["1", "0 (0%)", "1 (100%)"],
        "all; current index": ["3", "2 (67%)", "1 (33%)"],
        "all; 2015 index": ["3", "0 (0%)", "2 (67%)"],
    }


def test_the_report_shows_unseen_countries_with_both_answers(
    report: ModuleType, swap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(["--folder", str(swap)]) == 0

    shown = capsys.readouterr().out
    assert (swap / "report.txt").read_text(encoding="utf-8") == shown
    assert "who leads Peru?" in shown and "who leads Mali?" not in shown
    assert "ada new    (edition: Ada NEW)" in shown
    assert "bob old    (edition: Bob OLD)" in shown
    assert "flags that differ: --load_index_path, --name" in shown


def test_runs_that_differ_in_more_than_the_index_are_refused(
    report: ModuleType, swap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = swap / "experiments" / "with-2015" / "options.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "n_context": 2}))

    assert report.main(["--folder", str(swap)]) == 2

    assert "n_context" in capsys.readouterr().err
    assert not (swap / "report.txt").exists()


def test_a_question_that_a_run_did_not_answer_is_an_error(report: ModuleType, swap: Path) -> None:
    results = swap / "experiments" / "with-2015" / "questions-step-0.jsonl"
    write_lines(results, [{"id": "a", "generation": "x"}])

    with pytest.raises(KeyError, match="b"):
        report.read_asked(swap)
