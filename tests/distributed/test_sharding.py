"""State spread over workers: the same weights as without, and checkpoints that anyone can load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from gazetteer.records import Ranks
from tests.support.ranks import run_on_ranks
from tests.support.runs import close_logs, make_world, options_of, run_train
from tests.support.tiny_causal import save_tiny_causal

TRAINING: dict[str, Any] = {
    "train_retriever": True,
    "total_steps": 4,
    "warmup_steps": 2,
    "lr": 1e-3,
    "clip": 0.1,
    "per_gpu_batch_size": 1,
    "log_freq": 5,
}
"""Clipped in every step, so that the norm of what is spread matters."""
SPREAD: dict[str, dict[str, Any]] = {
    "plain": {"shard_optim": True},
    "zero": {"shard_optim": True},
    "zero-grads": {"shard_optim": True, "shard_grads": True},
    "fairscale": {"shard_optim": True, "shard_grads": True, "shard_backend": "fairscale"},
    "fsdp2": {"shard_optim": True, "shard_backend": "fsdp2"},
    "fsdp2-params": {"shard_optim": True, "shard_backend": "fsdp2", "shard_params": True},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("world"))
    save_tiny_causal(folder / "llama")
    few_rows = T5Config.from_pretrained(folder / "reader", relative_attention_num_buckets=6)
    torch.manual_seed(0)
    T5ForConditionalGeneration(few_rows).save_pretrained(folder / "reader")
    return folder


def spread_run(ranks: Ranks, world: Path, name: str, kind: str, **flags: Any) -> None:
    """Train in one of several ways; "plain" spreads nothing, whatever the flags say."""
    from gazetteer.training import building

    assign = building.assign
    if kind == "plain":
        building.assign = lambda *_: None  # type: ignore[assignment]
    run_train(world, ranks, name=name, **(TRAINING | SPREAD[kind] | flags))
    building.assign = assign


def equality_job(ranks: Ranks, world: Path, kinds: list[str], flags: dict[str, Any]) -> None:
    """The same run with nothing spread, and in each of several ways."""
    if "reader_model_type" in flags:
        flags |= {"reader_model_type": world / flags["reader_model_type"]}
    for kind in ("plain", *kinds):
        spread_run(ranks, world, kind, kind, **flags)


def weights_in(experiments: Path, name: str) -> dict[str, Tensor]:
    """All weights at the end of a run."""
    folder = experiments / name / "checkpoint" / "latest"
    return {
        f"{path.parent.name}.{key}": tensor
        for path in folder.glob("*/*.safetensors")
        for key, tensor in load_file(path).items()
    }


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Between tensors of the same name; there must be the same names."""
    assert first.keys() == second.keys()
    return max(float((first[n].double() - second[n].double()).abs().max()) for n in first)


CASES: dict[str, tuple[int, dict[str, float], dict[str, Any]]] = {
    "fp32": (2, {"zero-grads": 0, "fsdp2": 1e-6}, {"total_steps": 20, "refresh_index": "7"}),
    "three": (
        3,
        {"zero-grads": 1e-6, "fsdp2-params": 1e-6},
        {"use_gradient_checkpoint_reader": True, "eval_freq": 3},
    ),
    "bf16": (2, {"zero-grads": 0}, {"precision": "bf16"}),
    # 1e-3: two roundings of float16.
    "fp16": (
        2,
        {"zero-grads": 0, "fairscale": 0, "fsdp2-params": 1e-3},
        {"precision": "fp16", "total_steps": 3},
    ),
    "accumulation": (
        2,
        {"zero": 0, "zero-grads": 1e-6, "fsdp2-params": 1e-6},
        {"accumulation_steps": 2, "freeze_retriever_steps": 2, "total_steps": 6},
    ),
    "clipped jointly": (
        2,
        {"zero-grads": 0, "fairscale": 0, "fsdp2-params": 1e-6},
        {"shard_optim": False, "total_steps": 3},
    ),
    "compressor": (
        2,
        {"zero": 0, "zero-grads": 0},
        {
            "compressor": "n_layers",
            "num_memory_tokens": 2,
            "lr_compressor": 1e-3,
            "rerank_target": "reader",
            "total_steps": 3,
        },
    ),
    "adapters": (
        2,
        {"zero-grads": 0, "fairscale": 0},
        {"reader_lora_rank": 2, "lora_rank": 2, "total_steps": 3},
    ),
    "decoder-only": (
        2,
        {"zero-grads": 0, "fsdp2-params": 1e-6},
        {"reader_model_type": "llama", "total_steps": 3},
    ),
}
"""Workers, the largest differences to a run that spreads nothing, and flags."""


@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_a_run_that_spreads_nothing(
    world: Path, tmp_path: Path, case: str
) -> None:
    size, allowed, flags = CASES[case]
    job = (equality_job, size, world, list(allowed), flags | {"checkpoint_dir": tmp_path})
    run_on_ranks(*job, timeout_seconds=500)
    plain = weights_in(tmp_path, "plain")
    for kind, most in allowed.items():
        assert largest_difference(plain, weights_in(tmp_path, kind)) <= most, kind


def rewrite(ranks: Ranks, world: Path, source: str, target: str, **flags: Any) -> None:
    """Load a run's last checkpoint as a run with these flags does, and save it again."""
    from gazetteer.data_files import open_data
    from gazetteer.distributed.agreement import main_first
    from gazetteer.training.building import build_training

    experiments = world / "experiments"
    copy = (experiments / source / "checkpoint", experiments / target / "checkpoint")
    main_first(lambda: shutil.copytree(*copy, symlinks=True), ranks)
    options = options_of(world, "train", name=target, **(TRAINING | {"total_steps": 2} | flags))
    run = build_training(options, ranks, open_data(options, ranks, is_training=True))
    run.save()
    run.finish_saving()
    close_logs()


def saved_state(world: Path, name: str) -> dict[str, Tensor]:
    """Weights and optimiser state of a checkpoint, put together from whatever parts it has."""
    folder = world / "experiments" / name / "checkpoint" / "latest"
    state = weights_in(world / "experiments", name)
    for model in ("reader", "retriever"):
        pieces: dict[str, list[tuple[int, Tensor]]] = {}
        for path in folder.glob(f"{model}_optimiser*.safetensors"):
            with safe_open(path, "pt") as file:
                rows = json.loads((file.metadata() or {}).get("rows", "{}"))
                for key in file.keys():  # noqa: SIM118 - no mapping
                    start = rows.get(key.rpartition(".")[0], [0])[0]
                    pieces.setdefault(key, []).append((start, file.get_tensor(key)))
        for key, found in pieces.items():
            found.sort(key=lambda piece: piece[0])
            is_count = key.endswith(".step")
            tensors = [tensor for _, tensor in found]
            state[f"{model}.{key}"] = tensors[0] if is_count else torch.cat(tensors)
    return state


def two_workers_job(ranks: Ranks, world: Path) -> None:
    """Runs saved beside training, one of them in two goes; then loaded with nothing spread."""
    flags = {"dropout": 0.1, "async_save": True, "save_freq": 1, "scheduler_steps": 4}
    spread_run(ranks, world, "whole", "zero-grads", total_steps=4, **flags)
    spread_run(ranks, world, "again", "zero-grads", total_steps=2, **flags)
    if ranks.is_main:
        shutil.copytree(world / "experiments/again", world / "experiments/half", symlinks=True)
    spread_run(ranks, world, "again", "zero-grads", total_steps=4, **flags)
    rewrite(ranks, world, "half", "plain2")


def three_workers_job(ranks: Ranks, world: Path) -> None:
    """What two workers saved, loaded by three."""
    rewrite(ranks, world, "half", "zero3", shard_optim=True)
    rewrite(ranks, world, "zero3", "fsdp3", shard_backend="fsdp2", shard_params=True)


def four_workers_job(ranks: Ranks, world: Path) -> None:
    """What one worker saved, loaded by four; the last has no row of the smallest tensors."""
    flags = {"shard_backend": "fsdp2", "shard_params": True, "async_save": True}
    rewrite(ranks, world, "plain1", "fsdp4", **flags)
    rewrite(ranks, world, "fsdp4", "fairscale4", shard_backend="fairscale", shard_grads=True)


def test_a_checkpoint_is_loaded_by_any_number_of_workers_however_they_divide_it(
    world: Path,
) -> None:
    run_on_ranks(two_workers_job, 2, world, timeout_seconds=500)
    run_on_ranks(three_workers_job, 3, world, timeout_seconds=500)
    rewrite(Ranks(), world, "fsdp3", "plain1", async_save=True)
    run_on_ranks(four_workers_job, 4, world, timeout_seconds=500)
    rewrite(Ranks(), world, "fairscale4", "again1", async_save=True)
    half = saved_state(world, "half")
    assert any(key.endswith(".exp_avg_sq") for key in half)
    for name in ("plain2", "zero3", "fsdp3", "plain1", "fsdp4", "fairscale4", "again1"):
        found = saved_state(world, name)
        assert half.keys() == found.keys(), name
        assert all(torch.equal(half[key], found[key]) for key in half), name
    files = {p.name for p in (world / "experiments/zero3/checkpoint/latest").iterdir()}
    assert {f"reader_optimiser.{rank}.safetensors" for rank in range(3)} <= files
    # Saved beside training, and resumed to the same bits.
    whole, again = saved_state(world, "whole"), saved_state(world, "again")
    assert all(torch.equal(whole[key], again[key]) for key in whole)


@pytest.mark.parametrize(
    ("flags", "groups"), [({}, 1), ({"shard_grads": True}, 1), ({"shard_optim": True}, 2)]
)
def test_shard_optim_alone_clips_the_models_apart(
    world: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], groups: int
) -> None:
    from gazetteer.training import loop

    clip, sizes = loop.clip_gradients, []

    def noted(parameters, *args, **how):
        sizes.append(len(parameters))
        return clip(parameters, *args, **how)

    monkeypatch.setattr(loop, "clip_gradients", noted)
    name = "-".join(["clipped", *flags])
    run_train(world, name=name, **(TRAINING | {"total_steps": 1} | flags))
    assert len(sizes) == groups
