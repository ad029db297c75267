"""The LEAD step on 1, 2 and 3 gloo ranks: gradients and losses are those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gazetteer.dense.records import DenseBatch
from gazetteer.distributed.replicas import replicate
from gazetteer.lead.layers import LayerChooser
from gazetteer.lead.step import LeadBatch, LeadLesson, LeadStep, StudentAndTeacher
from gazetteer.lead.teachers import LayeredModel, open_cross_encoder, open_late_interaction
from gazetteer.records import Ranks
from gazetteer.stats import WeightedStats
from tests.support.lead_models import save_encoder, tiny_dual
from tests.support.ranks import run_on_ranks

SHARES = {1: [range(5)], 2: [range(3), range(3, 5)], 3: [range(1), range(1, 5), range(5, 5)]}
"""Queries of each rank: uneven, and none at all."""
PASSAGES = 3
KINDS = ("de", "colbert", "cross")


def teacher_of(kind: str, folder: str) -> LayeredModel:
    if kind == "de":
        return tiny_dual(2, layers=3)
    torch.manual_seed(5)
    settings: dict[str, Any] = {"dropout": 0.0, "attention": "eager"}
    if kind == "colbert":
        return open_late_interaction(folder, query_length=6, **settings)[0]
    return open_cross_encoder(folder, max_padded_tokens=40, **settings)[0]


def tokens(generator: np.random.Generator, longest: int) -> np.ndarray:
    return np.r_[2, generator.integers(4, 60, generator.integers(1, longest)), 3].astype(np.int32)


def batch_of(queries: range) -> LeadBatch:
    texts = [np.random.default_rng(number) for number in queries]
    batch = DenseBatch(
        examples=tuple(queries),
        query_tokens=[tokens(text, 4) for text in texts],
        passage_tokens=[tokens(text, 9) for text in texts for _ in range(PASSAGES)],
    )
    return LeadBatch(batch, batch)


def learn(
    ranks: Ranks, kind: str, learns: bool, folder: str, count: int = 2
) -> tuple[dict, torch.Tensor]:
    """Losses as they would be logged, and averaged gradients of both models."""
    models = StudentAndTeacher(
        tiny_dual(1, normalize=True), teacher_of(kind, folder), teacher_learns=learns
    )
    models = models.double().train()
    step = LeadStep(
        replicate(models, ranks),
        LeadLesson(temperature=0.5, layer_temperature=1.0, teacher_learns=learns),
        LayerChooser(
            selection="random", count=count, student_layers=2, teacher_layers=models.teacher.layers,
            resample_steps=1, seed=0,
        ),
        passages=PASSAGES,
        reads_pairs=models.teacher.reads_pairs,
        steps_done=lambda: 7,
    )  # fmt: skip
    batch = batch_of(SHARES[ranks.world_size][ranks.rank])
    loss, numbers = step(batch)
    loss.backward()
    stats = WeightedStats()
    for name, value in numbers.items():
        stats.add(name, value, weight=len(batch.examples))
    parameters = [*models.student.parameters(), *models.teacher.parameters()]
    gradients = [p.grad.flatten() for p in parameters if p.grad is not None]
    losses = {name: x for name, x in stats.averages().items() if name.startswith("loss/")}
    return losses, torch.cat(gradients)


def everything(ranks: Ranks, folder: str) -> dict[str, Any]:
    return {
        f"{kind} {learns}": learn(ranks, kind, learns, folder)
        for kind in KINDS
        for learns in (False, True)
    } | {f"{kind} final": learn(ranks, kind, True, folder, count=0) for kind in KINDS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_encoder(Path(tmp_path_factory.mktemp("encoder"))))


@pytest.fixture(scope="module")
def alone(folder: str) -> dict[str, Any]:
    return everything(Ranks(), folder)


def test_the_loss_is_the_sum_of_its_terms_without_that_of_a_frozen_teacher(alone):
    for name, (losses, _) in alone.items():
        terms = {key: value for key, value in losses.items() if key != "loss/train_loss"}
        assert set(terms) == {f"loss/{t}_loss" for t in ("student", "teacher", "final", "layers")}
        assert (terms.pop("loss/layers_loss") == 0) == name.endswith("final")
        assert min(terms.values()) > 0
        if name.endswith("False"):
            del terms["loss/teacher_loss"]
        total = sum(terms.values()) + losses["loss/layers_loss"]
        assert losses["loss/train_loss"] == pytest.approx(total, rel=1e-6), name


def test_only_a_teacher_that_learns_has_gradients(alone):
    for kind in KINDS:
        assert len(alone[f"{kind} True"][1]) > 1.5 * len(alone[f"{kind} False"][1])


@pytest.mark.parametrize("world_size", [2, 3])
def test_gradients_and_losses_are_those_of_one_process(world_size, alone, folder):
    for rank, found in enumerate(run_on_ranks(everything, world_size, folder)):
        for name, (losses, gradient) in found.items():
            expected_losses, expected = alone[name]
            assert losses == pytest.approx(expected_losses, rel=1e-6), (rank, name)
            assert expected.abs().max() > 1e-3
            # A frozen dual encoder embeds in float32, so losses and gradients are a little rounded.
            error = (gradient - expected).abs().max() / expected.abs().max()
            assert error < 1e-6, (rank, name)
