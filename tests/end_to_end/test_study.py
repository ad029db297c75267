"""The study of joint pre-training: its very commands, on tiny models, and their report."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gazetteer.evaluation.run import evaluate
from gazetteer.options import parse_options
from gazetteer.records import Ranks
from gazetteer.training.loop import train
from tests.support.runs import close_logs, make_world
from tests.support.tiny_data import passages, questions, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "example_scripts" / "studies"
SMALL = {
    "ROWS": "none:closed untouched:pdist fixed:fixed loop:emdr2",
    "SEEDS": "1 2",
    "SHOTS": "4 8",
    "EPOCHS": "1 1",
    "STEPS": "2",
    "BATCH": "2",
}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, STUDY / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("study"))
    for name in ("leads", "factbook"):
        (folder / "data" / name).mkdir(parents=True)
    write_jsonl(folder / "data/leads/passages.jsonl", passages(40))
    write_jsonl(folder / "data/leads/valid.jsonl", passages(46)[40:])
    write_jsonl(folder / "data/factbook/passages.jsonl", passages(40))
    write_jsonl(folder / "data/factbook/test.jsonl", questions(5, seed=2))
    for shots in SMALL["SHOTS"].split():
        for seed in SMALL["SEEDS"].split():
            path = folder / f"data/factbook/train-{shots}-{seed}.jsonl"
            write_jsonl(path, questions(int(shots), seed=int(seed)))
    return folder


def commands(world: Path, **settings: str) -> list[list[str]]:
    """What the script would start, as lists of words."""
    models = {"STUDY_READER": str(world / "reader"), "STUDY_RETRIEVER": str(world / "retriever")}
    shown = subprocess.run(
        ["bash", str(STUDY / "joint_pretraining.sh"), str(world)],
        env={"PATH": os.environ["PATH"], "LAUNCHER": "print", **models, **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stderr == ""
    return [shlex.split(line) for line in shown.stdout.splitlines()]


def run(program: str, words: list[str]) -> None:
    """One command, in this process."""
    try:
        if program == "train.py":
            assert train(parse_options(words, program="train"), Ranks()) == 0
        else:
            assert evaluate(parse_options(words, program="evaluate"), Ranks()) == 0
    finally:
        close_logs()


def test_its_commands_run_and_their_report_has_every_row(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = commands(world, **SMALL)
    (world / "seconds").mkdir()
    for program, *words in planned:
        run(program, [*words, "--precision", "fp32"])
        name = words[words.index("--name") + 1]
        # As the script does: what a run was followed by counts as a part of it.
        part = "untouched" if name.endswith("untouched") else name.removeprefix("found-")
        (world / "seconds" / part).write_text("36\n")
    capsys.readouterr()
    assert load("joint_pretraining_report").main(["--folder", str(world)]) == 0
    shown = capsys.readouterr().out
    assert shown == (world / "report.md").read_text(encoding="utf-8")
    lines = [line for line in shown.split("\n") if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    starts = [row[0] for row in rows]
    assert starts[:7] == [
        "pre-training", "---", "none at all", "MLM, book closed", "fixed retriever", "LOOP",
        "pre-training",
    ]  # fmt: skip
    pairs = [
        ["none at all", "PDist"],
        ["MLM, book closed", "closed book"],
        ["fixed retriever", "fixed retriever"],
        ["LOOP", "EMDR²"],
    ]
    assert [row[:2] for row in rows if row[:2] in pairs] == pairs * 2
    assert {row[-1] for row in rows if row[:2] in pairs} == {"2"}
    parts = len({path.name for path in (world / "seconds").iterdir()})
    assert f"{parts} parts took {parts / 100:.1f} hours" in shown


def test_all_of_it_parses(world: Path) -> None:
    planned = commands(world)
    names = [words[words.index("--name") + 1] for words in planned]
    assert len(set(names)) == len(names)
    # Six ways to pre-train, eight rows twice, three seeds; what learnt to search is searched with.
    assert sum(words[0] == "train.py" for words in planned) == 3 * (6 + 8 * 2)
    assert sum(words[0] == "evaluate.py" for words in planned) == 2 + 3 * (4 + 6 * 2)
    for words in planned:
        for place in ("--train_data", "--load_index_path", "--model_path"):
            if place in words:
                path = Path(words[words.index(place) + 1])
                if path.suffix == ".jsonl":
                    path.touch()
                else:
                    path.mkdir(parents=True, exist_ok=True)
        parse_options(words[1:], program=Path(words[0]).stem)  # type: ignore[arg-type]


def test_samples_differ_by_seed_and_keep_the_order_of_lines(tmp_path: Path) -> None:
    sample_lines = load("sample_lines")
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
