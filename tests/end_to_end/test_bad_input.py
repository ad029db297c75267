"""A malformed file ends a run at once: one line, exit code 2, nothing written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gazetteer.errors import OptionError
from gazetteer.evaluation.run import evaluate
from gazetteer.program import run_program
from gazetteer.training.loop import train
from tests.support.malformed_lines import TASK_LINES, malformed
from tests.support.runs import make_world, results, run_evaluate, run_train
from tests.support.tiny_data import passages, questions, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
FILES = {"--train_data": "train.jsonl", "--eval_data": "dev.jsonl", "--passages": "passages.jsonl"}
LINES = 5
BAD_LINES = {
    "truncated": (b'{"id": "x", "text": "cut', "not valid JSON"),
    "no object": (b"[1, 2]", "found a list, expected a JSON object"),
    "wrong type": (
        b'{"id": [7], "question": "q", "target": "a", "text": "t"}',
        "field 'id': found a list",
    ),
    "duplicate key": (b'{"id": "x", "id": "y"}', "field 'id': found it twice"),
    "not UTF-8": (b'{"id": "\xff"}', "found byte 0xff"),
}


def _arguments(folder: Path, program: str = "train") -> list[str]:
    """A small run whose models are out of reach: data are looked at first."""
    write_jsonl(folder / "train.jsonl", questions(LINES))
    write_jsonl(folder / "dev.jsonl", questions(LINES))
    write_jsonl(folder / "passages.jsonl", passages(LINES))
    values = {flag: folder / name for flag, name in FILES.items()} | {
        "--task": "qa",
        "--reader_model_type": "t5-small",
        "--retriever_model_path": "facebook/contriever",
        "--checkpoint_dir": folder / "experiments",
        "--cache_dir": folder / "cache",
        "--name": "bad",
        "--n_context": 2,
        "--retriever_n_context": 2,
    }
    if program == "evaluate":
        del values["--train_data"]
    return [str(word) for pair in values.items() for word in pair] + ["--no_progress"]


def _spoil(path: Path, number: int, bad: bytes) -> None:
    lines = path.read_bytes().splitlines()
    lines[number - 1] = bad
    path.write_bytes(b"\n".join(lines) + b"\n")


def _written(folder: Path) -> list[Path]:
    return [
        path for path in folder.rglob("*") if path.is_file() and path.name not in FILES.values()
    ]


@pytest.mark.parametrize("number", [1, 3, LINES], ids=["first", "middle", "last"])
@pytest.mark.parametrize(
    ("program", "flag"),
    [("train", flag) for flag in FILES] + [("evaluate", "--eval_data"), ("evaluate", "--passages")],
)
@pytest.mark.parametrize("kind", BAD_LINES)
def test_malformed_line_is_reported_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    program: str,
    number: int,
    flag: str,
    kind: str,
) -> None:
    arguments, path = _arguments(tmp_path, program), tmp_path / FILES[flag]
    bad, expected = BAD_LINES[kind]
    _spoil(path, number, bad)
    monkeypatch.setattr(sys, "argv", [f"{program}.py", *arguments])

    code = run_program(program, train if program == "train" else evaluate)  # type: ignore[arg-type]

    errors = capfd.readouterr().err.splitlines()
    assert code == 2
    assert len(errors) == 1, errors
    assert errors[0].startswith(f"{program}.py: error: {path}:{number}: ")
    assert errors[0].endswith(f" ({flag})")
    assert expected in errors[0]
    assert not _written(tmp_path)
    assert not (tmp_path / "experiments").exists()


@pytest.mark.parametrize("task", TASK_LINES)
@pytest.mark.parametrize(
    ("program", "flag"),
    [("train", "--train_data"), ("train", "--eval_data"), ("evaluate", "--eval_data")],
)
def test_malformed_line_of_every_task_is_reported_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    program: str,
    flag: str,
    task: str,
) -> None:
    arguments = _arguments(tmp_path, program)
    field, good = TASK_LINES[task]
    bad, expected = malformed(good, field)["number as text"]
    for name in ("train.jsonl", "dev.jsonl"):
        write_jsonl(tmp_path / name, [good] * LINES)
    _spoil(tmp_path / FILES[flag], 3, bad)
    monkeypatch.setattr(sys, "argv", [f"{program}.py", *arguments, "--task", task])

    code = run_program(program, train if program == "train" else evaluate)  # type: ignore[arg-type]

    where = tmp_path / FILES[flag]
    assert code == 2
    assert capfd.readouterr().err == f"{program}.py: error: {where}:3: field {expected} ({flag})\n"
    assert not _written(tmp_path)
    assert not (tmp_path / "experiments").exists()


@pytest.mark.parametrize("task", TASK_LINES)
def test_every_task_goes_on_without_the_lines_it_skips(world: Path, task: str) -> None:
    field, good = TASK_LINES[task]
    lines = [json.dumps(good).encode(), *(bad for bad, _ in malformed(good, field).values())]
    data = world / f"{task}.jsonl"
    data.write_bytes(b"\n".join([*lines, lines[0]]) + b"\n")
    flags = {"task": task, "on_bad_line": "skip", "train_data": data, "eval_data": data}
    run_train(world, name=f"train-{task}", total_steps=2, eval_freq=2, **flags)
    flags |= {"train_data": None, "write_results": True}
    run_evaluate(world, name=f"evaluate-{task}", **flags)
    assert len(results(world, f"evaluate-{task}", f"{task}-step-0.jsonl")) == 2
    for program in ("train", "evaluate"):
        log = (world / "experiments" / f"{program}-{task}" / "run.log").read_text()
        assert f"bad lines skipped: {len(lines) - 1}, the first: {data}:2: not valid JSON" in log


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), corpus=6)


@pytest.mark.parametrize("flag", FILES)
def test_missing_file_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], flag: str
) -> None:
    arguments = _arguments(tmp_path)
    (tmp_path / FILES[flag]).unlink()
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    assert run_program("train", train) == 2
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 1
    assert FILES[flag] in errors[0]
    assert flag in errors[0]
    assert not _written(tmp_path)


@pytest.mark.parametrize(
    ("flag", "is_given"),
    [("encoder_format", False), ("retriever_format", False), ("encoder_format", True)],
)
def test_a_format_with_an_unknown_field_ends_a_run_before_anything_is_written(
    tmp_path: Path, flag: str, is_given: bool
) -> None:
    world = make_world(tmp_path)
    rows = [row | {"passages": [{"text": "oslo"}]} for row in questions(2)]
    write_jsonl(world / "train.jsonl", rows)
    write_jsonl(world / "dev.jsonl", rows)
    expected = rf"^--{flag} \(title: {{title}} {{url}}\) names the field 'url', which the first "
    with pytest.raises(OptionError, match=expected):
        run_train(world, name="odd", use_file_passages=is_given, **{flag: "title: {title} {url}"})
    assert not (world / "experiments").exists()


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return kept | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=120
    )


def test_program_leaves_with_exit_code_2_and_one_line(tmp_path: Path) -> None:
    arguments = _arguments(tmp_path)
    _spoil(tmp_path / "dev.jsonl", LINES, BAD_LINES["truncated"][0])
    done = _run([sys.executable, "train.py", *arguments])
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"train.py: error: {tmp_path / 'dev.jsonl'}:{LINES}: ")
    assert not _written(tmp_path)


def test_two_workers_end_together_with_one_line(tmp_path: Path) -> None:
    arguments = _arguments(tmp_path)
    _spoil(tmp_path / "passages.jsonl", 3, BAD_LINES["wrong type"][0])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc_per_node", "2"]
    start = time.monotonic()
    done = _run([*torchrun, "train.py", *arguments])
    assert time.monotonic() - start < 60
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if "train.py: error:" in line]
    assert ours == [
        f"train.py: error: {tmp_path / 'passages.jsonl'}:3: field 'id': found a list, "
        "expected a string (--passages)"
    ]
    # The one traceback is torchrun's own, about workers that left with exit code 2.
    assert done.stderr.count("Traceback") == 1
    assert re.search(r"exitcode *: *2\b", done.stderr)
    assert not _written(tmp_path)


@pytest.mark.parametrize(
    "mistake", [("--lr", "-1"), ("--gone", "1"), ("--retriever_model_path",), ("--model_path",)]
)
def test_two_workers_show_a_mistake_once(tmp_path: Path, mistake: tuple[str, ...]) -> None:
    arguments = _arguments(tmp_path)
    (tmp_path / "empty").mkdir()
    mistake = mistake if len(mistake) == 2 else (*mistake, str(tmp_path / "empty"))
    world = make_world(tmp_path / "world")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc_per_node", "2", "train.py", *arguments]
    done = _run([*torchrun, "--reader_model_type", str(world / "reader"), *mistake])
    assert done.returncode == 1
    assert done.stderr.count("train.py: error:") == 1
    assert re.search(r"exitcode *: *2\b", done.stderr)


def test_skipped_lines_are_counted_in_the_log_of_the_run(tmp_path: Path) -> None:
    world = make_world(tmp_path, corpus=6, train=4, dev=3)
    for name, number in (("train.jsonl", 1), ("passages.jsonl", 6)):
        _spoil(world / name, number, BAD_LINES["truncated"][0])
    assert run_train(world, name="skips", total_steps=1, on_bad_line="skip") == 0
    log = (world / "experiments" / "skips" / "run.log").read_text()
    assert f"bad lines skipped: 1, the first: {world / 'train.jsonl'}:1: not valid JSON" in log
    assert f"bad lines skipped: 1, the first: {world / 'passages.jsonl'}:6: not valid JSON" in log
