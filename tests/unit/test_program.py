import sys

import pytest

from gazetteer.program import run_program, speaks_for_machine

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
