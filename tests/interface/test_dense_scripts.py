"""The scripts of example_scripts/dense: every command they would start fits its program."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest

from gazetteer.dense import build_index, evaluate, retrieve, train_dr
from gazetteer.options import build_parser

ROOT = Path(__file__).resolve().parents[2]
STEPS = [
    "preprocessing/prepare_msmarco.py",
    "preprocessing/build_train.py",
    "gazetteer.dense.train_dr",
    "gazetteer.dense.build_index",
    "gazetteer.dense.retrieve",
    "preprocessing/build_hn.py",
    "gazetteer.dense.train_dr",
    "gazetteer.dense.build_index",
    "gazetteer.dense.retrieve",
    "gazetteer.dense.evaluate",
]


def commands(**environment: str) -> list[tuple[str, list[str]]]:
    """Program and words of each command."""
    shown = subprocess.run(
        ["bash", "example_scripts/dense/msmarco.sh"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "LAUNCHER": "print"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stderr == ""
    found = [shlex.split(line) for line in shown.stdout.splitlines()]
    return [(w[1], w[2:]) if w[0] == "-m" else (w[0], w[1:]) for w in found]


def test_the_five_steps_in_order() -> None:
    assert [program for program, _ in commands()] == STEPS


def test_every_command_fits_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "preprocessing"))
    parsers: dict[str, ArgumentParser] = {
        "gazetteer.dense.build_index": build_index.build_parser(),
        "gazetteer.dense.retrieve": retrieve.build_parser(),
        "gazetteer.dense.evaluate": evaluate.build_parser(),
    }
    stage = {"MODEL_FLAGS": "--pooling mean --normalize", "HN_FLAGS": "--positive_margin"}
    for program, words in commands(**stage):
        if program in parsers:
            parsers[program].parse_args(words)
        elif program == "gazetteer.dense.train_dr":
            values, rest = train_dr.build_parser().parse_known_args(words)
            assert values.doc_template == "Title: <title> Text: <text>"
            known = build_parser("train").parse_args(["--task", "dense", *rest])
            assert (known.q_max_len, known.p_max_len, known.train_n_passages) == (32, 128, 8)
        else:
            module = importlib.import_module(Path(program).stem)
            assert Path(module.__file__ or "").parent == ROOT / "preprocessing"
            module.build_parser().parse_args(words)
    assert "training_lines" in sys.modules
