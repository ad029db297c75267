"""Runs with a compressor between search and reader, on one worker."""

from pathlib import Path

import pytest

from gazetteer.errors import OptionError
from tests.support.runs import logged, make_world, results, run_evaluate, run_train

FLAGS = {"train_retriever": True, "refresh_index": "2", "lr_compressor": 1e-2, "lr": 1e-2}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def latest(world: Path, name: str) -> Path:
    return world / "experiments" / name / "checkpoint" / "latest"


@pytest.mark.parametrize("signal", ["ppmean", "evalnormsum", "loop", "emdr2"])
def test_every_signal_teaches_through_few_vectors(world: Path, signal: str) -> None:
    flags = FLAGS | {"compressor": "n_layers", "num_memory_tokens": 2}
    run_train(world, name=signal, gold_score_mode=signal, total_steps=3, **flags)
    steps = logged(world, signal)
    assert all(step["compression_rate"] > 2 for step in steps.values())
    assert steps[3]["loss/retriever_loss"] != steps[1]["loss/retriever_loss"]
    assert steps[2]["lr_compressor"] > 0


def test_the_compressor_learns(world: Path) -> None:
    """With everything else at rest, the loss can fall for it alone."""
    flags = {"compressor": "n_layers", "num_memory_tokens": 2, "lr_compressor": 3e-2, "lr": 0}
    run_train(world, name="learns", total_steps=40, scheduler="fixed", weight_decay=0, **flags)
    losses = [record["loss/reader_loss"] for record in logged(world, "learns").values()]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_what_was_trained_is_evaluated_without_saying_so_again(world: Path) -> None:
    flags = FLAGS | {"compressor": "encoder", "compressor_model_path": world / "retriever"}
    run_train(world, name="trained", total_steps=4, eval_freq=4, write_results=True, **flags)
    path = latest(world, "trained")
    run_evaluate(world, name="again", model_path=path, write_results=True)
    expected = logged(world, "trained", "eval")[4]
    found = logged(world, "again", "eval")[0]
    assert found | {"step": 4} == expected
    assert results(world, "again", "dev-step-0.jsonl") == results(
        world, "trained", "dev-step-4.jsonl"
    )
    run_evaluate(world, name="whole", model_path=path, compressor="none")
    assert "dev.jsonl/compression_rate" not in logged(world, "whole", "eval")[0]


def test_what_never_learned_relevance_orders_nothing(world: Path) -> None:
    with pytest.raises(OptionError, match=r"--rerank_by_compressor \(4\) must come with"):
        run_evaluate(world, name="no", compressor="pool", rerank_by_compressor=4)


def test_a_reader_that_never_sees_the_question_is_refused(world: Path) -> None:
    flags = {"compressor": "pool", "compressor_format": "{title} {text}"}
    with pytest.raises(OptionError, match="else the reader never sees the question"):
        run_evaluate(world, name="blind", **flags)
    flags |= {"decoder_prompt_format": "{query}", "generation_max_length": 40}
    run_evaluate(world, name="asks", **flags)
    assert logged(world, "asks", "eval")[0]["dev.jsonl/compression_rate"] > 1
