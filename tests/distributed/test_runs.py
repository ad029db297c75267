"""Whole runs on several workers equal runs on one."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gazetteer.records import Ranks
from tests.support.ranks import run_in_legs, run_on_ranks
from tests.support.runs import logged, make_world, results, run_evaluate, run_train

STEPS = 50
TRAINING = {
    "global_batch_size": 4,
    "train_retriever": True,
    "total_steps": STEPS,
    "warmup_steps": 5,
    "refresh_index": "20",
    "shuffle": True,
    "save_freq": 1000,
}
EVALUATION = {"write_results": True, "per_gpu_batch_size": 2}


SIZES = (2, 3, 4)


def job(ranks: Ranks, leg: int, world: Path) -> None:
    """Everything one group of workers does."""
    size = ranks.world_size
    # Of three workers one has nothing to do in either pass of a step.
    run_train(world, ranks, name=f"train{size}", per_gpu_batch_size=4 // size, **TRAINING)
    run_evaluate(world, ranks, name=f"read{size}", **EVALUATION)
    run_evaluate(world, ranks, name=f"found{size}", retrieve_only=True, n_context=9,
                 save_index_path=world / f"index{size}", **EVALUATION)  # fmt: skip
    run_evaluate(world, ranks, name=f"loaded{size}", retrieve_only=True, n_context=9,
                 load_index_path=world / "index1", **EVALUATION)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("world"))
    job(Ranks(), 0, folder)
    run_in_legs(job, SIZES, folder, timeout_seconds=240)
    return folder


@pytest.mark.parametrize("size", SIZES)
def test_losses_do_not_depend_on_the_number_of_workers(world: Path, size: int) -> None:
    one, many = logged(world, "train1"), logged(world, f"train{size}")
    assert len(one) == len(many) == STEPS
    for step in one:
        expected = one[step]["loss/train_loss"]
        assert many[step]["loss/train_loss"] == pytest.approx(expected, rel=1e-5), step


@pytest.mark.parametrize("size", SIZES)
def test_results_files_are_equal_to_the_byte(world: Path, size: int) -> None:
    for name in ("read", "found", "loaded"):
        expected, found = (
            (world / "experiments" / f"{name}{n}" / "dev-step-0.jsonl").read_bytes()
            for n in (1, size)
        )
        assert found == expected
    one, many = (logged(world, f"found{n}", "eval")[0] for n in (1, size))
    assert many == pytest.approx(one)


def test_every_worker_has_the_same_weights_in_the_end(world: Path) -> None:
    first, second = (
        load_file(world / "experiments" / f"train{n}/checkpoint/latest/reader/model.safetensors")
        for n in (2, 4)
    )
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-4)


RESUMED = {
    "train_retriever": True,
    "total_steps": 7,
    "accumulation_steps": 2,
    "save_freq": 2,
    "refresh_index": "3",
    "dropout": 0.1,
    "shuffle": True,
}


def interrupted_job(ranks: Ranks, world: Path) -> None:
    """A run that one worker's failure ends inside an update, then the same command again."""
    from gazetteer.training import loop

    run_train(world, ranks, name=f"whole{ranks.world_size}", **RESUMED)
    original = loop._apply

    def stops(run) -> None:
        if run.state.position.micro_batches >= 6:
            raise RuntimeError("killed")
        original(run)

    loop._apply = stops
    with pytest.raises(RuntimeError, match="killed"):
        run_train(world, ranks, name=f"again{ranks.world_size}", **RESUMED)
    loop._apply = original
    run_train(world, ranks, name=f"again{ranks.world_size}", **RESUMED)


@pytest.mark.parametrize("size", [2, 3])
def test_resuming_on_several_workers_is_bit_identical(world: Path, size: int) -> None:
    run_on_ranks(interrupted_job, size, world, timeout_seconds=240)
    whole, again = logged(world, f"whole{size}"), logged(world, f"again{size}")
    for step in whole:
        for name in ("loss/reader_loss", "loss/retriever_loss"):
            assert whole[step][name] == again[step][name]
    folders = [world / "experiments" / f"{n}{size}/checkpoint/latest" for n in ("whole", "again")]
    for file in ("reader/model.safetensors", "retriever_optimiser.safetensors"):
        first, second = (load_file(folder / file) for folder in folders)
        assert all(torch.equal(first[name], second[name]) for name in first)


SPREAD = {
    "nothing spread": {},
    "zero": {"shard_optim": True, "shard_grads": True},
    "fairscale": {"shard_optim": True, "shard_backend": "fairscale"},
    "fsdp2": {"shard_params": True, "shard_backend": "fsdp2"},
}


def poisoned_job(ranks: Ranks, world: Path, name: str) -> list[dict[str, float]]:
    """Not-a-number on one worker, in the retriever's gradient; what the guard knows at the end."""
    from gazetteer.training import loop

    original = loop._micro_batch
    known: list[dict[str, float]] = []

    def poisons(run, *args, **kwargs) -> None:
        known[:] = [run.state.guard.state_numbers(), run.state.loss_scale.state_numbers()]
        if run.state.position.micro_batches == 1 and ranks.rank == 1:
            parameter = next(iter(run.models.retriever.parameters()))
            handle = parameter.register_hook(lambda grad: grad * float("nan"))
            original(run, *args, **kwargs)
            handle.remove()
        else:
            original(run, *args, **kwargs)

    loop._micro_batch = poisons
    flags = {"train_retriever": True, "precision": "fp16", **SPREAD[name]}
    run_train(world, ranks, name=f"poisoned-{name}", total_steps=3, save_freq=1, **flags)
    loop._micro_batch = original
    return known


@pytest.mark.parametrize("name", SPREAD)
def test_a_non_finite_gradient_on_one_worker_is_skipped_on_all(world: Path, name: str) -> None:
    # Before the third step: the second one was skipped, and halved the scale.
    known = [{"in_a_row": 0, "skipped": 1}, {"scale": 2.0**15, "good_steps": 0.0}]
    assert run_on_ranks(poisoned_job, 2, world, name) == [known, known]
    folder = world / "experiments" / f"poisoned-{name}" / "checkpoint"
    for file in ("reader/model.safetensors", "retriever/model.safetensors"):
        first, second, third = (load_file(folder / f"step-{n}" / file) for n in (1, 2, 3))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert all(tensor.isfinite().all() for tensor in third.values())
    guard = json.loads((folder / "latest" / "state.json").read_text())["guard"]
    assert guard["skipped"] == 1


def test_more_workers_than_examples_leave_nobody_waiting(world: Path) -> None:
    run_on_ranks(few_examples_job, 3, world)
    assert len(results(world, "few", "one-step-0.jsonl")) == 1


def few_examples_job(ranks: Ranks, world: Path) -> None:
    """One example, three workers, and a corpus of two passages."""
    from tests.support.tiny_data import passages, questions, write_jsonl

    if ranks.is_main:
        write_jsonl(world / "one.jsonl", questions(1))
        write_jsonl(world / "two.jsonl", passages(2))
    from gazetteer.distributed.collectives import barrier

    barrier()
    flags = {"eval_data": world / "one.jsonl", "passages": world / "two.jsonl", "n_context": 5}
    run_evaluate(world, ranks, name="few", write_results=True, **flags)
    run_train(world, ranks, name="few-train", total_steps=2, train_data=world / "one.jsonl",
              train_retriever=True, retriever_n_context=5, **flags)  # fmt: skip
