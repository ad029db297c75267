"""The commands that measure and compare runs, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gazetteer.dense import compare, evaluate

pytest.importorskip("ir_measures")
QRELS = "q1 0 d1 1\nq2 0 d9 1\nq3 0 d5 2\nq3 0 d6 1\n"
RUN = "q1 Q0 d1 1 1 t\nq1 Q0 d2 2 1 t\nq1 Q0 d0 3 1 t\nq3 Q0 d7 1 3 t\nq3 Q0 d5 1 2 t\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "qrels").write_text(QRELS)
    (tmp_path / "run").write_text(RUN)
    return str(tmp_path / "qrels"), str(tmp_path / "run")


def test_the_measures_of_the_seed(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(["-m", "mrr.10", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("# queries: 3 judged, of which 1 are missing")
    assert lines[1].startswith("# ties: by document id, descending")
    assert lines[-1].startswith("MRR@10              \tall\t0.3333\t(0.0000 to 0.5000")


def test_every_query_is_printed_and_written(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "new" / "each.tsv"
    assert evaluate.main(["-q", "-m", "map", "--per_query", str(written), *files]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line[0] != "#"]
    assert [line.split("\t")[1:3] for line in shown] == [
        ["q1", "0.5000"], ["q2", "0.0000"], ["q3", "0.2500"], ["all", "0.2500"],
    ]  # fmt: skip
    assert written.read_text().splitlines()[3] == "q3\t0.250000"


def test_json_says_all_of_it(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--json", "-q", "--rel", "2", "-m", "MAP", *files]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["measures"] == {"MAP(rel=2)": pytest.approx(1 / 6)}
    assert document["queries"]["q3"] == {"MAP(rel=2)": 0.5}
    assert (document["judged"], document["missing"], document["unjudged"]) == (3, 1, 0)


def test_accuracy_of_answers(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"d1": "Rome", "d2": "x", "d0": "Paris", "d7": "y", "d5": "z"}
    lines = ["id\ttext", *(f"{key}\t{text}" for key, text in texts.items())]
    (tmp_path / "c.tsv").write_text("\n".join(lines))
    (tmp_path / "a.tsv").write_text("q1\twhere?\t['Paris', 'London']\nq4\twho?\t['z']\n")
    flags = ["--qa", "--collection", str(tmp_path / "c.tsv"), "--answer", str(tmp_path / "a.tsv")]
    assert evaluate.main([*flags, "-q", "--json", *files]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["measures"] == {
        "accuracy@1": 0.0, "accuracy@5": 0.5, "accuracy@20": 0.5, "accuracy@100": 0.5,
    }  # fmt: skip
    assert document["queries"] == {"q1": 3, "q4": None} and document["missing"] == 1
    assert evaluate.main([*flags, files[1]]) == 0
    assert "accuracy@5          \tall\t0.5000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-m", "foo", "{qrels}", "{run}"], "--measure (foo) must be a measure such as"),
        (["{qrels}"], "QRELS RUN: found 1 files, expected 2"),
        (["{run}", "{run}"], "{run}:1: found 6 columns, expected 2 or 3 or 4"),
        (["{qrels}", "gone"], "gone: No such file or directory (RUN)"),
        (["--qa", "{run}"], "--qa must come with --collection"),
        (["--answer", "x", "{qrels}", "{run}"], "--answer must come with --qa"),
    ],
)
def test_bad_input_is_one_line(
    files: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    names = dict(zip(("qrels", "run"), files, strict=True))
    assert evaluate.main([each.format(**names) for each in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"gazetteer.dense.evaluate: error: {expected.format(**names)}")
    assert shown.err.count("\n") == 1


def test_two_runs_are_compared(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").write_text("q1 Q0 d1 1 1 t\nq3 Q0 d7 1 3 t\n")
    arguments = [*files, str(tmp_path / "other"), "-m", "mrr.10"]
    written = tmp_path / "each.tsv"
    assert compare.main([*arguments, "--per_query", str(written)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].split()[:4] == ["MRR@10", "0.3333", "0.3333", "+0.0000"]
    assert lines[4].split()[-3:] == ["1.0000", "1.0000", "1/1/1"]
    assert lines[5:] == [
        "# MRR@10: where B wins most", "q1\t+0.5000", "# MRR@10: where B loses most", "q3\t-0.5000",
    ]  # fmt: skip
    assert written.read_text().splitlines()[1] == "q1\t0.500000\t1.000000\t0.500000"
    assert compare.main([*arguments, "--json"]) == 0
    (comparison,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert (comparison["wins"], comparison["losses"]) == (1, 1)
