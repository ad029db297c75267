"""The study of joint pre-training: its very commands, on tiny models, and their report."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gazetteer.options import parse_options
from tests.support.runs import make_world
from tests.support.tiny_data import passages, questions, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "example_scripts" / "studies"
ROWS = ("none:closed", "loop:emdr2")


@pytest.fixture(scope="module")
def study() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDY))
        return importlib.import_module("joint_pretraining")


@pytest.fixture
def world(tmp_path: Path, study: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny models, and data where the study would put its own."""
    folder = make_world(tmp_path)
    leads, factbook = folder / "out/data/leads", folder / "out/data/factbook"
    for each in (leads, factbook):
        each.mkdir(parents=True)
    write_jsonl(leads / "passages.jsonl", passages(40))
    write_jsonl(leads / "valid.jsonl", passages(46)[40:])
    write_jsonl(factbook / "passages.jsonl", passages(40))
    write_jsonl(factbook / "train.jsonl", questions(30, seed=1))
    write_jsonl(factbook / "test.jsonl", questions(5, seed=2))
    monkeypatch.setattr(study, "prepare_data", lambda study: None)
    return folder


def words_for(world: Path) -> list[str]:
    words = ["--output_directory", world / "out", "--reader", world / "reader"]
    words += ["--retriever", world / "retriever", "--steps", 2, "--batch", 2]
    words += ["--seeds", 2, "--shots", "4x1", "--rows", *ROWS]
    return list(map(str, words))


def table_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.split("\n") if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_it_runs_and_reports_every_row_and_goes_on_where_it_was_stopped(
    world: Path, study: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    out = world / "out"
    assert study.main(words_for(world)) == 0
    first = capsys.readouterr().out
    report = (out / "report.md").read_text(encoding="utf-8")
    assert first.endswith(report)
    rows = table_rows(report)
    assert [(row[0], row[-1]) for row in rows][:5] == [
        ("pre-training", "n"), ("---", "---:"), ("none at all", "1"),
        ("MLM, book closed", "1"), ("LOOP", "1"),
    ]  # fmt: skip
    pairs = [
        ["MLM, book closed", "closed book"],
        ["LOOP", "EMDR²"],
    ]
    tuned = [row for row in rows if row[:2] in pairs]
    assert [row[:2] for row in tuned] == pairs
    # Nothing is searched with the book closed.
    assert [row[5] == "-" for row in tuned] == [True, False]
    assert not list(out.glob("experiments/qa-*/checkpoint"))

    (out / "seconds" / "qa-loop-emdr2-4-2").unlink()
    assert study.main(words_for(world)) == 0
    again = capsys.readouterr().out
    assert re.findall(r"^\d\d:\d\d:\d\d (.*)", again, re.MULTILINE) == ["qa-loop-emdr2-4-2"]
    assert table_rows(again) == rows


def test_what_another_process_does_is_left_to_it(
    world: Path, study: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = sys.modules["study_parts"]
    with parts.taken(world / "locks" / "part", waits=False) as is_ours:
        assert is_ours
        parts.once(world, "part", lambda: pytest.fail("done twice"), waits=False)
    parts.once(world, "part", lambda: None, waits=True)
    parts.once(world, "part", lambda: pytest.fail("done twice"), waits=True)
    assert capsys.readouterr().out.split()[1:] == ["part"]


def test_all_of_its_commands_parse(
    world: Path, study: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--output_directory", str(world / "out"), "--retriever", str(world / "retriever")]
    assert study.main([*words, "--print"]) == 0
    planned = [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines()]
    names = [words[words.index("--name") + 1] for words in planned]
    assert len(set(names)) == len(names)
    # Three ways to pre-train, ten rows twice, three seeds; what learnt to search is searched with.
    assert sum(words[0] == "train.py" for words in planned) == 3 * (3 + 10 * 2)
    assert sum(words[0] == "evaluate.py" for words in planned) == 2 + 3 * (1 + 6 * 2)
    for words in planned:
        for flag in {"--train_data", "--load_index_path", "--model_path"} & set(words):
            path = Path(words[words.index(flag) + 1])
            if path.suffix == ".jsonl":
                path.touch()
            else:
                path.mkdir(parents=True, exist_ok=True)
        parse_options(words[1:], program=Path(words[0]).stem)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flag", "value", "problem"),
    [
        ("--rows", "pdist", "expected {untouched,none,fixed,pdist,adist,loop,emdr2}:{closed,"),
        ("--rows", "closed:pdist", "expected {untouched,"),
        ("--shots", "64", "expected QUESTIONSxEPOCHS"),
        ("--shots", "0x4", "expected QUESTIONSxEPOCHS"),
    ],
)
def test_mistakes_are_told(
    study: ModuleType, capsys: pytest.CaptureFixture[str], flag: str, value: str, problem: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        study.main(["--output_directory", "nowhere", flag, value])
    assert problem in capsys.readouterr().err


def test_tables_compare_runs_of_the_same_seed(study: ModuleType) -> None:
    report = study.joint_pretraining_report
    runs = [
        report.Tuned(before, method, 64, seed, {"exact_match": score, "f1": 1.0}, 2.0)
        for before, method, seed, score in (
            ("untouched", "fixed", 1, 40.0), ("untouched", "fixed", 2, 60.0),
            ("untouched", "loop", 1, 41.0), ("untouched", "loop", 2, 63.0),
            ("pdist", "pdist", 2, 50.0),
        )
    ]  # fmt: skip
    losses = {("none", 1): 3.0, ("none", 2): 3.5, ("loop", 2): 3.25, ("loop", 1): 2.8}
    pretrained = {key: {"eval_loss": x, "f1": 0, "accuracy": 0} for key, x in losses.items()}
    shown = table_rows(report.report(report.Study(pretrained, {}, runs, {"a": 1800.0})))
    found = {tuple(row[:2]) if len(row) == 9 else row[0]: row for row in shown}
    assert found["LOOP"][1:3] == ["3.025 ± 0.318", "-0.225 ± 0.035"]
    assert found["MLM, book closed"][1:3] == ["3.250 ± 0.354", "-"]
    assert found["none at all", "fixed retriever"][2:4] == ["50.0 ± 14.1", "-"]
    assert found["none at all", "LOOP"][2:4] == ["52.0 ± 15.6", "2.0 ± 1.4"]
    assert found["PDist", "PDist"][2:] == ["50.0", "-10.0", "1.0", "-", "-", "-", "1"]


def test_samples_differ_by_seed_and_keep_the_order_of_lines(
    tmp_path: Path, study: ModuleType
) -> None:
    sample_lines = sys.modules["sample_lines"]
    source = tmp_path / "all.jsonl"
    source.write_text("".join(json.dumps({"n": n, "text": "a\u2028b"}) + "\n" for n in range(50)))

    def drawn(count: int, seed: int) -> list[int]:
        output = tmp_path / "some.jsonl"
        words = ["--source", source, "--output", output, "--count", count, "--seed", seed]
        assert sample_lines.main(list(map(str, words))) == 0
        return [json.loads(line)["n"] for line in output.read_text().split("\n") if line]

    first = drawn(8, 1)
    assert first == sorted(first) and len(set(first)) == 8
    assert first == drawn(8, 1) != drawn(8, 2)
    assert drawn(80, 1) == list(range(50))
