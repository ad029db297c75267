"""The study of joint compression: its very commands, on tiny models, and their report."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from gazetteer.export.models import export_models
from gazetteer.files import write_manifest
from tests.support.runs import make_world, run_train
from tests.support.tiny_data import passages, questions, write_jsonl

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def study() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "example_scripts" / "studies"))
        return importlib.import_module("joint_compression")


def test_it_runs_and_reports_and_does_nothing_twice(
    tmp_path: Path,
    study: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    world = make_world(tmp_path)
    data = world / "out" / "data"
    data.mkdir(parents=True)
    in_sections = [row | {"section": "land"} for row in passages(30)]
    write_jsonl(data / "passages.jsonl", in_sections)
    write_jsonl(data / "train.jsonl", questions(16, seed=1))
    write_jsonl(data / "test.jsonl", questions(4, seed=2))
    monkeypatch.setattr(study, "prepare_data", lambda study: None)
    start = {"compressor": "n_layers", "num_memory_tokens": 2}
    run_train(world, name="start", total_steps=1, **start)
    checkpoint = world / "experiments" / "start" / "checkpoint" / "latest"
    export_models(str(checkpoint), world / "models")
    shutil.rmtree(world / "models" / "retriever")
    write_manifest(world / "models")
    words = ["--output_directory", world / "out", "--start", world / "models"]
    words += ["--retriever", world / "retriever", "--steps", 2, "--seeds", 1]
    words += ["--refresh", 1, "--rows", "compressed:frozen", "compressed:joint"]
    assert study.main(list(map(str, words))) == 0
    report = (world / "out" / "report.md").read_text(encoding="utf-8")
    rows = [line for line in report.split("\n") if line.startswith("| compressed")]
    assert [row.split(" | ")[1] for row in rows[:2]] == ["frozen", "joint"]
    assert rows[2].endswith(" of 1 |")

    def never(*_: object) -> None:
        raise AssertionError("done already")

    monkeypatch.setattr(study, "run_command", never)
    capsys.readouterr()
    assert study.main(list(map(str, words))) == 0
    assert capsys.readouterr().out == report


def test_questions_and_passages_are_of_the_same_countries(
    tmp_path: Path, study: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "factbook"
    whole.mkdir()
    countries = {"train": "abcd", "test": "xyz"}
    for name, codes in countries.items():
        write_jsonl(whole / f"{name}.jsonl", [{"id": f"{c}-capital-0"} for c in codes])
    both = "".join(countries.values())
    write_jsonl(whole / "passages.jsonl", [{"id": f"{c}-land-{n}"} for c in both for n in (0, 1)])
    monkeypatch.setattr(study.subprocess, "run", lambda *_, **__: None)
    made = study.Study(tmp_path, tmp_path, tmp_path, tmp_path, countries=2)
    study.prepare_data(made)
    found = {
        name: {study.country_of(r) for r in study.records_of(made.data / f"{name}.jsonl")}
        for name in ("passages", "train", "test")
    }
    assert found["passages"] == found["train"] | found["test"]
    assert (len(found["train"]), len(found["test"])) == (2, 2)
