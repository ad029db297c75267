"""The command lines of ScaleDown's guide, with tiny models in the place of large ones."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from gazetteer.compress import train_with_evaluation
from gazetteer.compress.plots import read_metrics
from gazetteer.compress.records import OfflineRecord, write_records
from gazetteer.compress.scoreboard import main as scoreboard
from gazetteer.compress.train_with_evaluation import main
from tests.support.runs import close_logs
from tests.support.tiny_causal import save_tiny_causal
from tests.support.tiny_data import passages, questions
from tests.support.tiny_models import save_tiny_reader, save_tiny_retriever

FILES = (
    "before_after_comparison.png",
    "training_curves.png",
    "speed_comparison.png",
    "metrics_report.json",
    "before_training_results.json",
    "after_training_results.json",
)
QUICK = "--timed_queries 2 --warm_up 0 --timed_tokens 2 --timed_batch_size 2 --max_answer_tokens 4"


def records(count: int, seed: int, found: int = 3) -> list[OfflineRecord]:
    texts = [f"{row['title']}: {row['text']}" for row in passages(count + found, seed)]
    return [
        OfflineRecord(
            query=asked["question"],
            documents=tuple(texts[number : number + 1 + number % found]),
            answer=asked["answers"][0],
            answers=tuple(asked["answers"]),
            reranking_scores=tuple(float(place) for place in range(1 + number % found)),
        )
        for number, asked in enumerate(questions(count, seed))
    ]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the guide's commands are typed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_records(tmp_path / "small_real_dataset.json", records(10, seed=1))
    write_records(tmp_path / "small_real_dataset_eval.json", records(5, seed=2))
    write_records(tmp_path / "full_dataset.json", records(12, seed=3))
    save_tiny_causal(tmp_path / "generator")
    save_tiny_reader(tmp_path / "t5")
    save_tiny_retriever(tmp_path / "modernbert")
    return tmp_path


def run(words: str, *, generator: str = "generator") -> int:
    tiny = f"--generator_model {generator} --compressor_model modernbert --precision fp32"
    try:
        return main(shlex.split(f"{words} {tiny} {QUICK}"))
    finally:
        close_logs()


@pytest.mark.parametrize(
    ("words", "folder", "steps"),
    [
        ("--compressor_type modernbert --batch_size 4 --num_epochs 1", "training_with_eval", 3),
        (
            "--compressor_type n_layers --num_layers 2 --batch_size 8 --num_epochs 1 "
            "--output_dir ./training_results",
            "training_results",
            2,
        ),
        (
            "--num_epochs 5 --eval_steps 4 --output_dir ./extended_training --max_steps 9 "
            "--num_memory_tokens 4 --compression_rate 8 --learning_rate 5e-5 --logging_steps 2 "
            "--device cpu",
            "extended_training",
            9,
        ),
    ],
)
def test_the_guides_commands_leave_what_they_promise(
    world: Path, words: str, folder: str, steps: int
) -> None:
    assert run(f"--train_data small_real_dataset.json {words}") == 0
    output = world / folder
    assert all((output / name).stat().st_size > 0 for name in FILES)
    assert (output / "checkpoints" / "final" / "compressor").is_dir()
    logged = read_metrics(output / "training" / "metrics.jsonl")
    assert max(line["step"] for line in logged if line["kind"] == "train") <= steps
    assert (output / "training" / "checkpoint" / f"step-{steps}").is_dir()
    if "--eval_steps 4" in words:
        assert [line["step"] for line in logged if line["kind"] == "eval"] == [4, 8]
        assert [line["step"] for line in logged if line["kind"] == "train"] == [2, 4, 6, 8]
    report = json.loads((output / "metrics_report.json").read_text())
    assert set(report["after_training"]) >= {"exact_match_avg", "token_f1_avg", "rouge_l_avg"}
    board = json.loads((output / "scoreboard" / "scoreboard.json").read_text())
    rows = {row["name"]: row for row in board["rows"]}
    assert len(rows) == 7 and board["questions"] == 5
    whole, compressed = rows["uncompressed"], rows["compressed, after training"]
    assert compressed["costs"]["kv_bytes"] < whole["costs"]["kv_bytes"]
    assert compressed["costs"]["rate"] > 1 and whole["costs"]["rate"] is None
    assert whole["differences"]["token_f1"]["interval"] == [0, 0]
    # Adapters cost nothing where a model is served.
    trained = rows["uncompressed, trained reader"]["costs"]
    assert trained["total_flops"] == whole["costs"]["total_flops"]


def test_the_same_command_goes_on_and_a_t5_learns_as_well(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--train_data full_dataset.json --num_epochs 1 --compressor_type n_layers "
    words += "--num_layers 1 --enable_reranking --lora_rank 0 --no_scoreboard --eval_steps 2"
    assert run(f"{words} --max_steps 2", generator="t5") == 0
    assert run(words, generator="t5") == 0
    log = (world / "training_with_eval" / "training" / "run.log").read_text()
    assert "resuming from" in log and "step 2" in log
    assert (world / "training_with_eval" / "training" / "checkpoint" / "step-3").is_dir()
    board = json.loads((world / "training_with_eval/scoreboard/scoreboard.json").read_text())
    assert [row["name"] for row in board["rows"]] == [
        "uncompressed", "compressed, before training", "compressed, after training",
    ]  # fmt: skip
    final = world / "training_with_eval" / "checkpoints" / "final"
    capsys.readouterr()
    try:
        arguments = f"--eval_data small_real_dataset_eval.json --compressed 16x={final} "
        arguments += "--output_dir board --timed_queries 2 --warm_up 0 --timed_tokens 2"
        assert scoreboard(shlex.split(arguments)) == 0
    finally:
        close_logs()
    table = capsys.readouterr().out
    assert table.endswith((world / "board" / "scoreboard.md").read_text())
    assert "| 16x |" in table and "| closed book |" in table


def test_one_of_several_workers_compares(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        train_with_evaluation, "run_command", lambda _, job, __: job.args[0].append(0)
    )
    monkeypatch.setattr(train_with_evaluation, "keep_final", lambda _: pytest.fail("not mine"))
    for name, number in (("RANK", "1"), ("SLURM_PROCID", "2")):
        with monkeypatch.context() as started:
            started.setenv(name, number)
            started.setenv("SLURM_LOCALID", "0")
            assert run("--train_data small_real_dataset.json") == 0


def test_costs_are_of_one_process(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert scoreboard(shlex.split("--eval_data e.json --compressed c --output_dir board")) == 2
    assert "error: started 2 times (WORLD_SIZE): costs are" in capsys.readouterr().err
    assert not (world / "board").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--device trainium", "--device (trainium) must be gpu or cpu"),
        ("--num_epochs 2", "needs bm25s (or --no_scoreboard): pip install"),
        ("--eval_data small_real_dataset.json", "must be another file than --train_data"),
        ("--train_data none.json", "none.json"),
        ("--generator_model nowhere/none", "--output_dir"),
    ],
)
def test_what_cannot_be_is_one_line(
    world: Path,
    words: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if words == "--num_epochs 2":
        # As if it were not installed: known before an hour of training, not after.
        monkeypatch.setitem(sys.modules, "bm25s", None)
    if "nowhere" in words:
        (world / "training_with_eval").write_text("a file where the folder belongs")
    assert run(f"--train_data small_real_dataset.json {words}") == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert len([line for line in error.split("\n") if "error:" in line]) == 1
