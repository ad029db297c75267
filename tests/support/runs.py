"""Whole runs in a test: the real options, data files and loops, on tiny models."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from gazetteer.evaluation.run import evaluate
from gazetteer.options import Options, parse_options
from gazetteer.records import Ranks
from gazetteer.training.loop import train
from tests.support.tiny_data import passages, questions, write_jsonl
from tests.support.tiny_models import save_tiny_reader, save_tiny_retriever


def make_world(folder: Path, *, corpus: int = 40, train: int = 24, dev: int = 7) -> Path:
    """Models and data for a run; returns the folder."""
    save_tiny_reader(folder / "reader")
    save_tiny_retriever(folder / "retriever")
    write_jsonl(folder / "passages.jsonl", passages(corpus))
    write_jsonl(folder / "train.jsonl", questions(train))
    write_jsonl(folder / "dev.jsonl", questions(dev, seed=2))
    return folder


def words_of(world: Path, program: str, **flags: Any) -> list[str]:
    """The command line of a small run; `flags` override, True switches on, None leaves out."""
    values: dict[str, Any] = {
        "task": "qa",
        "reader_model_type": world / "reader",
        "retriever_model_path": world / "retriever",
        "passages": world / "passages.jsonl",
        "eval_data": world / "dev.jsonl",
        "checkpoint_dir": world / "experiments",
        "cache_dir": world / "cache",
        "text_maxlength": 64,
        "generation_max_length": 8,
        "no_progress": True,
        "dropout": 0,
        "n_context": 2,
        "retriever_n_context": 3,
        "per_gpu_batch_size": 2,
    }
    if program == "train":
        values |= {
            "train_data": world / "train.jsonl",
            "total_steps": 4,
            "warmup_steps": 1,
            "log_freq": 1,
            "eval_freq": 1000,
            "save_freq": 1000,
        }
    words: list[str] = []
    for name, value in (values | flags).items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None and value is not False:
            words += [f"--{name}", str(value)]
    return words


def options_of(world: Path, program: str, **flags: Any) -> Options:
    """Options of a small run, from its command line."""
    return parse_options(words_of(world, program, **flags), program=program)  # type: ignore[arg-type]


def run_train(world: Path, ranks: Ranks | None = None, **flags: Any) -> int:
    """Train in this process."""
    try:
        return train(options_of(world, "train", **flags), ranks or Ranks())
    finally:
        close_logs()


def run_evaluate(world: Path, ranks: Ranks | None = None, **flags: Any) -> int:
    """Evaluate in this process."""
    try:
        return evaluate(options_of(world, "evaluate", **flags), ranks or Ranks())
    finally:
        close_logs()


def close_logs() -> None:
    """Close run.log, which a program would leave to the end of the process."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler):
            handler.close()
            root.removeHandler(handler)


def logged(world: Path, name: str, kind: str = "train") -> dict[int, dict[str, float]]:
    """metrics.jsonl of an experiment by step."""
    text = (world / "experiments" / name / "metrics.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    return {record["step"]: record for record in records if record["kind"] == kind}


def results(world: Path, name: str, file: str) -> list[dict[str, Any]]:
    """Records of a results file."""
    text = (world / "experiments" / name / file).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]
