"""Runs with a decoder-only reader: in the loop, on given passages, with the book closed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runs import logged, make_world, results, run_evaluate, run_train
from tests.support.tiny_causal import save_tiny_causal


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("world"))
    save_tiny_causal(folder / "llama", has_chat=True)
    return folder


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
    run_train(world, name="saved", reader_model_type=world / "llama", total_steps=4, lr=1e-4,
              eval_freq=4, **settings)  # fmt: skip
    run_evaluate(world, name="again", reader_model_type=None, **settings,
                 model_path=world / "experiments" / "saved" / "checkpoint" / "latest")  # fmt: skip
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
                 model_path=world / "experiments" / kind / "checkpoint" / "latest")  # fmt: skip
    (record,) = logged(world, f"{kind}-again", "eval").values()
    assert record["dev.jsonl/compression_rate"] > 2
