"""Whole runs of LEAD: teachers warmed up, students taught, both resumed exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sentence_transformers
import torch
from safetensors.torch import load_file

from gazetteer.dense.distillation import open_model
from gazetteer.dense.training import train as train_dense
from gazetteer.dense.warm_up import train as train_scorer
from gazetteer.errors import CheckpointError, DataError, OptionError
from gazetteer.records import Ranks
from tests.support.dense_runs import dense_options_of, make_dense_world
from tests.support.lead_models import save_encoder
from tests.support.ranks import run_on_ranks
from tests.support.runs import close_logs, logged, make_world, run_train
from tests.support.tiny_data import write_jsonl

KINDS = ("de", "colbert", "cross")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    folder = make_dense_world(tmp_path)
    save_encoder(folder / "student", layers=2, seed=1)
    save_encoder(folder / "teacher", layers=3, seed=2)
    return folder


def run(world: Path, name: str, ranks: Ranks | None = None, **flags: Any) -> int:
    """A short run from the world's student."""
    settings = {"retriever_model_path": world / "student", "retriever_pooling": "cls"}
    options = dense_options_of(world, name=name, **(settings | flags))
    kind = options.lead.retriever_kind
    try:
        return (train_dense if kind == "de" else train_scorer)(options, ranks or Ranks())
    finally:
        close_logs()


def last(world: Path, name: str, step: int, part: str = "retriever") -> dict[str, torch.Tensor]:
    folder = world / "experiments" / name / "checkpoint" / f"step-{step}" / part
    return load_file(folder / "model.safetensors")


def losses(world: Path, name: str, key: str = "loss/train_loss") -> list[float]:
    return [record[key] for record in logged(world, name).values()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_is_warmed_up_and_teaches(world: Path, kind: str) -> None:
    warm = {"retriever_kind": kind, "retriever_model_path": world / "teacher"}
    assert run(world, "warm", total_steps=30, lr_retriever=3e-3, **warm) == 0
    warming = losses(world, "warm")
    assert sum(warming[-5:]) < 0.8 * sum(warming[:5])
    teacher = world / "experiments/warm/checkpoint/latest/retriever"
    taught = {
        "teacher": teacher, "teacher_kind": kind, "distill_layer_num": 2,
        "layer_resample_steps": 1, "layer_score_reweight": True, "eval_data": world / "dev.jsonl",
        "eval_freq": 10,
    }  # fmt: skip
    assert run(world, "taught", total_steps=20, **taught) == 0
    for term in ("student", "final", "layers"):
        course = losses(world, "taught", f"loss/{term}_loss")
        assert sum(course[-5:]) < sum(course[:5]), term
    # A frozen teacher is as it was, and no part of the checkpoint.
    assert not (world / "experiments/taught/checkpoint/latest/teacher").exists()
    assert set(logged(world, "taught", "eval")) == {10, 20}


@pytest.mark.parametrize("kind", KINDS)
def test_joint_training_changes_the_teacher_and_resumes_exactly(world: Path, kind: str) -> None:
    flags: dict[str, Any] = {
        "teacher": world / "teacher", "teacher_kind": kind, "train_teacher": True,
        "distill_layer_num": 1, "layer_resample_steps": 2, "dropout": 0.1,
    }  # fmt: skip
    run(world, "whole", save_freq=3, **flags)
    run(world, "parts", total_steps=6, save_freq=3, **flags)
    steps = world / "experiments/parts/checkpoint"
    for name in ("step-6", "latest"):
        (steps / name).rename(world / f"dropped-{name}")
    run(world, "parts", save_freq=100, **flags)
    for part in ("retriever", "teacher"):
        whole, resumed = last(world, "whole", 6, part), last(world, "parts", 6, part)
        assert all(torch.equal(whole[name], resumed[name]) for name in whole), part
    before = load_file(world / "teacher/model.safetensors")
    after = last(world, "whole", 6, "teacher")
    moved = [
        name for name in before if name in after and not torch.equal(before[name], after[name])
    ]
    assert len(moved) > 10


def test_two_workers_learn_what_one_does(world: Path) -> None:
    flags: dict[str, Any] = {
        "teacher": world / "teacher", "teacher_kind": "colbert", "train_teacher": True,
        "distill_layer_num": 2, "layer_score_reweight": True,
    }  # fmt: skip
    run(world, "one", per_gpu_batch_size=4, **flags)
    run_on_ranks(_run_on_rank, 2, world, flags)
    alone, together = losses(world, "one"), losses(world, "two")
    assert together == pytest.approx(alone, rel=1e-4)
    for part in ("retriever", "teacher"):
        first, second = last(world, "one", 6, part), last(world, "two", 6, part)
        for name in first:
            assert torch.allclose(first[name], second[name], atol=2e-4), (part, name)


def test_a_taught_student_mines_and_is_measured_alike_on_two_workers(world: Path) -> None:
    flags: dict[str, Any] = {
        "teacher": world / "teacher", "distill_layer_num": 2, "train_n_passages": 3,
        "passages": world / "collection/corpus.jsonl", "mine_negatives": 3, "mine_depth": 12,
        "refresh_index": "0-100:2", "dev_queries": world / "collection", "eval_freq": 3,
        "lora_rank": 2, "add_linear_head": True, "projection_out_dim": 8,
    }  # fmt: skip
    run(world, "one", per_gpu_batch_size=4, **flags)
    run_on_ranks(_run_on_rank, 2, world, flags)
    assert losses(world, "two") == pytest.approx(losses(world, "one"), rel=1e-4)
    name = "collection/nDCG@10"
    alone, together = (logged(world, name_of, "eval") for name_of in ("one", "two"))
    assert list(alone) == [3, 6]
    for step, record in alone.items():
        assert together[step][name] == pytest.approx(record[name], abs=1e-3)
    reports = [
        (world / "experiments" / each / "mining.json").read_text() for each in ("one", "two")
    ]
    assert reports[0] == reports[1]
    assert '"4"' in reports[0]


def _run_on_rank(ranks: Ranks, world: Path, flags: dict[str, Any]) -> int:
    return run(world, "two", ranks, per_gpu_batch_size=2, **flags)


def test_dual_encoders_embed_as_their_folders_say(world: Path) -> None:
    options = dense_options_of(world, retriever_pooling="cls")
    library = sentence_transformers.SentenceTransformer(str(world / "teacher"), device="cpu")
    library.append(sentence_transformers.base.modules.Normalize())
    library.save_pretrained(str(world / "library"))
    towers = {
        name: open_model(options, Ranks(), "de", str(world / name)).model.retriever.query_tower
        for name in ("library", "teacher")
    }
    assert (towers["library"].pooling, towers["library"].normalize) == ("mean", True)
    assert (towers["teacher"].pooling, towers["teacher"].normalize) == ("cls", False)


def test_what_cannot_be_is_one_line(world: Path) -> None:
    teacher = {"teacher": world / "teacher"}
    with pytest.raises(OptionError, match=r"--distill_layer_num \(3\) must be at most 2"):
        run(world, "many", distill_layer_num=3, **teacher)
    with pytest.raises(CheckpointError, match="nowhere"):
        run(world, "gone", teacher="nowhere/at-all", teacher_kind="cross")
    for flags in ({"train_teacher": True}, {"grad_cache": True, **teacher}):
        with pytest.raises(OptionError):
            run(world, "rules", **flags)
    write_jsonl(world / "ids.jsonl", [{"query": [5], "positives": [[6]], "negatives": [[7]]}])
    with pytest.raises(DataError, match="holds token ids"):
        run(
            world, "ids", train_data=world / "ids.jsonl", retriever_model_path=world / "retriever",
            distill_layer_num=1, **teacher,
        )  # fmt: skip


def test_the_readers_layers_teach_the_retrievers(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    flags: dict[str, Any] = {
        "train_retriever": True, "reader_layer_num": 2, "layer_score_reweight": True,
        "layer_resample_steps": 1, "layer_selection": "skip", "total_steps": 3,
    }  # fmt: skip
    run_train(world, name="taught", **flags)
    assert min(losses(world, "taught", "loss/layer_loss")) > 0
    with pytest.raises(OptionError, match=r"--reader_layer_num \(3\) must be at most 2"):
        run_train(world, name="many", **(flags | {"reader_layer_num": 3}))
    with pytest.raises(OptionError, match="must come with --train_retriever"):
        run_train(world, name="untrained", reader_layer_num=1)
