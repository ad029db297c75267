"""Runs with a compressor between search and reader, on one worker."""

from pathlib import Path

import pytest

from gazetteer.errors import DataError, OptionError
from tests.support.runs import logged, make_world, results, run_evaluate, run_train
from tests.support.tiny_data import passages, questions, write_jsonl

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


def test_a_rate_that_was_not_achieved_is_told(world: Path) -> None:
    """Passages here have some 20 tokens: 16 for each vector need two, at 10 each."""
    for rate, is_told in ((16, True), (2, False)):
        run_evaluate(world, name=f"rate{rate}", compressor="pool", compression_rate=rate)
        log = (world / "experiments" / f"rate{rate}" / "run.log").read_text(encoding="utf-8")
        assert ("--compression_rate asked for 16: passages are shorter" in log) == is_told


def test_positions_are_enough_for_learned_tokens(world: Path) -> None:
    flags = {"compressor": "encoder", "compressor_model_path": world / "retriever"}
    message = r"--compressor_maxlength \(512\) must be at most 504: the compressor has 512"
    with pytest.raises(OptionError, match=message):
        run_evaluate(world, name="long", compressor_maxlength=512, **flags)


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


def test_whole_passages_and_the_readers_posterior_teach(world: Path) -> None:
    """Both losses fall, and in the end the compressor puts passages into an order of its own."""
    flags = {"compressor": "n_layers", "num_memory_tokens": 2, "lr_compressor": 1e-2, "lr": 0}
    # Heavy enough to be heard beside targets that a random reader finds all alike.
    flags |= {"distill_kl_weight": 100.0, "rerank_target": "reader", "rerank_weight": 1.0}
    run_train(world, name="taught", total_steps=40, weight_decay=0, scheduler="fixed",
              temperature_gold=0.1, **flags)  # fmt: skip
    steps = list(logged(world, "taught").values())
    for name in ("loss/distill_loss", "loss/rerank_loss"):
        losses = [step[name] for step in steps]
        assert sum(losses[-5:]) < 0.9 * sum(losses[:5]), name
    path = latest(world, "taught")
    for count in (0, 6):
        run_evaluate(world, name=f"best{count}", model_path=path, rerank_by_compressor=count,
                     write_results=True)  # fmt: skip
    found, best = (
        [[p["id"] for p in each["passages"]] for each in results(world, name, "dev-step-0.jsonl")]
        for name in ("best0", "best6")
    )
    assert all(len(ids) == 2 for ids in best)
    assert found != best


def scored_lines(count: int) -> list[dict]:
    """Questions with 0 to 3 passages of their own, of which those with even places are relevant."""
    rows = questions(count)
    given = passages(60)
    for number, row in enumerate(rows):
        own = given[3 * (number % 20) :][: number % 4]
        scores = [float(place % 2 == 0) for place in range(len(own))]
        row |= {"passages": own, "reranking_scores": scores}
    return rows


def test_scores_of_a_file_teach(world: Path) -> None:
    write_jsonl(world / "scored.jsonl", scored_lines(24))
    flags = {"train_data": world / "scored.jsonl", "use_file_passages": True, "eval_data": None}
    flags |= {"compressor": "pool", "compressor_pooling": "mean", "rerank_target": "file"}
    run_train(world, name="scored", total_steps=60, n_context=3, lr_compressor=1e-2, lr=1e-3,
              rerank_weight=1.0, scheduler="fixed", passages=None, **flags)  # fmt: skip
    losses = [step["loss/rerank_loss"] for step in logged(world, "scored").values()]
    assert sum(losses[-12:]) < 0.8 * sum(losses[:12])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (None, "found nothing"),
        ([1.0], "found 1 of them for 3 passages"),
        ([1.0, "2", 3.0], 'found the string "2" at position 1'),
        ("high", 'found the string "high"'),
    ],
)
def test_scores_that_are_none_are_named(world: Path, scores: object, expected: str) -> None:
    rows = scored_lines(4)
    rows[3] |= {"reranking_scores": scores}
    if scores is None:
        del rows[3]["reranking_scores"]
    write_jsonl(world / "bad.jsonl", rows)
    flags = {"compressor": "pool", "rerank_target": "file", "use_file_passages": True}
    message = rf"bad\.jsonl:4: field 'reranking_scores': {expected}, expected a list of numbers"
    with pytest.raises(DataError, match=message):
        run_train(world, name="bad", train_data=world / "bad.jsonl", passages=None, **flags)
