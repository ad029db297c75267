"""An example script as a user runs it, on tiny models put in place of the large ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.runs import make_world

ROOT = Path(__file__).resolve().parents[2]


def test_fewshot_and_its_evaluation(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    tiny = [
        "--reader_model_type", world / "reader", "--retriever_model_path", world / "retriever",
        "--passages", world / "passages.jsonl", "--eval_data", world / "dev.jsonl",
        "--cache_dir", world / "cache", "--n_context", 2, "--retriever_n_context", 3,
        "--text_maxlength", 64, "--generation_max_length", 8, "--no_progress",
    ]  # fmt: skip

    def run(script: str, *words: object) -> None:
        bin_folder = Path(sys.executable).parent
        environment = os.environ | {
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "LAUNCHER": "python",
            "SAVE_DIR": str(world / "runs"),
            "STEPS": "2",
        }
        command = ["bash", f"example_scripts/nq/{script}.sh", *map(str, [*tiny, *words])]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr

    training = ("--train_data", world / "train.jsonl", "--model_path", "none", "--warmup_steps", 1)
    run("train_fewshot", *training)
    run("evaluate")
    (results,) = (world / "runs" / "nq_data-large-evaluation").glob("dev-step-*.jsonl")
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert len(records) == 7
    assert all("generation" in record for record in records)
