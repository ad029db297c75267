"""`train.py --task dense` as a whole: it learns, resumes exactly, exports, refuses bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from gazetteer.dense.step_on_meta import measure_training
from gazetteer.dry_run import plan
from gazetteer.errors import DataError, OptionError
from gazetteer.options import parse_options
from gazetteer.records import Ranks
from gazetteer.training import loop
from tests.support.dense_runs import dense_options_of, make_dense_world, run_dense, training_lines
from tests.support.runs import logged
from tests.support.tiny_data import write_jsonl

LOSS = "loss/train_loss"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dense_world(tmp_path_factory.mktemp("dense"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_it_learns_and_the_validation_loss_falls(world: Path) -> None:
    settings = {"total_steps": 60, "eval_freq": 20, "shuffle": True, "dense_temperature": 0.5}
    assert run_dense(world, name="learns", eval_data=world / "dev.jsonl", **settings) == 0
    losses = logged(world, "learns", "eval")
    assert losses[60]["dev.jsonl/eval_loss"] < 0.7 * losses[20]["dev.jsonl/eval_loss"]
    assert logged(world, "learns")[60]["lr_retriever"] > 0


def test_training_finds_more_of_what_is_judged(world: Path) -> None:
    settings = {"total_steps": 60, "eval_freq": 30, "shuffle": True, "dense_temperature": 0.5}
    run_dense(world, name="dev", dev_queries=world / "collection", **settings)
    before = {"lr_retriever": 0, "total_steps": 1, "eval_freq": 1}
    run_dense(world, name="before", dev_queries=world / "collection", **before)
    found = logged(world, "dev", "eval")[60]
    first = logged(world, "before", "eval")[1]
    assert found["collection/nDCG@10"] > first["collection/nDCG@10"] + 0.1
    assert {"collection/MRR@10", "collection/R@20", "collection/R@100"} < found.keys()


def test_dev_queries_are_searched_in_given_passages_too(world: Path) -> None:
    folder = world / "collection"
    flags = {
        "dev_queries": folder / "queries.jsonl",
        "dev_qrels": folder / "qrels/dev.tsv",
        "passages": folder / "corpus.jsonl",
        "lr_retriever": 0,
        "total_steps": 1,
        "eval_freq": 1,
    }
    run_dense(world, name="files", **flags)
    run_dense(world, name="sample", dev_passages=5, **flags)
    whole, few = (logged(world, name, "eval")[1] for name in ("files", "sample"))
    assert few["queries.jsonl/nDCG@10"] > whole["queries.jsonl/nDCG@10"]


@pytest.mark.parametrize("flags", [{}, {"grad_cache": True, "accumulation_steps": 2}])
def test_a_run_that_was_killed_in_an_epoch_goes_on_bit_for_bit(
    world: Path, monkeypatch: pytest.MonkeyPatch, flags: dict
) -> None:
    kind = f"{len(flags)}"
    # 20 lines make 7 micro-batches of 3 per epoch, the last of all with one line alone.
    settings = flags | {
        "per_gpu_batch_size": 3, "num_train_epochs": 2, "shuffle": True, "save_freq": 4,
        "dropout": 0.1, "warmup_ratio": 0.1,
    }  # fmt: skip
    run_dense(world, name=f"whole{kind}", **settings)
    original = loop._apply

    def stops(run) -> None:
        if run.state.position.micro_batches >= 9:
            raise RuntimeError("killed")
        original(run)

    monkeypatch.setattr(loop, "_apply", stops)
    with pytest.raises(RuntimeError, match="killed"):
        run_dense(world, name=f"again{kind}", **settings)
    monkeypatch.setattr(loop, "_apply", original)
    run_dense(world, name=f"again{kind}", **settings)
    whole, again = logged(world, f"whole{kind}"), logged(world, f"again{kind}")
    assert max(whole) == 14
    assert {step: numbers[LOSS] for step, numbers in whole.items()} == {
        step: numbers[LOSS] for step, numbers in again.items()
    }
    folders = [
        world / "experiments" / f"{name}{kind}/checkpoint/latest/retriever"
        for name in ("whole", "again")
    ]
    first, second = map(weights, folders)
    assert all(torch.equal(first[name], second[name]) for name in first)
    state = json.loads((folders[0].parent / "state.json").read_text())
    assert state["position"]["examples"] == 40


def test_more_epochs_go_on_from_where_fewer_ended(world: Path) -> None:
    run_dense(world, name="epochs", num_train_epochs=1)
    run_dense(world, name="epochs", num_train_epochs=1.5)
    state = json.loads((world / "experiments/epochs/checkpoint/latest/state.json").read_text())
    assert (state["position"]["examples"], state["position"]["micro_batches"]) == (30, 8)


def test_the_last_retriever_and_each_checkpoint_are_exported(world: Path) -> None:
    run_dense(world, name="exports", total_steps=4, save_freq=2, export_path=world / "out")
    experiment = world / "experiments/exports"
    moved = world / "moved"
    moved.mkdir()
    shutil.move(world / "out", moved / "out")
    shutil.copytree(experiment, moved / "experiments/exports", symlinks=True)
    shutil.rmtree(experiment)
    for step in (2, 4):
        assert (moved / f"out/checkpoint-{step}").is_symlink()
        AutoModel.from_pretrained(moved / f"out/checkpoint-{step}")
    last = weights(moved / "out")
    assert all(torch.equal(t, last[n]) for n, t in weights(moved / "out/checkpoint-4").items())
    assert AutoTokenizer.from_pretrained(moved / "out")("a") is not None
    run_dense(world, name="next", retriever_model_path=moved / "out", total_steps=1)


def test_passages_by_id_and_as_tokens_teach_what_texts_teach(world: Path) -> None:
    lines = training_lines(8)
    passages = [p for line in lines for p in (*line["positives"], *line["negatives"])]
    write_jsonl(world / "corpus.jsonl", passages)
    by_id = [
        {
            "query_id": line["query_id"],
            "query": line["query"],
            "positives": [{"id": p["id"]} for p in line["positives"]],
            "negatives": [{"id": p["id"]} for p in line["negatives"]],
        }
        for line in lines
    ]
    tokenizer = AutoTokenizer.from_pretrained(world / "retriever")

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    as_tokens = [
        {
            "query": ids(line["query"]),
            "positives": [ids(f"{p['title']} {p['text']}") for p in line["positives"]],
            "negatives": [ids(f"{p['title']} {p['text']}") for p in line["negatives"]],
        }
        for line in lines
    ]
    forms = {"texts": lines, "by_id": by_id, "as_tokens": as_tokens}
    losses = {}
    for name, form in forms.items():
        data = write_jsonl(world / f"{name}.jsonl", form)
        corpus = world / "corpus.jsonl" if name == "by_id" else None
        run_dense(world, name=name, train_data=data, passages=corpus, total_steps=3)
        losses[name] = [numbers[LOSS] for numbers in logged(world, name).values()]
    assert losses["texts"] == losses["by_id"] == losses["as_tokens"]


@pytest.mark.parametrize("loss", ["margin_mse", "kl"])
def test_a_teacher_can_teach(world: Path, loss: str) -> None:
    run_dense(world, name=loss, dense_loss=loss, teacher_temperature=2, matryoshka_dims=[32, 8])
    assert logged(world, loss)[6][LOSS] < logged(world, loss)[1][LOSS]


@pytest.mark.parametrize(
    ("changes", "flags", "problem"),
    [
        ({"negatives": []}, {}, "example 2 has no negatives; with --train_n_passages"),
        ({"negatives": [{"text": "x"}]}, {"dense_loss": "kl"}, "example 2 has a passage without a"),
        ({"positives": []}, {}, "found no positives"),
        ({"positives": [{"id": "nowhere"}]}, {}, "'nowhere' has no text: give --passages"),
    ],
)
def test_lines_of_no_use_are_refused_before_anything_is_written(
    world: Path, changes: dict, flags: dict, problem: str
) -> None:
    lines = training_lines(3)
    lines[1] |= changes
    data = write_jsonl(world / "bad.jsonl", lines)
    with pytest.raises(DataError, match=problem):
        run_dense(world, name="bad", train_data=data, **flags)
    assert not (world / "experiments/bad").exists()


def test_lines_without_negatives_teach_by_those_of_other_queries(world: Path) -> None:
    lines = [{**line, "negatives": []} for line in training_lines(8)]
    data = write_jsonl(world / "pairs.jsonl", lines)
    assert run_dense(world, name="pairs", train_data=data, train_n_passages=1) == 0


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"matryoshka_dims": [64]}, r"--matryoshka_dims \(64\) must be at most 32"),
        ({"retriever_model_path": "none/such"}, "none/such"),
    ],
)
def test_flags_the_model_has_no_room_for_are_refused(
    world: Path, flags: dict, problem: str
) -> None:
    with pytest.raises(Exception, match=problem) as caught:
        run_dense(world, name="unfit", **flags)
    assert getattr(caught.value, "exit_code", None) == 2


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"closed_book": True}, "--closed_book must not come with --task dense"),
        ({"task": "qa", "num_train_epochs": 2}, "--num_train_epochs .2.0. must come with --task"),
        ({"dense_loss": "kl", "train_n_passages": 1}, "--train_n_passages .1. must be at least 2"),
        ({"matryoshka_dims": [0]}, "--matryoshka_dims .0. must be at least 1"),
        ({"dev_queries": "no/such"}, "--dev_queries .no/such. must be an existing file, or a fol"),
        ({"dev_queries": __file__}, "must come with --dev_qrels, or be a folder of BEIR"),
        ({"dev_qrels": __file__}, "--dev_qrels .*. must come with --dev_queries"),
        ({"refresh_mode": "dedicated"}, "--refresh_mode .dedicated. must not come with"),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(world: Path, flags: dict, problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        dense_options_of(world, **flags)


def test_what_has_no_effect_is_said(world: Path) -> None:
    options = dense_options_of(world, lr=1, dense_loss="kl", negatives_x_device=True)
    notes = "\n".join(options.notes)
    assert "lr 1.0: no effect, --lr_retriever is the retriever's" in notes
    assert "negatives_x_device: no effect with --dense_loss kl" in notes
    words = f"--task base --reader_model_type t5-small --closed_book --train_data {world}/x.jsonl"
    (world / "x.jsonl").write_text("{}\n")
    other = parse_options([*words.split(), "--q_max_len", "9"], program="train")
    assert "q_max_len 9: no effect without --task dense" in other.notes


def test_a_dry_run_counts_lines(world: Path) -> None:
    said = list(plan(dense_options_of(world), Ranks(), measure_training))
    assert "--train_data: 20 examples" in said
    assert not any(line.startswith("reader") for line in said)
