import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "example_scripts" / "factbook" / "report.py"


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_report", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_experiments(folder: Path, report: ModuleType) -> Path:
    for name in report.READINGS.values():
        experiment = folder / name
        experiment.mkdir(parents=True)
        first = {"kind": "eval", "step": 0, "test.jsonl/exact_match": 1.0, "test.jsonl/f1": 2.0}
        last = {**first, "test.jsonl/exact_match": 50.0, "test.jsonl/f1": 61.25}
        text = "".join(json.dumps(record) + "\n" for record in (first, last))
        (experiment / "metrics.jsonl").write_text(text)
        answer = {
            "query": "question: what is the capital of Peru? answer: <extra_id_0>",
            "answers": ["Lima"],
            "generation": "lima",
            "passages": [{"title": "Peru: Government", "text": "Capital - name: Lima\nMore: x"}],
        }
        (experiment / "test-step-0.jsonl").write_text(json.dumps(answer) + "\n")
    for name in report.SEARCHES.values():
        experiment = folder / name
        experiment.mkdir(parents=True)
        recalls = {f"test.jsonl/answer_recall@{k}": 80.0 + k / 10 for k in report.CUTOFFS}
        record = {"kind": "eval", "step": 0, **recalls}
        (experiment / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    return folder


def test_the_report_holds_table_samples_and_picture(tmp_path, report, capsys, monkeypatch) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr(report, "picture", lambda readings, searches, path: drawn.append(path))
    experiments = make_experiments(tmp_path / "experiments", report)
    report.main(["--experiments", str(experiments), "--output", str(tmp_path)])
    text = (tmp_path / "report.txt").read_text()
    assert text in capsys.readouterr().out
    assert "closed book" in text and "50.0  61.2" in text
    assert "Q  what is the capital of Peru?\nA  lima    (right: Lima)" in text
    assert "Peru: Government | Capital - name: Lima | More: x" in text
    assert "80.1  80.5  82.0  90.0" in text
    assert drawn == [tmp_path / "report.png"]
