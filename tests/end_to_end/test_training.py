"""Runs of the training loop on one worker."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config

from gazetteer.errors import (
    CheckpointError,
    DataError,
    IndexFileError,
    OptionError,
    TrainingDivergedError,
)
from gazetteer.indexing import IndexKeeper, embedding
from gazetteer.training import loop
from tests.support.runs import logged, make_world, results, run_evaluate, run_train


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def checkpoint(world: Path, name: str, step: int | None = None) -> Path:
    folder = world / "experiments" / name / "checkpoint"
    return folder / ("latest" if step is None else f"step-{step}")


def test_a_run_leaves_what_the_readme_promises(world: Path) -> None:
    assert run_train(world, name="whole", total_steps=6, eval_freq=3, save_freq=4,
                     train_retriever=True, write_results=True) == 0  # fmt: skip
    folder = world / "experiments" / "whole"
    assert {"opt.log", "options.json", "run.log", "metrics.jsonl"} <= set(os.listdir(folder))
    assert list(folder.glob("events.out.tfevents.*"))
    assert checkpoint(world, "whole").readlink() == Path("step-6")
    assert len(results(world, "whole", "dev-step-3.jsonl")) == 7
    log = (folder / "run.log").read_text()
    line = r"\[\d\d/\d\d/\d{4} \d\d:\d\d:\d\d\] \{reporting\.py:\d+\} INFO - 6 / 6 \| "
    assert re.search(line + r"loss/reader_loss: [\d.]+ \| .* \| lr: \S+ \| Memory: \S+ GiB", log)
    evaluation = r"Dataset: dev\.jsonl \| [\d.]+ exact_match \| [\d.]+ f1 \| [\d.]+ eval_loss"
    assert len(re.findall(evaluation, log)) == 2


def test_the_reader_learns(world: Path) -> None:
    run_train(
        world, name="learns", total_steps=40, lr=1e-2, train_retriever=True, scheduler="fixed"
    )
    losses = [record["loss/reader_loss"] for record in logged(world, "learns").values()]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


@pytest.mark.parametrize("accumulation", [1, 3])
def test_total_steps_is_exact(world: Path, accumulation: int, monkeypatch) -> None:
    updates: list[int] = []
    original = loop._apply
    monkeypatch.setattr(
        loop,
        "_apply",
        lambda run: updates.append(run.state.position.micro_batches) or original(run),
    )
    name = f"exact{accumulation}"
    run_train(world, name=name, total_steps=7, accumulation_steps=accumulation)
    assert updates == {1: [1, 2, 3, 4, 5, 6, 7], 3: [3, 6, 7]}[accumulation]
    assert checkpoint(world, name).readlink() == Path("step-7")


def test_accumulated_gradients_equal_one_large_batch(world: Path) -> None:
    run_train(world, name="large", total_steps=2, per_gpu_batch_size=4, scheduler="fixed")
    # Same examples, half the batch: the loss of an update is the mean of its micro-batches only
    # where targets have equally many tokens, so compare what does not depend on it: the count.
    run_train(world, name="halves", total_steps=4, per_gpu_batch_size=2, accumulation_steps=2,
              scheduler="fixed")  # fmt: skip
    states = [
        json.loads((checkpoint(world, name) / "state.json").read_text())["position"]
        for name in ("large", "halves")
    ]
    assert states[0]["examples"] == states[1]["examples"] == 8


INTERRUPTED = {
    "total_steps": 9,
    "train_retriever": True,
    "shuffle": True,
    "dropout": 0.1,
    "save_freq": 2,
    "refresh_index": "3",
}
T5_HEAD = {
    "retriever_model_path": "{world}/reader",
    "add_linear_head": True,
    "projection_out_dim": 8,
    "lr_retriever": 1e-3,
}


@pytest.mark.parametrize(
    ("name", "flags", "killed_at"),
    [
        ("plain", {}, 5),
        ("mid-accumulation", {"accumulation_steps": 2}, 5),
        ("query-side", {"query_side_retriever_training": True}, 7),
        ("bf16", {"precision": "bf16", "gold_score_mode": "emdr2"}, 3),
        (
            "untied",
            {"untie_retriever": True, "save_optimizer": True, "freeze_retriever_steps": 4},
            8,
        ),
        ("refreshing", {"refresh_mode": "interleaved", "refresh_steps": 2}, 5),
        ("from-another", {"model_path": "{world}/experiments/parent/checkpoint/latest"}, 5),
        ("loaded-index", {"load_index_path": "{world}/saved", "refresh_index": "7"}, 5),
        (
            "foreign-index",
            {
                "load_index_path": "{world}/foreign",
                "allow_stale_index": True,
                "refresh_index": "-1",
            },
            5,
        ),
        ("refresh-late", {"refresh_mode": "interleaved", "refresh_steps": 7}, 6),
        (
            "t5-head",
            T5_HEAD
            | {"retriever_normalize": True, "refresh_mode": "interleaved", "refresh_steps": 2},
            5,
        ),
        (
            "t5-query-side",
            T5_HEAD | {"encoder_only": True, "query_side_retriever_training": True},
            5,
        ),
        ("lora", {"lora_rank": 2, "lr_retriever": 1e-2, "refresh_mode": "interleaved"}, 5),
        (
            "compressor",
            {"compressor": "n_layers", "num_memory_tokens": 3, "lr_compressor": 1e-3},
            5,
        ),
        (
            "compressor-pool",
            {"compressor": "pool", "compression_rate": 4, "lr_compressor": 1e-2},
            5,
        ),
        (
            "compressor-encoder",
            {
                "compressor": "encoder",
                "compressor_model_path": "{world}/retriever",
                "compressor_pooling": "mean",
                "precision": "bf16",
                "use_gradient_checkpoint_reader": True,
            },
            5,
        ),
        ("lora-query", T5_HEAD | {"lora_rank": 2, "lora_target": "query"}, 5),
        ("lora-passage", {"lora_rank": 2, "lora_target": "passage", "precision": "bf16"}, 5),
        (
            "refresh-stale",
            {"refresh_index": "-1", "staleness_sample": 5, "refresh_below_overlap": 1.0},
            5,
        ),
    ],
)
def test_killed_and_resumed_equals_uninterrupted(
    world: Path, name: str, flags: dict, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in ("from-another", "loaded-index", "foreign-index"):
        _make_origins(world)
    filled = {k: v.format(world=world) if isinstance(v, str) else v for k, v in flags.items()}
    flags = INTERRUPTED | filled
    run_train(world, name=f"{name}-whole", **flags)
    original = loop._micro_batch

    def dies(run, *args, **kwargs) -> None:
        if run.state.position.micro_batches == killed_at:
            raise RuntimeError("killed")
        original(run, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_micro_batch", dies)
        with pytest.raises(RuntimeError, match="killed"):
            run_train(world, name=f"{name}-resumed", **flags)
    run_train(world, name=f"{name}-resumed", **flags)
    whole, resumed = (logged(world, f"{name}-{end}") for end in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    for step in whole:
        same = {"loss/reader_loss", "loss/retriever_loss", "lr"} & whole[step].keys()
        assert {k: whole[step][k] for k in same} == {k: resumed[step][k] for k in same}
    _assert_equal_weights(checkpoint(world, f"{name}-whole"), checkpoint(world, f"{name}-resumed"))


def _make_origins(world: Path) -> None:
    """What a run can begin with: a checkpoint, an index of the pre-trained encoder, and another."""
    if (world / "foreign").exists():
        return
    run_train(world, name="parent", total_steps=2, train_retriever=True)
    run_train(world, name="saves", total_steps=1, save_index_path=world / "saved")
    run_train(world, name="foreign", total_steps=3, train_retriever=True, lr_retriever=1e-2,
              refresh_index="2", save_index_path=world / "foreign")  # fmt: skip


def _assert_equal_weights(first: Path, second: Path) -> None:
    files = sorted(p.relative_to(first) for p in first.rglob("*.safetensors"))
    assert files == sorted(p.relative_to(second) for p in second.rglob("*.safetensors"))
    for file in files:
        left, right = load_file(first / file), load_file(second / file)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), file


@pytest.mark.parametrize("mode", ["blocking", "interleaved"])
def test_what_was_embedded_when_a_run_was_killed_is_not_embedded_again(
    world: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Forty passages, in five pieces or slices; versions of steps 0, 3, 6 and 9, or of 0 and 6.
    flags = INTERRUPTED | {"refresh_mode": mode, "refresh_steps": 5, "total_steps": 12}
    flags |= {"refresh_index": "3" if mode == "blocking" else "6"}
    monkeypatch.setattr(embedding, "KEEP_SECONDS", 0)
    monkeypatch.setattr(embedding, "CHUNK_ROWS", 8)
    original, calls, killed_at = embedding.embed, [0], [0]

    def embed(*arguments):
        calls[0] += 1
        if calls[0] == killed_at[0]:
            raise RuntimeError("killed")
        return original(*arguments)

    monkeypatch.setattr(embedding, "embed", embed)
    run_train(world, name=f"{mode}-at-once", **flags)
    at_once = calls[0]
    assert at_once == (20 if mode == "blocking" else 10)
    # In the fourth piece of the first version, of which none is known to any checkpoint, and in
    # the fourth of the second, whose weights the run comes to again.
    for killed_at[0], kept in ((4, 3), (9, 3)):
        calls[0] = 0
        with pytest.raises(RuntimeError, match="killed"):
            run_train(world, name=f"{mode}-{killed_at[0]}", **flags)
        refresh = world / "experiments" / f"{mode}-{killed_at[0]}" / "refresh"
        assert len(list(refresh.glob("*/rows.*"))) == kept
        before, killed_at[0] = killed_at[0], 0
        calls[0] = 0
        run_train(world, name=f"{mode}-{before}", **flags)
        # The second time, the version that served is embedded again, as nothing saved it.
        assert calls[0] == at_once - kept
        assert not refresh.exists()
        _assert_equal_weights(
            checkpoint(world, f"{mode}-at-once"), checkpoint(world, f"{mode}-{before}")
        )


def refreshed_at(world: Path, name: str, monkeypatch: pytest.MonkeyPatch, **flags) -> list[int]:
    """Steps whose weights embedded the versions of the index that were adopted in a run."""
    steps: list[int] = []
    adopted = IndexKeeper._adopted

    def spy(keeper: IndexKeeper, step: int, *about) -> None:
        steps.append(step)
        adopted(keeper, step, *about)

    with monkeypatch.context() as patch:
        patch.setattr(IndexKeeper, "_adopted", spy)
        run_train(world, name=name, train_retriever=True, **flags)
    return steps


def test_an_interleaved_refresh_serves_the_old_version_until_the_new_one_is_whole(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"total_steps": 9, "refresh_index": "4", "refresh_mode": "interleaved"}
    assert refreshed_at(world, "slices", monkeypatch, refresh_steps=3, **flags) == [0, 4]
    runs = world / "experiments"
    assert "is late" not in (runs / "slices" / "run.log").read_text()
    # Begun at 4 and not whole at 8, it is finished there and the next one begun.
    assert refreshed_at(world, "late", monkeypatch, refresh_steps=5, **flags) == [0, 4]
    assert "refresh of step 4 is late" in (runs / "late" / "run.log").read_text()


def test_an_index_that_is_too_stale_is_refreshed(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"total_steps": 4, "log_freq": 1, "lr_retriever": 1e-2, "staleness_sample": 6}
    assert refreshed_at(world, "measured", monkeypatch, **flags) == [0]
    numbers = logged(world, "measured")
    # The first update of a warm-up has a learning rate of 0.
    assert numbers[1]["index/drift"] == pytest.approx(0, abs=1e-6)
    assert all(numbers[step]["index/drift"] > 1e-6 for step in (2, 3, 4))
    assert all(0 <= numbers[step]["index/overlap"] <= 1 for step in numbers)
    assert min(numbers[step]["index/overlap"] for step in numbers) < 1
    often = refreshed_at(world, "refreshed", monkeypatch, refresh_below_overlap=1.0, **flags)
    stale = [step for step in numbers if numbers[step]["index/overlap"] < 1]
    assert often[:2] == [0, stale[0]]


def test_query_side_training_leaves_every_passage_weight_as_it_was(world: Path) -> None:
    run_train(world, name="frozen", total_steps=5, train_retriever=True, lr_retriever=1e-2,
              query_side_retriever_training=True)  # fmt: skip
    saved = checkpoint(world, "frozen") / "retriever"
    before = load_file(world / "retriever" / "model.safetensors")
    passage = load_file(saved / "passage" / "model.safetensors")
    query = load_file(saved / "query" / "model.safetensors")
    assert all(torch.equal(before[name], passage[name]) for name in before)
    assert not all(torch.equal(before[name], query[name]) for name in before)


def test_optimiser_state_is_kept_where_it_can_be_resumed_from(world: Path) -> None:
    run_train(world, name="lean", total_steps=5, save_freq=1)
    kept = [
        (checkpoint(world, "lean", n) / "reader_optimiser.safetensors").exists()
        for n in range(1, 6)
    ]
    assert kept == [False, False, False, True, True]


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(world: Path, caplog) -> None:
    run_train(world, name="damaged", total_steps=4, save_freq=2)
    weights = checkpoint(world, "damaged", 4) / "reader" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    run_train(world, name="damaged", total_steps=6, save_freq=100)
    log = (world / "experiments" / "damaged" / "run.log").read_text()
    assert "step-4 is damaged (reader/model.safetensors has SHA-256" in log
    assert "resuming from" in log and "step-2 at step 2" in log
    with pytest.raises(CheckpointError, match="SHA-256"):
        run_evaluate(world, name="x", model_path=checkpoint(world, "damaged", 4))


def test_a_stop_signal_saves_and_the_same_command_goes_on(world: Path, monkeypatch) -> None:
    original = loop._apply

    def interrupted(run) -> None:
        original(run)
        if run.state.position.micro_batches == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_apply", interrupted)
        assert run_train(world, name="stopped", total_steps=5) == 75
    assert checkpoint(world, "stopped").readlink() == Path("step-3")
    assert run_train(world, name="stopped", total_steps=5) == 0
    run_train(world, name="unstopped", total_steps=5)
    _assert_equal_weights(checkpoint(world, "stopped"), checkpoint(world, "unstopped"))


def _poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    original = loop._apply

    def poisoned(run) -> None:
        if run.state.position.micro_batches in steps:
            next(iter(run.models.reader.parameters())).grad.fill_(float("nan"))
        original(run)

    monkeypatch.setattr(loop, "_apply", poisoned)


def test_a_non_finite_step_is_skipped(world: Path, monkeypatch) -> None:
    _poison(monkeypatch, {2})
    run_train(world, name="skips", total_steps=3, train_retriever=True, save_freq=1)
    first, second, third = (
        load_file(checkpoint(world, "skips", n) / "reader" / "model.safetensors") for n in (1, 2, 3)
    )
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(second[k], third[k]) for k in first)
    assert all(tensor.isfinite().all() for tensor in third.values())


def test_too_many_non_finite_steps_end_the_run(world: Path, monkeypatch) -> None:
    _poison(monkeypatch, {2, 3, 4})
    with pytest.raises(TrainingDivergedError, match=r"--max_nonfinite_steps \(3\)"):
        run_train(world, name="diverges", total_steps=9, max_nonfinite_steps=3)


def test_a_changed_flag_is_logged_and_wins(world: Path) -> None:
    run_train(world, name="changed", total_steps=2)
    run_train(world, name="changed", total_steps=3, lr=5e-3, per_gpu_batch_size=3)
    log = (world / "experiments" / "changed" / "run.log").read_text()
    assert "--lr was 0.0001 in the checkpoint, now 0.005; the command line wins" in log
    assert "a step reads 3 examples of all workers together, it was 2 before;" in log
    assert "--global_batch_size 2 keeps it on any number of workers" in log


def test_a_flag_that_weights_depend_on_cannot_change(world: Path) -> None:
    run_train(world, name="fixed", total_steps=2, precision="bf16")
    with pytest.raises(OptionError, match=r"--precision is fp32, in .*step-2 it was bf16"):
        run_train(world, name="fixed", total_steps=3)
    run_train(world, name="fixed", total_steps=3, precision="bf16", reader_model_type="t5-base")
    log = (world / "experiments" / "fixed" / "run.log").read_text()
    assert "now t5-base; the checkpoint's models go on" in log


def test_a_retriever_embeds_as_it_was_trained(world: Path) -> None:
    run_train(world, name="pooled", total_steps=1, train_retriever=True,
              retriever_pooling="cls", retriever_normalize=True)  # fmt: skip
    saved = checkpoint(world, "pooled")
    flags = {"model_path": saved, "retrieve_only": True, "write_results": True}
    run_evaluate(world, name="asked", retriever_pooling="cls", retriever_normalize=True, **flags)
    run_evaluate(world, name="silent", **flags)
    assert results(world, "asked", "dev-step-0.jsonl") == results(
        world, "silent", "dev-step-0.jsonl"
    )
    with pytest.raises(OptionError, match=r"--retriever_pooling is sqrt, but .* trained with cls"):
        run_evaluate(world, name="wrong", retriever_pooling="sqrt", **flags)


@pytest.mark.parametrize("target", ["both", "query", "passage"])
def test_adapters_learn_and_all_else_stays(world: Path, target: str) -> None:
    name = f"lora-{target}-moves"
    run_train(world, name=name, train_retriever=True, lora_rank=2, lora_target=target,
              lr_retriever=1e-2, add_linear_head=True, weight_decay=0)  # fmt: skip
    saved = checkpoint(world, name) / "retriever"
    start = load_file(world / "retriever" / "model.safetensors")
    for tower in ("query", "passage"):
        folder = saved if target == "both" else saved / tower
        merged = load_file(folder / "model.safetensors")
        moved = {key for key in start if not torch.equal(start[key], merged[key])}
        if target not in (tower, "both"):
            assert not moved and not (folder / "adapter").exists()
            continue
        assert moved and all(key.endswith(("query.weight", "value.weight")) for key in moved)
        originals = load_file(folder / "adapter" / "original_weights.safetensors")
        assert {k for k in originals if k.endswith("weight")} == moved
        assert all(torch.equal(tensor, start[key]) for key, tensor in originals.items())
    # The index of a run is that of its checkpoint, adapters and all.
    index = world / name
    run_evaluate(world, name="a", model_path=saved.parent, save_index_path=index)
    run_evaluate(world, name="b", model_path=saved.parent, load_index_path=index, passages=None)


def test_adapters_are_merged_where_other_ones_are_asked_for(world: Path) -> None:
    flags = {"train_retriever": True, "total_steps": 2, "lr_retriever": 1e-2}
    run_train(world, name="first", lora_rank=2, **flags)
    first = checkpoint(world, "first")
    run_train(world, name="all", model_path=first, **flags)
    assert not (checkpoint(world, "all") / "retriever" / "adapter").exists()
    run_train(world, name="other", model_path=first, lora_rank=3, **flags)
    merged, kept = (
        load_file(folder / "retriever" / file)
        for folder, file in (
            (first, "model.safetensors"),
            (checkpoint(world, "other"), "adapter/original_weights.safetensors"),
        )
    )
    assert all(torch.equal(tensor, merged[name]) for name, tensor in kept.items())
    with pytest.raises(OptionError, match=r"--lora_rank is 3, in .*step-2 it was 2"):
        run_train(world, name="first", lora_rank=3, **flags | {"total_steps": 3})


def test_a_line_without_an_answer_is_not_trained_on(world: Path, tmp_path: Path) -> None:
    data = tmp_path / "typo.jsonl"
    data.write_text(
        '{"question": "where", "target": "oslo"}\n{"question": "who", "answer": ["x"]}\n'
    )
    with pytest.raises(DataError, match=r"typo.jsonl.*2.*'answers'.*or field 'target'"):
        run_train(world, name="typo", train_data=data)
    run_evaluate(world, name="unjudged", eval_data=data)
    alone = tmp_path / "alone.jsonl"
    alone.write_text('{"question": "where", "target": "oslo"}\n')
    run_evaluate(world, name="judged", eval_data=alone)
    losses = [logged(world, name, "eval")[0] for name in ("unjudged", "judged")]
    assert losses[0]["typo.jsonl/eval_loss"] == pytest.approx(
        losses[1]["alone.jsonl/eval_loss"], rel=1e-5
    )


def test_examples_that_no_passage_came_with_are_read_alone(world: Path, tmp_path: Path) -> None:
    line = {"question": "where is lima", "target": "oslo"}
    data, given = tmp_path / "none.jsonl", tmp_path / "some.jsonl"
    data.write_text(json.dumps(line | {"passages": []}) + "\n")
    given.write_text(data.read_text() + json.dumps(line | {"passages": [{"text": "oslo"}]}) + "\n")
    run_evaluate(world, name="none", eval_data=data, use_file_passages=True)
    run_evaluate(world, name="shut", eval_data=data, closed_book=True)
    alone, shut = (
        logged(world, name, "eval")[0]["none.jsonl/eval_loss"] for name in ("none", "shut")
    )
    assert alone == pytest.approx(shut, rel=1e-6)
    assert (
        run_train(world, name="some", train_data=given, eval_data=given, use_file_passages=True)
        == 0
    )


def test_models_of_the_wrong_kind_are_named(world: Path) -> None:
    GPT2Config().save_pretrained(world / "gpt2")
    with pytest.raises(CheckpointError, match="it is a gpt2, expected an encoder such as BERT"):
        run_evaluate(world, name="x", retriever_model_path=world / "gpt2")
    with pytest.raises(CheckpointError, match="it is a bert, expected a t5 or mt5"):
        run_evaluate(world, name="x", reader_model_type=world / "retriever")


def test_a_run_that_is_over_says_so(world: Path) -> None:
    run_train(world, name="over", total_steps=2)
    assert run_train(world, name="over", total_steps=2) == 0
    log = (world / "experiments" / "over" / "run.log").read_text()
    assert "--total_steps 2 is reached already: nothing to do" in log


def test_a_foreign_index_has_to_be_named_again(world: Path) -> None:
    _make_origins(world)
    flags = {"name": "orphan", "train_retriever": True}
    foreign = {"load_index_path": world / "foreign", "allow_stale_index": True}
    run_train(world, total_steps=1, **flags, **foreign)
    with pytest.raises(IndexFileError, match="resume it with the same --load_index_path"):
        run_train(world, total_steps=2, **flags)


def test_a_run_starts_from_the_models_of_another(world: Path) -> None:
    _make_origins(world)
    run_train(world, name="child", total_steps=1, model_path=checkpoint(world, "parent"), lr=0.0,
              weight_decay=0)  # fmt: skip
    parent = load_file(checkpoint(world, "parent") / "reader" / "model.safetensors")
    child = load_file(checkpoint(world, "child") / "reader" / "model.safetensors")
    assert all(torch.equal(parent[key], child[key]) for key in parent)


@pytest.mark.parametrize("mode", ["ppmean", "adist", "loop", "emdr", "emdr2"])
def test_every_retriever_loss_trains_with_everything_switched_on(world: Path, mode: str) -> None:
    code = run_train(
        world,
        name=f"all-{mode}",
        total_steps=2,
        train_retriever=True,
        gold_score_mode=mode,
        dropout=0.1,
        retrieve_with_rerank=True,
        n_to_rerank_with_retrieve_with_rerank=8,
        use_gradient_checkpoint_reader=True,
        use_gradient_checkpoint_retriever=True,
        compute_crossattention_stats=True,
        decoder_prompt_format="answer {query}",
        eval_freq=2,
        shard_optim=True,
    )
    assert code == 0
    assert "loss/retriever_loss" in logged(world, f"all-{mode}")[2]
