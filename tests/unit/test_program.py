import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gazetteer import program
from gazetteer.errors import TRY_AGAIN
from gazetteer.program import run_program, speaks_for_machine
from gazetteer.records import Ranks
from tests.support.tiny_data import questions, write_jsonl

LAUNCHER = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_LOCALID")


@pytest.mark.parametrize(
    ("environment", "speaks"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "1", "LOCAL_RANK": "1"}, False),
        ({"RANK": "8", "LOCAL_RANK": "0"}, True),
        ({"RANK": "1"}, False),
        ({"SLURM_PROCID": "3", "SLURM_LOCALID": "1"}, False),
        ({"SLURM_PROCID": "3", "SLURM_LOCALID": "0"}, True),
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "RANK": "1", "LOCAL_RANK": "1"}, False),
    ],
)
def test_one_process_of_each_machine_speaks(environment, speaks):
    assert speaks_for_machine(environment) is speaks


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("words", "code"), [([], 2), (["--gone"], 2), (["--seed", "x"], 2), (["--help"], 0)]
)
def test_mistakes_in_options_are_shown_once_and_end_every_rank(
    monkeypatch, capsys, rank, words, code
):
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    try:
        found = run_program("train", lambda options, ranks: 0)
    except SystemExit as left:
        found = left.code
    assert found == code
    shown = capsys.readouterr()
    assert bool(shown.out + shown.err) is (rank == 0)


@pytest.mark.parametrize("rank", [0, 1])
def test_too_few_processes_are_named_once_and_end_every_rank(
    monkeypatch, capsys, tmp_path: Path, rank
):
    write_jsonl(tmp_path / "train.jsonl", questions(2))
    words = f"--task qa --reader_model_type t5-small --train_retriever --refresh_index 5 \
        --refresh_mode dedicated --refresh_workers 2 --train_data {tmp_path}/train.jsonl \
        --passages {tmp_path}/train.jsonl --checkpoint_dir {tmp_path}".split()
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": 1,
                        "MASTER_ADDR": "127.0.0.1"}.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    assert run_program("train", lambda options, ranks: 0) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == (1 if rank == 0 else 0)
    assert rank or shown.startswith(
        "train.py: error: --refresh_workers (2) must be below 2, the number of processes started:"
    )


def test_a_job_is_put_back_into_the_queue_before_any_worker_leaves(
    monkeypatch, tmp_path: Path
) -> None:
    """With `srun --kill-on-bad-exit`, or torchrun inside srun, the first to leave ends rank 0."""
    events = []

    @contextmanager
    def group(**_: object) -> Iterator[Ranks]:
        yield Ranks(world_size=2)
        events.append("all may leave")

    monkeypatch.setattr(program, "process_group", group)
    monkeypatch.setattr(program, "requeue", lambda environment: events.append("requeued"))
    write_jsonl(tmp_path / "train.jsonl", questions(2))
    words = f"--task qa --reader_model_type t5-small --train_data {tmp_path}/train.jsonl \
        --passages {tmp_path}/train.jsonl".split()
    assert run_program("train", lambda options, ranks: TRY_AGAIN, words) == TRY_AGAIN
    assert events == ["requeued", "all may leave"]
