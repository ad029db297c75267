"""Handing a run to Slurm; what Slurm itself then does is in tests/cluster."""

from __future__ import annotations

import os
import pickletools
import sys
from pathlib import Path

import pytest
import submitit
from submitit.core.utils import cloudpickle_dump

from gazetteer import submission
from gazetteer.errors import LaunchError, OptionError
from gazetteer.launch_options import SlurmOptions
from gazetteer.options import Options
from gazetteer.program import run_program
from gazetteer.submission import SubmittedRun, private_folder, submit
from tests.support.tiny_data import questions, write_jsonl

LAUNCHER = ("RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "SLURM_STEP_ID", "SLURM_PROCID")
RUN = SubmittedRun(("/code/train.py", "--name", "a b"), requeues=2)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LAUNCHER, "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


def test_what_is_pickled_is_words_and_a_number(tmp_path: Path) -> None:
    path = tmp_path / "run.pkl"
    cloudpickle_dump(submitit.helpers.DelayedSubmission(RUN), path)
    names = []
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(path.read_bytes()):
        if opcode.name in ("GLOBAL", "INST"):
            names.append(tuple(str(argument).split()))
        elif opcode.name == "STACK_GLOBAL":
            names.append((texts[-2], texts[-1]))
        elif isinstance(argument, str):
            texts.append(argument)
    # Two classes known on the machines of the job, and no code by value.
    assert set(names) <= {
        ("submitit.core.utils", "DelayedSubmission"),
        ("gazetteer.submission", "SubmittedRun"),
        ("copyreg", "__newobj__"),
    }
    assert {"/code/train.py", "--name", "a b"} <= set(texts)


def test_an_interrupted_run_is_the_same_again_until_it_was_requeued_enough(monkeypatch) -> None:
    assert RUN.checkpoint().function == RUN
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert RUN.checkpoint().function == RUN
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert RUN.checkpoint() is None


def test_the_job_s_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "runs" / "submitit")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o750)
    assert private_folder(folder) == folder  # The group may read.


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(OptionError, match=r"^--slurm_folder .*jobs.*others can write there.*$"):
        private_folder(folder)


def test_what_is_no_folder_of_ours_is_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OptionError, match=r"^--slurm_folder \(.*file\)"):
        private_folder(tmp_path / "file")
    with pytest.raises(OptionError, match="no link to one"):
        private_folder(tmp_path / "link")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(OptionError, match="must be your own"):
        private_folder(tmp_path / "real")


@pytest.mark.parametrize(
    ("settings", "starter"),
    [
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "x",
          "MASTER_PORT": "1"}, "torchrun"),
        ({"SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}, "srun"),
    ],
)  # fmt: skip
def test_a_process_of_a_launcher_submits_nothing(monkeypatch, settings, starter: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match=f"leave out {starter}"):
        submit(Options(), ["train.py"])


def test_without_slurm_it_is_one_line(monkeypatch, capsys, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", questions(2))
    words = f"--task qa --reader_model_type t5-small --train_data {tmp_path}/train.jsonl \
        --passages {tmp_path}/train.jsonl --checkpoint_dir {tmp_path} --launcher submitit".split()
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_program("train", lambda options, ranks: 0) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("train.py: error: --launcher submitit: ") and "srun" in shown
    assert shown.count("\n") == 1


def test_flags_become_what_submitit_asks_slurm_for() -> None:
    asked = submission._parameters(
        SlurmOptions(slurm_gpus_per_node=4, slurm_mem="64GB", slurm_time=60), is_local=False
    )
    given = {name: value for name, value in asked.items() if value is not None}
    assert given == {
        "nodes": 1,
        "tasks_per_node": 4,
        "gpus_per_node": 4,
        "timeout_min": 60,
        "slurm_mem": "64GB",
        "slurm_signal_delay_s": 120,
        "slurm_srun_args": ["--kill-on-bad-exit=0"],
        "slurm_additional_parameters": {"requeue": True},
    }
    # Slurm's steps do not inherit it.
    asked = submission._parameters(SlurmOptions(slurm_cpus_per_task=3), is_local=False)
    assert asked["slurm_srun_args"] == ["--kill-on-bad-exit=0", "--cpus-per-task=3"]
    assert SlurmOptions().tasks_per_node == 1
    assert SlurmOptions(slurm_gpus_per_node=8, slurm_tasks_per_node=2).tasks_per_node == 2


def test_a_program_s_last_words_are_its_exit_code(tmp_path: Path, capsys) -> None:
    program = tmp_path / "program.py"
    for ending, code in (("", 0), ("sys.exit(75)", 75), ("sys.exit()", 0), ("sys.exit('no')", 1)):
        program.write_text(f"import sys\nassert sys.argv[1:] == ['x y']\n{ending}\n")
        assert submission._run([str(program), "x y"]) == code
    assert capsys.readouterr().err == "no\n"
