"""A run that goes on with another number of workers, again and again, is the run of one worker."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gazetteer.records import Ranks
from tests.support.dense_runs import make_dense_world, run_dense
from tests.support.ranks import run_in_legs
from tests.support.runs import logged, make_world, run_train
from tests.support.tiny_data import write_jsonl
from tests.support.tiny_models import save_tiny_retriever

ALL_PAIRS = (1, 2, 1, 3, 1, 4, 2, 3, 2, 4, 3, 4, 1)
"""Every change among 1 to 4 workers, in one walk."""
STEPS = 2
"""Of a leg."""
COMMON = {"shuffle": True, "save_freq": 1000}
SEARCHING: dict[str, Any] = {"train_retriever": True, "lr_retriever": 1e-4, "warmup_steps": 1}
CHAINS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    # Five examples divide evenly among nobody, and are too many to be read at once by one or two.
    "every change": (
        ALL_PAIRS,
        SEARCHING | {"global_batch_size": 5, "per_gpu_batch_size": 2, "accumulation_steps": 2,
         "refresh_index": "9", "refresh_mode": "interleaved", "refresh_steps": 3},
    ),
    "masked texts": (
        (3, 2),
        SEARCHING | {"task": "mlm", "train_data": "texts.jsonl", "eval_data": None,
         "global_batch_size": 4, "per_gpu_batch_size": 1, "gold_score_mode": "emdr2"},
    ),
    "fewer examples than workers": (
        (2, 4, 1),
        SEARCHING | {"global_batch_size": 3, "query_side_retriever_training": True,
         "gold_score_mode": "evalnormsum", "save_index_path": "index"},
    ),
    "compressor": (
        (1, 3),
        {"global_batch_size": 4, "compressor": "n_layers", "num_memory_tokens": 2,
         "distill_kl_weight": 1.0, "rerank_target": "reader", "rerank_weight": 1.0},
    ),
    "layers of the reader": (
        (1, 3),
        SEARCHING | {"global_batch_size": 4, "per_gpu_batch_size": 4, "reader_layer_num": 1,
         "layer_score_reweight": True},
    ),
    "dense": (
        (2, 3, 1, 4),
        {"task": "dense", "global_batch_size": 6, "negatives_x_device": True,
         "num_train_epochs": 2.15, "total_steps": None, "passages": "corpus.jsonl",
         "mine_negatives": 3, "mine_depth": 12, "refresh_index": "0-100:3"},
    ),
    "taught by a teacher": (
        (1, 3),
        {"task": "dense", "global_batch_size": 4, "teacher": "teacher", "distill_layer_num": 1,
         "layer_score_reweight": True, "train_teacher": True},
    ),
}  # fmt: skip
LEGS = [(chain, STEPS * n) for chain, (sizes, _) in CHAINS.items() for n in range(len(sizes))]
"""Chain of each leg, and the steps done before it. All run in one start of four processes."""
FILES = ("train_data", "passages", "save_index_path", "teacher")


def run_chain(ranks: Ranks, world: Path, chain: str, kind: str, **more: Any) -> int:
    """One start of the command."""
    sizes, flags = CHAINS[chain]
    given = COMMON | {"total_steps": STEPS * len(sizes)} | flags | more
    given = {n: world / v if n in FILES and v else v for n, v in given.items()}
    name = f"{chain} {kind}".replace(" ", "-")
    if "save_index_path" in given:
        given["save_index_path"] = f"{given['save_index_path']}-{kind}"
    if flags.get("task") == "dense":
        return run_dense(world / "dense", ranks, name=name, checkpoint_dir=world / "experiments",
                         train_data=world / "dense/train.jsonl", **given)  # fmt: skip
    return run_train(world, ranks, name=name, **given)


def leg(ranks: Ranks, number: int, world: Path) -> dict[str, Any]:
    """Train until the leg is over; state before and after, and which examples were read."""
    from gazetteer.indexing.keeper import IndexKeeper
    from gazetteer.training import loop

    chain, done = LEGS[number]
    seen: dict[str, Any] = {"read": [], "embedded": 0}
    run_loop, draw_step, embed = loop._run, loop.draw_step, IndexKeeper._embed

    def watched(run, stop, reporter):
        class Stop:
            def requested(self, ranks: Ranks) -> bool:
                return run.state.position.micro_batches >= done + STEPS

        seen["before"] = digest(run)
        code = run_loop(run, Stop(), reporter)
        seen["after"] = digest(run)
        return code

    def noted(position: int, **how):
        passes = draw_step(position, **how)
        seen["read"] += [(d.epoch, d.index) for each in passes for d in each.draws]
        return passes

    def counted(keeper, *args):
        seen["embedded"] += 1
        return embed(keeper, *args)

    loop._run, loop.draw_step, IndexKeeper._embed = watched, noted, counted
    try:
        seen["code"] = run_chain(ranks, world, chain, "many")
    finally:
        loop._run, loop.draw_step, IndexKeeper._embed = run_loop, draw_step, embed
    return seen


def digest(run: Any) -> str:
    """Of all that a run is made of, but for the random states."""
    state, found = run.state, hashlib.sha256()
    position = {n: getattr(state.position, n) for n in ("micro_batches", "examples", "step_size")}
    numbers = [position, state.guard.state_numbers(), state.loss_scale.state_numbers()]
    found.update(json.dumps(numbers).encode())
    tensors = {f"model.{name}": value for name, value in run.step.state_dict().items()}
    for name, optimiser in state.optimisers.items():
        tensors |= {f"{name}.{key}": value for key, value in optimiser.state_tensors().items()}
    for name, value in sorted((n.replace("module.", ""), v) for n, v in tensors.items()):
        found.update(name.encode() + value.detach().contiguous().view(-1).numpy().tobytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("world"))
    lines = (folder / "passages.jsonl").read_text().splitlines()
    write_jsonl(folder / "texts.jsonl", [json.loads(line) for line in lines[:22]])
    make_dense_world(folder / "dense", train=21)
    corpus = folder / "dense/collection/corpus.jsonl"
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    write_jsonl(folder / "corpus.jsonl", [{"id": r["_id"]} | r for r in rows])
    save_tiny_retriever(folder / "teacher", seed=1)
    return folder


@pytest.fixture(scope="module")
def legs(world: Path) -> dict[str, list[list[dict[str, Any]]]]:
    """What each worker saw in each leg of each chain."""
    sizes = [size for sizes, _ in CHAINS.values() for size in sizes]
    seen = run_in_legs(leg, sizes, world)
    found: dict[str, list[list[dict[str, Any]]]] = {chain: [] for chain in CHAINS}
    for (chain, _), each in zip(LEGS, seen, strict=True):
        found[chain].append(each)
    return found


@pytest.mark.parametrize("chain", CHAINS)
def test_a_run_on_changing_numbers_of_workers_is_that_of_one(
    world: Path, legs: dict[str, list[list[dict[str, Any]]]], chain: str
) -> None:
    _, flags = CHAINS[chain]
    code = run_chain(Ranks(), world, chain, "one", per_gpu_batch_size=flags["global_batch_size"])
    assert code == 0
    many, one = (logged(world, f"{chain} {kind}".replace(" ", "-")) for kind in ("many", "one"))
    assert list(many) == list(one)
    for step, record in one.items():
        total = record["loss/train_loss"]
        assert many[step]["loss/train_loss"] == pytest.approx(total, rel=1e-5), step
        for name in (name for name in record if name.startswith("loss/")):
            assert many[step][name] == pytest.approx(record[name], rel=1e-3, abs=1e-5 * total), name

    # What one leg saved, the next one begins with, to the bit, on each of its workers.
    for last, following in pairwise(legs[chain]):
        assert {seen["before"] for seen in following} == {last[0]["after"]}
        assert {seen["code"] for seen in last} == {75}
    read = sorted(place for each in legs[chain] for seen in each for place in seen["read"])
    assert len(read) == len(set(read))
    epochs = read[-1][0] + 1
    count = max(number for _, number in read) + 1
    assert read[: (epochs - 1) * count] == [(e, n) for e in range(epochs - 1) for n in range(count)]
    if "save_index_path" in flags:
        embedded = [sum(seen["embedded"] for seen in each) for each in legs[chain]]
        assert embedded[0] and not any(embedded[1:])
