"""Dense steps without contents, against the same with contents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gazetteer.build_retriever import build_retriever
from gazetteer.dense import step_on_meta
from gazetteer.dense.grad_cache import ChunkSizes, embed_in_chunks
from gazetteer.dense.step_on_meta import measure_training
from gazetteer.dense.towers import Towers
from gazetteer.live_tensors import LiveTensors
from gazetteer.options import Options
from gazetteer.records import Ranks
from gazetteer.retriever import DualEncoder
from tests.support.dense_batches import tiny_retriever
from tests.support.dense_runs import dense_options_of, make_dense_world
from tests.support.lead_models import save_classifier, save_encoder

CHUNKED = {"grad_cache": True, "gc_q_chunk_size": 2, "gc_p_chunk_size": 4}
LEARNS = {"teacher": "layered", "distill_layer_num": 1, "train_teacher": True}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make_dense_world(tmp_path_factory.mktemp("world"))
    save_encoder(world / "layered")
    save_classifier(world / "pairs")
    return world


def options_with(world: Path, **flags: Any) -> Options:
    for name in ("teacher", "retriever_model_path"):
        if name in flags:
            flags[name] = world / flags[name]
    return dense_options_of(world, **{"p_max_len": 24, "q_max_len": 12} | flags)


@pytest.mark.parametrize(
    "flags",
    [
        {"per_gpu_batch_size": 40},
        {"dense_loss": "kl", "untie_retriever": True, "precision": "bf16"},
        CHUNKED | {"per_gpu_batch_size": 4},
        LEARNS,
    ],
)
def test_models_and_their_step(world: Path, flags: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    options = options_with(world, **flags)
    found = measure_training(options, Ranks())

    def loaded(options: Options, ranks: Ranks, name: str = "", asked: object = None) -> DualEncoder:
        return build_retriever(options, ranks, name or options.retriever.retriever_model_path)[0]

    for name in ("retriever_on_meta", "dual_encoder_on_meta"):
        monkeypatch.setattr(step_on_meta, name, loaded)
    monkeypatch.setattr(step_on_meta, "META", torch.device("cpu"))
    measured = measure_training(options, Ranks())
    assert list(found.models) == list(measured.models)
    assert found.step.whole == pytest.approx(measured.step.whole, rel=0.01)
    assert found.step.activations == pytest.approx(measured.step.activations, rel=0.01)


def test_a_step_larger_than_was_tried_is_found_from_smaller_ones(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_with(world, per_gpu_batch_size=60)
    guessed = measure_training(options, Ranks()).step
    monkeypatch.setattr(step_on_meta, "_filling", lambda *_: 60)
    tried = measure_training(options, Ranks()).step
    assert guessed.whole == pytest.approx(tried.whole, rel=0.03)


def test_passages_of_other_workers_are_candidates(world: Path) -> None:
    def activations(workers: int, **flags: object) -> int:
        options = options_with(world, per_gpu_batch_size=16, **flags)
        return measure_training(options, Ranks(world_size=workers)).step.activations

    alone = activations(1)
    assert activations(100) == alone
    # 16 x 4,752 more scores, several times over.
    assert activations(100, negatives_x_device=True) > alone + 2 * 4 * 16 * 4_752


def test_teachers_that_read_pairs_have_places_for_as_much(world: Path) -> None:
    flags = LEARNS | {"teacher": "pairs", "retriever_model_path": "layered"}
    options = options_with(world, **flags, teacher_kind="cross", p_max_len=128)
    assert measure_training(options, Ranks()).step.activations > 0


def test_chunks_have_memory_for_the_graph_of_one() -> None:
    texts = [np.zeros(16, dtype=np.int32)] * 8

    def peak(chunk: int) -> int:
        towers = Towers(tiny_retriever())
        with LiveTensors([towers]) as live:
            parts = embed_in_chunks(towers, texts[:1], texts, ChunkSizes(1, chunk))
            sum(part.square().sum() for part in parts).backward()
        return live.peak_beside_gradients

    assert peak(1) < peak(8) / 4
