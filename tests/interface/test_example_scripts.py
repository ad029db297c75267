"""Every example script, run with a launcher that only prints: its commands fit the real options."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gazetteer.options import Options, build_parser, parse_options

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(
    path
    for path in (ROOT / "example_scripts").glob("*/*.sh")
    if path.parent.name not in ("dense", "factbook", "lead", "studies") and path.name != "common.sh"
)
SUBJECTS = ("anatomy", "virology")


def printed(script: Path, data: Path, *words: str, **environment: str) -> list[list[str]]:
    """The commands that a script would start, as lists of words."""
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    settings = clean | {"LAUNCHER": "print", "DATA_DIR": str(data)} | environment
    shown = subprocess.run(
        ["bash", str(script), *words],
        cwd=ROOT,
        env=settings,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stderr == ""
    return [shlex.split(line) for line in shown.stdout.splitlines()]


def parsed(command: list[str]) -> Options:
    """The options of a command, once all it reads is there: empty files and folders do."""
    program = Path(command[0]).stem
    assert program in ("train", "evaluate")
    values = build_parser(program).parse_args(command[1:])  # type: ignore[arg-type]
    for file in [*values.train_data, *values.eval_data, *(values.passages or [])]:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    for folder in (values.model_path, values.load_index_path):
        if folder not in (None, "none"):
            Path(folder).mkdir(parents=True, exist_ok=True)
    return parse_options(command[1:], program=program)  # type: ignore[arg-type]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a space in its name, and two subjects of MMLU."""
    folder = tmp_path / "my data"
    train = folder / "data" / "mmlu_data" / "5-shot" / "individual_train"
    train.mkdir(parents=True)
    for subject in SUBJECTS:
        (train / f"{subject}.5-shot-train.jsonl").touch()
    return folder


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_script_prints_commands_that_parse(script: Path, data: Path) -> None:
    commands = printed(script, data, "--seed", "17")
    assert len(commands) == (len(SUBJECTS) if script.stem == "5_shot" else 1)
    tasks = {"nq": "qa", "templama": "qa", "mmlu": "multiple_choice"}
    tasks["pretraining"] = script.stem
    for command in commands:
        options = parsed(command)
        values = build_parser(Path(command[0]).stem).parse_args(command[1:])  # type: ignore[arg-type]
        assert values.task == tasks.get(script.parent.name, script.parent.name)
        assert values.seed == 17
        assert options.experiment.folder.is_relative_to(data / "experiments")
        files = [*values.train_data, *values.eval_data, *(values.passages or [])]
        assert files
        assert all(Path(file).is_relative_to(data) for file in files)
        assert values.dropout == 0.1
        assert values.weight_decay == (0.01 if command[0] == "train.py" else 0.1)


def settings_of(script: str, data: Path, **environment: str) -> dict[str, object]:
    (command,) = printed(ROOT / "example_scripts" / script, data, **environment)
    return vars(build_parser(Path(command[0]).stem).parse_args(command[1:]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "nq/train_fewshot.sh",
            "total_steps=30 warmup_steps=5 lr=4e-05 lr_retriever=4e-05 scheduler=linear"
            " n_context=40 retriever_n_context=40 text_maxlength=512"
            " target_maxlength=16 per_gpu_batch_size=2"
            " temperature_gold=0.01 temperature_score=0.01 query_side_retriever_training=True"
            " refresh_index=-1 eval_freq=30 save_freq=30 log_freq=4 shuffle=True precision=fp32",
        ),
        (
            "nq/train.sh",
            "total_steps=10000 warmup_steps=100 lr=4e-05 lr_retriever=4e-05 scheduler=cosine"
            " refresh_index=0-1000:500,1000-10000:2000 per_gpu_batch_size=1 n_context=40"
            " eval_freq=500 log_freq=50 save_freq=5000 query_side_retriever_training=False",
        ),
        ("nq/evaluate.sh", "generation_max_length=32 target_maxlength=16 n_context=40"),
        ("nq/retrieve_only.sh", "retrieve_only=True n_context=40 text_maxlength=512"),
        (
            "mmlu/5_shot_multi.sh",
            "total_steps=250 warmup_steps=25 eval_freq=16 lr=5e-05 lr_retriever=1e-05 n_context=30"
            " temperature_gold=0.1 temperature_score=0.1 multiple_choice_train_permutations=all"
            " multiple_choice_eval_permutations=cyclic query_side_retriever_training=True",
        ),
        ("mmlu/full.sh", "total_steps=2000 warmup_steps=50 eval_freq=150"),
        ("mmlu/zero_shot.sh", "n_context=30 multiple_choice_eval_permutations=cyclic"),
        (
            "templama/train.sh",
            "total_steps=100 warmup_steps=20 n_context=20 eval_freq=20 qa_prompt_format={question}"
            " lr=4e-05 lr_retriever=4e-05 scheduler=linear",
        ),
        ("templama/evaluate.sh", "qa_prompt_format={question} n_context=20"),
        (
            "pretraining/mlm.sh",
            "total_steps=10000 warmup_steps=1000 lr=0.0001 lr_retriever=1e-05 scheduler=linear"
            " refresh_index=1000 retrieve_with_rerank=True text_maxlength=384 target_maxlength=64"
            " n_to_rerank_with_retrieve_with_rerank=100 n_context=20 per_gpu_batch_size=2"
            " min_words_per_lm_instance=10 shuffle=False",
        ),
        ("pretraining/lm.sh", "min_lm_context_ratio=0.25 max_lm_context_ratio=0.75"),
    ],
)
def test_settings_are_those_of_atlas(script: str, expected: str, data: Path) -> None:
    found = settings_of(script, data)
    for pair in expected.split():
        name, _, value = pair.partition("=")
        assert str(found[name]) == value, name


def test_mmlu_subjects_share_one_index(data: Path) -> None:
    first, second = map(parsed, printed(ROOT / "example_scripts/mmlu/5_shot.sh", data))
    assert first.index.save_index_path == second.index.load_index_path is not None
    assert first.index.load_index_path is None
    assert "anatomy" in str(first.data.train_data)
    assert "virology" in str(second.data.train_data)


def test_variables_reach_the_command(data: Path) -> None:
    found = settings_of("nq/train.sh", data, SIZE="xxl", TASK_DATA="triviaqa_data")
    assert found["total_steps"] == 5000
    assert found["reader_model_type"] == "google/t5-xxl-lm-adapt"
    assert "triviaqa_data" in str(found["train_data"])
    assert "train.jsonl" in str(settings_of("fever/train.sh", data, SHOTS="all")["train_data"])
    assert "trex-dev-kilt" in str(settings_of("kilt/train.sh", data, KILT="trex")["eval_data"])


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        ("torchrun", "torchrun --standalone --nproc_per_node 3 train.py "),
        ("srun", "srun --kill-on-bad-exit=1 python train.py "),
        (
            "submitit",
            "python train.py --launcher submitit --slurm_wait --slurm_nodes 5"
            " --slurm_gpus_per_node 3 ",
        ),
        ("python", "python train.py "),
    ],
)
def test_every_launcher_starts_the_same_program(
    tmp_path: Path, launcher: str, expected: str
) -> None:
    # Programs that only show how they were called stand in for the real ones.
    for name in ("torchrun", "srun", "python"):
        stub = tmp_path / name
        stub.write_text('#!/bin/sh\necho "$(basename "$0") $*"\n')
        stub.chmod(0o755)
    script = ROOT / "example_scripts" / "nq" / "train_fewshot.sh"
    shown = printed(
        script,
        Path("d"),
        LAUNCHER=launcher,
        WORKERS="3",
        NODES="5",
        PATH=f"{tmp_path}:{os.environ['PATH']}",
    )
    assert shlex.join(shown[0]).startswith(expected)
    plain = printed(script, Path("d"))
    assert shown[0][len(expected.split()) :] == plain[0][1:]


def test_inside_slurm_it_is_srun(tmp_path: Path) -> None:
    stub = tmp_path / "srun"
    stub.write_text('#!/bin/sh\necho "srun"\n')
    stub.chmod(0o755)
    shown = subprocess.run(
        ["bash", "example_scripts/nq/train.sh"],
        cwd=ROOT,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "srun\n"


def failed(script: str, **environment: str) -> str:
    shown = subprocess.run(
        ["bash", f"example_scripts/{script}"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATA_DIR": "/nonexistent"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 2
    assert shown.stderr.count("\n") == 1
    return shown.stderr


def test_mistakes_are_one_line() -> None:
    assert "LAUNCHER=mpi, expected" in failed("nq/train.sh", LAUNCHER="mpi")
    assert "no subjects in /nonexistent" in failed("mmlu/5_shot.sh", LAUNCHER="print")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_scripts_are_clean() -> None:
    files = sorted((ROOT / "example_scripts").rglob("*.sh"))
    subprocess.run(["shellcheck", "-x", *map(str, files)], cwd=ROOT, check=True)


def test_submit_runs_a_program_and_tells_of_its_failure(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import pathlib, sys\n"
        "pathlib.Path(sys.argv[1]).write_text(' '.join(sys.argv[2:]))\n"
        "sys.exit('broken' if 'fail' in sys.argv else 0)\n"
    )
    submit = [sys.executable, str(ROOT / "example_scripts" / "submit.py"), "--cluster", "local"]
    submit += ["--workers", "1", "--folder", str(tmp_path / "jobs"), "--", str(program)]
    out = tmp_path / "out"
    good = subprocess.run([*submit, str(out), "--flag", "a b"], capture_output=True, text=True)
    assert (good.returncode, out.read_text()) == (0, "--flag a b"), good.stderr
    assert (tmp_path / "jobs").stat().st_mode & 0o777 == 0o700
    bad = subprocess.run([*submit, str(out), "fail"], capture_output=True, text=True)
    assert bad.returncode == 1
    assert "broken" in bad.stderr
    (tmp_path / "jobs").chmod(0o777)
    refused = subprocess.run([*submit, str(out)], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "others can write there" in refused.stderr


@pytest.mark.parametrize(
    ("code", "restarts", "is_requeued"),
    [
        (0, 0, False),
        (1, 0, False),
        (2, 0, False),
        (3, 0, False),
        (75, 0, True),
        (137, 0, True),
        # SIGUSR2, as at a pre-emption, before the program has its own handler of it.
        (140, 0, True),
        (143, 0, True),
        (75, 2, False),
    ],
)
def test_the_job_script_requeues_what_can_go_on(
    tmp_path: Path, code: int, restarts: int, is_requeued: bool
) -> None:
    for name, does in (("srun", f"exit {code}"), ("scontrol", 'echo "scontrol $*"')):
        stub = tmp_path / name
        stub.write_text(f"#!/bin/sh\n{does}\n")
        stub.chmod(0o755)
    settings = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "16", "RESTARTS": "2"}
    done = subprocess.run(
        ["bash", str(ROOT / "example_scripts" / "job.sh"), "train.py"],
        env=settings | {"SLURM_RESTART_COUNT": str(restarts)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert ("scontrol requeue 16" in done.stdout) is is_requeued
