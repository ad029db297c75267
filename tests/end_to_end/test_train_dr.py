"""OpenMatch's training commands as its document has them, on tiny models."""

from __future__ import annotations

import fcntl
import shlex
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from gazetteer.dense.train_dr import build_parser, main, train_words
from gazetteer.options import Options, parse_options
from gazetteer.run_lock import LOCK_FILE
from gazetteer.training import loop
from tests.support.dense_runs import make_dense_world, training_lines
from tests.support.runs import close_logs
from tests.support.tiny_data import write_jsonl
from tests.support.tiny_models import reader_tokenizer, tiny_t5

STAGE_1 = """
    --output_dir $CHECKPOINT_DIR/msmarco/t5 --model_name_or_path $PLM_DIR/t5-base-scaled
    --do_train --save_steps 2 --eval_steps 2
    --train_path $PROCESSED_DIR/train.new.jsonl --eval_path $PROCESSED_DIR/val.jsonl
    --fp16 --per_device_train_batch_size 8 --train_n_passages 8 --learning_rate 5e-6
    --q_max_len 32 --p_max_len 128 --num_train_epochs 3 --logging_dir $LOG_DIR/msmarco/t5
    --evaluation_strategy steps
"""
STAGE_2 = """
    --output_dir $CHECKPOINT_DIR/msmarco/t5_s2 --model_name_or_path $CHECKPOINT_DIR/msmarco/t5
    --do_train --save_steps 2 --eval_steps 2
    --train_path $PROCESSED_DIR/train.new.jsonl --eval_path $PROCESSED_DIR/val.jsonl
    --fp16 --per_device_train_batch_size 8 --train_n_passages 8 --learning_rate 5e-6
    --q_max_len 32 --p_max_len 128 --num_train_epochs 3 --logging_dir $LOG_DIR/msmarco/t5_s2
    --evaluation_strategy steps --negatives_x_device
"""
"""The two commands, with 20000 steps for 2."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token ids in OpenMatch's own form, for a T5 and a BERT."""
    world = make_dense_world(tmp_path_factory.mktemp("openmatch"))
    tiny_t5().save_pretrained(world / "t5-base-scaled")
    reader_tokenizer().save_pretrained(world / "t5-base-scaled")
    for name, count in (("train.new.jsonl", 20), ("val.jsonl", 5)):
        write_jsonl(world / name, [as_tokens(world, line) for line in training_lines(count)])
    return world


def as_tokens(world: Path, line: dict) -> dict:
    tokenizer = AutoTokenizer.from_pretrained(world / "t5-base-scaled")

    def ids(passage: dict) -> list[int]:
        text = f"Title: {passage['title']} Text: {passage['text']}"
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    return {
        "query": tokenizer(line["query"], add_special_tokens=False)["input_ids"],
        "positives": [ids(passage) for passage in line["positives"]],
        "negatives": [ids(passage) for passage in line["negatives"]],
    }


def run(world: Path, command: str, *more: object) -> int:
    for variable in ("CHECKPOINT_DIR", "PLM_DIR", "PROCESSED_DIR", "LOG_DIR"):
        folder = {"CHECKPOINT_DIR": "out", "LOG_DIR": "logs"}.get(variable, "")
        command = command.replace(f"${variable}", str(world / folder))
    try:
        words = [*shlex.split(command), "--data_cache_dir", str(world / "cache")]
        return main([*words, "--disable_tqdm", *map(str, more)])
    finally:
        close_logs()


def test_two_runs_in_one_folder_are_refused(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = world / "out/msmarco/t5_twice"
    folder.mkdir(parents=True)
    with (folder / LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code = run(world, STAGE_1.replace("msmarco/t5 ", "msmarco/t5_twice "),
                   "--collective_timeout_seconds", 1)  # fmt: skip
    assert code == 2
    assert "t5_twice: another run of this name is under way" in capsys.readouterr().err
    assert not (folder / "checkpoint").exists()


def test_both_stages_run_as_they_are_written(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(world, STAGE_1) == 0
    said = capsys.readouterr().out
    assert "--do_train has no effect: it trains in any case" in said
    assert "--fp16 leaves the retriever in float32" in said
    assert "the same: train.py --task dense --name t5" in said
    assert run(world, STAGE_2) == 0
    folder = world / "out/msmarco/t5_s2"
    # 60 examples, 8 at once.
    assert sorted(p.name for p in folder.glob("checkpoint-*")) == [
        f"checkpoint-{step}" for step in (2, 4, 6, 8)
    ]
    evaluated = (folder / "metrics.jsonl").read_text()
    assert evaluated.count('"val.jsonl/eval_loss"') == 4
    assert list((world / "logs/msmarco/t5_s2").glob("events.*"))
    assert run(world, STAGE_2.replace("t5_s2", "t5_s3").replace("/t5 ", "/t5/checkpoint-4 ")) == 0


def test_a_folder_of_something_else_is_refused(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = world / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    command = STAGE_1.replace("$CHECKPOINT_DIR/msmarco/t5", str(other))
    assert run(world, command) == 2
    assert "--output_dir" in capsys.readouterr().err
    assert [p.name for p in other.iterdir()] == ["notes.txt"]
    assert run(world, command, "--overwrite_output_dir", "--max_steps", 1) == 0
    assert (other / "notes.txt").read_text() == "mine"


def test_a_run_goes_on_or_begins_anew(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    original = loop._apply

    def counting(run) -> None:
        steps.append(run.state.position.micro_batches)
        original(run)

    monkeypatch.setattr(loop, "_apply", counting)
    command = STAGE_1.replace("msmarco/t5", "again")
    run(world, command, "--max_steps", 2)
    run(world, command, "--max_steps", 3)
    run(world, command, "--max_steps", 1, "--overwrite_output_dir")
    assert steps == [1, 2, 3, 1]
    links = sorted(p.name for p in (world / "out/again").glob("checkpoint-*"))
    assert links == ["checkpoint-1"]


def words_of(world: Path, *more: str) -> Options:
    values, rest = build_parser().parse_known_args(
        [
            "--output_dir",
            str(world / "mapped"),
            "--model_name_or_path",
            str(world / "retriever"),
            "--train_path",
            str(world / "train.jsonl"),
            *more,
        ]
    )
    return parse_options(train_words(values, rest), program="train")


def test_steps_are_updates_and_the_rest_keeps_its_meaning(world: Path) -> None:
    options = words_of(
        world, "--gradient_accumulation_steps", "4", "--save_steps", "10", "--eval_strategy", "no",
        "--max_steps", "20", "--warmup_steps", "5", "--logging_strategy", "no",
    )  # fmt: skip
    assert options.experiment.save_freq == 40
    assert options.optimisation.total_steps == 80
    assert options.optimisation.warmup_steps == 20
    assert options.experiment.log_freq > 10**6
    assert options.optimisation.weight_decay == 0
    assert options.optimisation.scheduler == "linear"
    assert options.experiment.seed == 42
    assert options.data.shuffle
    assert options.retriever.retriever_pooling == "cls"


def test_what_build_index_embeds_is_what_is_trained_on(world: Path) -> None:
    assert words_of(world).dense.doc_template == "<title>[SEP]<text>"
    assert words_of(world, "--doc_template", "<text>").dense.doc_template == "<text>"


def test_distillation_and_flags_of_our_own(world: Path) -> None:
    options = words_of(
        world, "--distillation", "--distil_mode", "listwise", "--dense_temperature", "0.5"
    )
    assert options.dense.dense_loss == "kl"
    assert options.dense.dense_temperature == 0.5
    assert words_of(world, "--param_efficient_method", "lora").towers.lora_rank == 8


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--evaluation_strategy", "epoch"], "invalid choice: 'epoch'"),
        (["--param_efficient_method", "prefix"], "--param_efficient_method (prefix) must be lora"),
        (["--no_such_flag", "1"], "no_such_flag"),
        (["--train_dir", "/nowhere"], "--train_path or --train_dir"),
        (["--adam_beta1", "0.8"], "--adam_beta1 (0.8) must be 0.9"),
    ],
)
def test_what_cannot_be_honoured_is_one_line(
    world: Path, capsys: pytest.CaptureFixture[str], more: list[str], problem: str
) -> None:
    command = STAGE_1.replace("msmarco/t5", "refused")
    try:
        code = run(world, command, *more)
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    error = capsys.readouterr().err
    assert problem in error
    assert error.count("\n") == 1
