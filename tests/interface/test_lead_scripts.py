"""Every stage of LEAD, with the seed's arguments: its commands fit the real parsers."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gazetteer.options import Options, parse_options
from tests.interface.test_documented_tools import Parsed, load
from tests.interface.test_example_scripts import ROOT, printed

FOLDER = ROOT / "example_scripts" / "lead"
TRAINING = ["mspas", "3000", "200", "30", "16", "7"]
DISTILLATION = ["mspas", "3000", "4", "200", "30", "16", "7", "0.2", "runs/teacher", "runs/student"]
EVALUATION = ["mspas", "3000", "runs/trained", "1000", "500", "2000", "200", "30"]
STAGES = {
    "train_de": (TRAINING, 20_000, "2e-5", "de", None),
    "train_6_layer_de": (TRAINING, 20_000, "2e-5", "de", None),
    "train_12_layer_de": (TRAINING, 20_000, "2e-5", "de", None),
    "train_12_layer_col": (TRAINING, 20_000, "2e-5", "colbert", None),
    "train_12_layer_ce": (TRAINING, 200_000, "1e-5", "cross", None),
    "train_24_layer_col": (TRAINING, 20_000, "1e-5", "colbert", None),
    "distill_from_12de_to_6de": (DISTILLATION, 50_000, "5e-5", "de", "de"),
    "distill_from_12cb_to_6de": (DISTILLATION, 50_000, "2e-5", "de", "colbert"),
    "distill_from_12ce_to_6de": (DISTILLATION, 1_000_000, "5e-5", "de", "cross"),
    "distill_from_24cb_to_12de": (DISTILLATION, 50_000, "2e-5", "de", "colbert"),
}
"""Arguments, micro-batches, learning rate, kind of what is trained, kind of its teacher."""


def parsed(command: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What a program's own parser makes of a command."""
    words = command[1:] if command[0] == "python" else command
    name, rest = (words[1], words[2:]) if words[0] == "-m" else (words[0], words[1:])
    module = load(name, monkeypatch)
    parse_args = argparse.ArgumentParser.parse_args

    def stop_there(self: argparse.ArgumentParser, *args: Any) -> argparse.Namespace:
        raise Parsed(parse_args(self, *args))

    with monkeypatch.context() as patch, pytest.raises(Parsed) as caught:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop_there)
        module.main(rest)
    return caught.value.values


def training(command: list[str]) -> Options:
    """The options of a training command, once what it reads is there."""
    assert command[0] == "train.py"
    for flag in ("--train_data", "--passages"):
        path = Path(command[command.index(flag) + 1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for flag in ("--teacher", "--retriever_model_path"):
        model = Path(command[command.index(flag) + 1]) if flag in command else Path()
        if model.is_absolute():
            model.mkdir(parents=True, exist_ok=True)
    return parse_options(command[1:], program="train")


@pytest.mark.parametrize("stage", STAGES)
def test_stages_train_with_the_settings_of_lead(stage: str, tmp_path: Path) -> None:
    words, steps, rate, kind, teacher = STAGES[stage]
    (command,) = printed(FOLDER / f"{stage}.sh", tmp_path, *words, "--precision", "bf16")
    options = training(command)
    dense, lead, optimisation = options.dense, options.lead, options.optimisation
    assert options.task.task == "dense"
    assert optimisation.total_steps == steps
    assert optimisation.lr_retriever == float(rate)
    assert (options.data.per_gpu_batch_size, dense.train_n_passages) == (16, 8)
    assert (dense.p_max_len, dense.q_max_len) == (200, 30)
    assert (optimisation.weight_decay, optimisation.clip) == (0.0, 2.0)
    assert optimisation.precision == "bf16"
    assert lead.retriever_kind == kind
    first = "train.jsonl" if stage == "train_de" else "train-hard.jsonl"
    assert options.data.train_data == [str(tmp_path / "lead" / "mspas" / first)]
    if teacher is None:
        assert lead.teacher is None
        return
    assert (lead.teacher, lead.teacher_kind) == ("runs/teacher", teacher)
    assert options.retriever.retriever_model_path == "runs/student"
    assert (lead.train_teacher, lead.layer_score_reweight) == (True, True)
    assert (lead.distill_layer_num, lead.layer_temperature, dense.warmup_ratio) == (4, 10.0, 0.2)


def test_hard_negatives_are_searched_and_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["mspas", "3000", "runs/miner", "2000", "200", "30"]
    script = FOLDER / "retrieve_hard_negatives_academic.sh"
    *tools, copy = printed(script, tmp_path, *words, "--positive_margin")
    index, search, build = (parsed(tool, monkeypatch) for tool in tools)
    assert index.model_name_or_path == "runs/miner/checkpoint/step-2000/retriever"
    assert (index.p_max_len, search.q_max_len, search.retrieve_depth) == (200, 30, 500)
    assert index.output_dir == search.output_dir
    assert build.hn_file == search.trec_save_path
    assert (build.depth, build.n_sample, build.form) == (100, 100, "reference")
    assert build.positive_margin == 0.05
    assert copy[0] == "cp"


@pytest.mark.parametrize("script", ["evaluate_6_layer_de", "evaluate_12_layer_de"])
def test_checkpoints_are_evaluated_one_after_the_other(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = printed(FOLDER / f"{script}.sh", tmp_path, *EVALUATION)
    found = [parsed(command, monkeypatch) for command in commands]
    steps = [f"runs/trained/checkpoint/step-{step}/retriever" for step in (1000, 1500, 2000)]
    assert [values.model_name_or_path for values in found[0::3]] == steps
    assert [values.files[1] for values in found[2::3]] == [
        values.trec_save_path for values in found[1::3]
    ]


def test_data_and_all_stages_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, build = (
        parsed(command, monkeypatch)
        for command in printed(FOLDER / "get_data.sh", tmp_path)
        if command[0] == "python"
    )
    assert prepare.output_dir == tmp_path / "lead" / "mspas"
    assert build.form == "reference"
    shown = printed(FOLDER / "all.sh", tmp_path, *DISTILLATION[:8])
    trained = [training(command) for command in shown if command[0] == "train.py"]
    assert len(trained) == len(STAGES)
    # Teachers and students are what earlier stages trained.
    made: set[str] = set()
    for options in trained:
        if options.lead.teacher is not None:
            assert {options.lead.teacher, options.retriever.retriever_model_path} <= made
        made.add(f"{options.experiment.folder}/checkpoint/latest/retriever")


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("*_*.sh")))
def test_missing_arguments_are_one_line(script: str) -> None:
    if script == "get_data.sh":
        return
    done = subprocess.run(
        ["bash", f"example_scripts/lead/{script}", "mspas"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{script}: expected DATASET MASTER_PORT" in done.stderr
