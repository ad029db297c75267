"""Models and steps without contents, against the same with contents."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gazetteer import build, step_on_meta
from gazetteer.models_on_meta import ModelsOnMeta
from gazetteer.options import Options
from gazetteer.records import Ranks
from gazetteer.step_on_meta import measure_reading, measure_step
from tests.support.runs import make_world, options_of

DISTILS = {"compressor": "n_layers", "distill_kl_weight": 1.0, "rerank_target": "reader"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def with_contents(options: Options) -> ModelsOnMeta:
    models = build.build_models(options, Ranks(), None)
    return ModelsOnMeta(models.reader, models.retriever, models.compressor)


@pytest.mark.parametrize(
    "flags",
    [
        {"train_retriever": True, "reader_layer_num": 1},
        {"compressor": "pool", "compressor_pooling": "mean", "compression_rate": 4.0},
        {"compressor": "encoder", "use_gradient_checkpoint_reader": True},
        DISTILS,
        DISTILS | {"train_retriever": True, "num_memory_tokens": 2, "precision": "bf16"},
    ],
)
def test_models_and_their_step(world: Path, flags: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    if flags.get("compressor") == "encoder":
        flags = flags | {"compressor_model_path": world / "retriever"}
    options = options_of(world, "train", text_maxlength=24, target_maxlength=6, **flags)
    found, real = measure_reading(options, Ranks()), with_contents(options)
    assert list(found.models) == real.memory(index_keeps_encoder=True)
    monkeypatch.setattr(step_on_meta, "META", torch.device("cpu"))
    measured = measure_step(options, Ranks(), real)
    # What checkpointing computes again is freed in another order.
    apart = 0.06 if options.optimisation.use_gradient_checkpoint_reader else 0.01
    assert found.step.whole == pytest.approx(measured.whole, rel=apart)
    assert found.step.activations == pytest.approx(measured.activations, rel=apart)


def test_a_teacher_of_whole_passages_and_vectors_for_more_tokens_need_more(world: Path) -> None:
    def activations(**flags: object) -> int:
        options = options_of(world, "train", compressor="n_layers", **flags)
        return measure_reading(options, Ranks()).step.activations

    plain = activations(num_memory_tokens=2)
    assert activations(num_memory_tokens=20) > plain
    assert activations(num_memory_tokens=2, distill_kl_weight=1.0) > plain
    assert activations(num_memory_tokens=2, compressor_maxlength=20) < plain
