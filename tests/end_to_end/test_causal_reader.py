"""Runs with a decoder-only reader: in the loop, on given passages, with the book closed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gazetteer.dry_run import plan
from gazetteer.errors import OptionError
from gazetteer.records import Ranks
from tests.support.runs import (
    logged,
    make_world,
    options_of,
    results,
    run_evaluate,
    run_train,
)
from tests.support.tiny_causal import causal_tokenizer, save_tiny_causal, tiny_llama
from tests.support.tiny_data import choices, claims, passages, questions, write_jsonl
from tests.support.tiny_gguf import write_gguf


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("world"))
    save_tiny_causal(folder / "llama", has_chat=True)
    return folder


def checkpoint(world: Path, name: str) -> Path:
    return world / "experiments" / name / "checkpoint" / "latest"


@pytest.mark.parametrize("mode", ["pdist", "emdr2", "loop"])
def test_reader_and_retriever_learn_together(world: Path, mode: str) -> None:
    run_train(world, name=mode, reader_model_type=world / "llama", total_steps=12, lr=1e-2,
              scheduler="fixed", train_retriever=True, gold_score_mode=mode,
              refresh_index="6")  # fmt: skip
    records = list(logged(world, mode).values())
    losses = [record["loss/reader_loss"] for record in records]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert all(record["loss/retriever_loss"] != 0 for record in records)


def test_what_was_trained_answers_alike_when_loaded_again(world: Path) -> None:
    settings = {"write_results": True, "generation_min_length": 4}
    # Words around passages go with the checkpoint.
    run_train(world, name="saved", reader_model_type=world / "llama", total_steps=4, lr=1e-4,
              eval_freq=4, reader_prefix="king who", encoder_format=" peru {text}",
              decoder_prompt_format=" mountain {query}?", **settings)  # fmt: skip
    run_evaluate(world, name="again", reader_model_type=None, **settings,
                 model_path=checkpoint(world, "saved"))  # fmt: skip
    there = [r["generation"] for r in results(world, "saved", "dev-step-4.jsonl")]
    again = [r["generation"] for r in results(world, "again", "dev-step-0.jsonl")]
    assert again == there and any(there)


def test_the_book_may_be_closed(world: Path) -> None:
    run_train(world, name="closed", reader_model_type=world / "llama", closed_book=True,
              total_steps=2, passages=None)  # fmt: skip
    assert all(record["loss/reader_loss"] > 0 for record in logged(world, "closed").values())


@pytest.mark.parametrize("kind", ["n_layers", "pool"])
def test_it_answers_from_compressed_passages(world: Path, kind: str) -> None:
    run_train(world, name=kind, reader_model_type=world / "llama", total_steps=2, compressor=kind,
              num_memory_tokens=2, distill_kl_weight=1.0, train_retriever=True)  # fmt: skip
    run_evaluate(world, name=f"{kind}-again", reader_model_type=None,
                 model_path=checkpoint(world, kind))  # fmt: skip
    (record,) = logged(world, f"{kind}-again", "eval").values()
    assert record["dev.jsonl/compression_rate"] > 2


def test_adapters_learn_alone_and_a_run_goes_on_with_them(world: Path) -> None:
    lora = {"reader_model_type": world / "llama", "reader_lora_rank": 2, "lr": 1e-2,
            "reader_lora_dropout": 0.1, "save_optimizer": True, "scheduler": "fixed"}  # fmt: skip
    run_train(world, name="whole-lora", total_steps=4, **lora)
    run_train(world, name="lora", total_steps=2, **lora)
    run_train(world, name="lora", total_steps=4, **lora)
    whole, parts = (
        load_file(checkpoint(world, name) / "reader" / "model.safetensors")
        for name in ("whole-lora", "lora")
    )
    before = load_file(world / "llama" / "model.safetensors")
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name
        assert torch.equal(tensor, before[name]) == ("_proj" not in name), name
    # Others read the sum as an ordinary model.
    settings = {"write_results": True, "generation_min_length": 4, "reader_model_type": None}
    run_evaluate(world, name="lora-apart", model_path=checkpoint(world, "lora"), **settings)
    settings["reader_model_type"] = checkpoint(world, "lora") / "merged"
    shutil.copytree(checkpoint(world, "lora") / "reader", settings["reader_model_type"])
    shutil.rmtree(settings["reader_model_type"] / "adapter")
    run_evaluate(world, name="lora-merged", **settings)
    apart, merged = (
        [r["generation"] for r in results(world, name, "dev-step-0.jsonl")]
        for name in ("lora-apart", "lora-merged")
    )
    assert apart == merged and any(apart)


def test_a_gguf_file_is_trained_and_saved_as_an_ordinary_model(world: Path) -> None:
    file = write_gguf(world / "tiny.gguf", tiny_llama(), causal_tokenizer())
    run_train(world, name="gguf", reader_model_type=file, total_steps=2, precision="bf16")
    saved = checkpoint(world, "gguf") / "reader"
    assert (saved / "model.safetensors").is_file()
    run_evaluate(world, name="gguf-again", reader_model_type=saved)


@pytest.mark.parametrize("task", ["fever", "multiple_choice"])
def test_answers_from_a_closed_set_are_ranked(world: Path, task: str) -> None:
    lines = {"fever": claims, "multiple_choice": choices}[task](6)
    data = write_jsonl(world / f"{task}.jsonl", lines)
    run_evaluate(world, name=task, task=task, reader_model_type=world / "llama", eval_data=data,
                 rank_candidates=True, write_results=True,
                 multiple_choice_eval_permutations="cyclic")  # fmt: skip
    found = results(world, task, f"{task}-step-0.jsonl")
    assert len(found) == 6
    likelihoods = [
        record["candidate_log_likelihoods"]
        for line in found
        for record in line.get("permutations", [line])
    ]
    assert all(len(set(each.values())) == len(each) for each in likelihoods)


def test_passages_given_with_the_questions_are_read(world: Path) -> None:
    rows = [q | {"passages": passages(3, seed=n)} for n, q in enumerate(questions(6))]
    rows[0] = rows[0] | {"passages": []}
    data = write_jsonl(world / "given.jsonl", rows)
    how = {"reader_model_type": world / "llama", "use_file_passages": True, "passages": None,
           "write_results": True, "generation_min_length": 4, "n_context": 3}  # fmt: skip
    for size in (1, 3):
        run_evaluate(world, name=f"given{size}", eval_data=data, per_gpu_batch_size=size, **how)
    one, three = (results(world, f"given{size}", "given-step-0.jsonl") for size in (1, 3))
    assert [r["generation"] for r in one] == [r["generation"] for r in three]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"train_retriever": True, "gold_score_mode": "adist"}, r"--gold_score_mode \(evalnorm"),
        ({"train_retriever": True, "compute_crossattention_stats": True}, "--compute_cross"),
        ({"train_retriever": True, "reader_layer_num": 1}, r"--reader_layer_num \(1\)"),
        ({"task": "mlm"}, "--task mlm needs a reader that knows T5's sentinels"),
        (
            {"n_context": 40},
            r"--n_context \(40\) x --text_maxlength \(64\) must leave room in the 2048",
        ),
        ({"reader_lora_rank": 2, "reader_lora_modules": "nothing"}, "--reader_lora_modules: "),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(world: Path, flags: dict, message: str) -> None:
    data = {}
    if flags.get("task") == "mlm":
        data = {"train_data": world / "passages.jsonl", "eval_data": None}
    with pytest.raises(OptionError, match=message) as caught:
        run_train(world, name="no", reader_model_type=world / "llama", **data, **flags)
    assert "\n" not in str(caught.value)


def test_a_dry_run_counts_it_and_refuses_alike(world: Path) -> None:
    options = options_of(world, "train", name="dry", reader_model_type=world / "llama")
    weights = sum(p.numel() for p in tiny_llama().parameters()) / 1e6
    assert f"reader: {weights:.1f} M weights" in list(plan(options, Ranks()))
    options = options_of(world, "train", name="dry", reader_model_type=world / "llama",
                         train_retriever=True, gold_score_mode="adist")  # fmt: skip
    with pytest.raises(OptionError, match="decoder-only"):
        list(plan(options, Ranks()))
