"""ScaleDown's training on two workers: one global batch, one run, and one process that compares."""

from __future__ import annotations

import json
from pathlib import Path

from gazetteer.compress.records import write_records
from gazetteer.compress.train_with_evaluation import build_parser, keep_final, train_on_records
from gazetteer.records import Ranks
from tests.end_to_end.test_train_with_evaluation import records
from tests.support.ranks import run_on_ranks
from tests.support.tiny_causal import save_tiny_causal


def train(ranks: Ranks, words: list[str]) -> int:
    codes: list[int] = []
    train_on_records(codes, build_parser().parse_args(words), ranks)
    return codes[0]


def test_two_workers_share_the_steps_of_an_epoch(tmp_path: Path) -> None:
    write_records(tmp_path / "train.json", records(9, seed=1))
    write_records(tmp_path / "train_eval.json", records(3, seed=2))
    save_tiny_causal(tmp_path / "generator")
    words = ["--train_data", str(tmp_path / "train.json"), "--output_dir", str(tmp_path / "out"),
             "--generator_model", str(tmp_path / "generator"), "--compressor_type", "n_layers",
             "--num_layers", "1", "--batch_size", "2", "--precision", "fp32",
             "--max_answer_tokens", "4", "--eval_steps", "3"]  # fmt: skip
    assert run_on_ranks(train, 2, words) == [0, 0]
    # Nine examples, two on each of two workers.
    final = keep_final(tmp_path / "out")
    assert json.loads((final / "state.json").read_text())
    assert (tmp_path / "out" / "training" / "checkpoint" / "step-3").is_dir()
    lines = (tmp_path / "out" / "training" / "eval-step-3.jsonl").read_text().splitlines()
    assert len(lines) == 3
