"""ONE LEAD STEP, from tokens to loss, in the order in which it happens.

    texts --student--> states of chosen layers --> scores --+--> L_student
    texts --teacher--> states of chosen layers --> scores --+--> L_teacher, where it learns
                                                            +--> L_final: final scores compared
                                                            +--> L_layers: pairs of layers compared

The loss is their plain sum. Which passages are candidates depends on the teacher: those of the
whole batch, of all ranks; or, where it reads query and passage together, each query's own.

Source: arXiv:2212.05225.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gazetteer.distributed.collectives import all_reduce_mean
from gazetteer.distributed.query_shares import QueryShare
from gazetteer.lead.dual import DualLayers
from gazetteer.lead.layers import LayerChooser, LayerPairs
from gazetteer.lead.scores import LayerScores, States
from gazetteer.lead.teachers import LayeredModel
from gazetteer.losses.contrastive import contrastive_loss
from gazetteer.losses.layers import (
    final_distillation_loss,
    layer_distillation_loss,
    layer_losses,
    layer_weights,
)
from gazetteer.modes import evaluation_mode
from gazetteer.records import TokenLists
from gazetteer.stats import Stopwatch


class Texts(Protocol):
    """Queries and passages, as `dense.records.DenseBatch` holds them."""

    @property
    def examples(self) -> tuple[int, ...]:
        """Numbers of the lines behind them, one per query."""
        ...

    @property
    def query_tokens(self) -> TokenLists:
        """Ids of each query, special tokens included."""
        ...

    @property
    def passage_tokens(self) -> TokenLists:
        """Likewise of the passages, as many for each query: its positive first."""
        ...


@dataclass(frozen=True, slots=True)
class LeadBatch:
    """The same queries and passages, in the tokens of either model."""

    student: Texts
    teacher: Texts

    @property
    def examples(self) -> tuple[int, ...]:
        """Numbers of the lines behind it."""
        return self.student.examples

    @property
    def query_tokens(self) -> TokenLists:
        """The student's ids of each query."""
        return self.student.query_tokens

    @property
    def target_tokens(self) -> None:
        """Nothing is read."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadLesson:
    """What the student learns from the teacher.

    Attributes:
        temperature: softmax of the student's final scores (`--dense_temperature`).
        teacher_temperature: softmax of the teacher's scores (`--teacher_temperature`).
        layer_temperature: softmax of the weights of layers (`--layer_temperature`); None weighs
            all alike, with 1.
        teacher_learns: the teacher is trained as well (`--train_teacher`).
    """

    temperature: float = 1.0
    teacher_temperature: float = 1.0
    layer_temperature: float | None = None
    teacher_learns: bool = False


class StudentAndTeacher(nn.Module):
    """Both models in one call, which is what ranks replicate.

    Args:
        student: in whatever mode the caller wants.
        teacher: likewise where it learns; else run in evaluation mode, without gradient.
        teacher_learns: see `LeadLesson`.
    """

    def __init__(self, student: DualLayers, teacher: LayeredModel, *, teacher_learns: bool) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.teacher_learns = teacher_learns
        teacher.requires_grad_(teacher_learns)

    def forward(self, batch: LeadBatch, pairs: LayerPairs) -> tuple[States, States]:
        """States of the student and of the teacher, of texts or of none."""
        student = self.student(
            batch.student.query_tokens, batch.student.passage_tokens, pairs.student
        )
        with ExitStack() as constant:
            if not self.teacher_learns:
                constant.enter_context(torch.no_grad())
                constant.enter_context(evaluation_mode(self.teacher))
            teacher = self.teacher(
                batch.teacher.query_tokens, batch.teacher.passage_tokens, pairs.teacher
            )
        return student, teacher


class LeadStep(nn.Module):
    """One micro-batch from tokens to loss. The training loop calls it as any other step.

    Args:
        models: `StudentAndTeacher`, replicated where there are several ranks.
        lesson: what is learned.
        chooser: which layers are compared.
        passages: per query, its positive first (`--train_n_passages`).
        reads_pairs: the teacher's candidates are each query's own passages.
        steps_done: micro-batches before this one, the same on every rank.
    """

    def __init__(
        self,
        models: nn.Module,
        lesson: LeadLesson,
        chooser: LayerChooser,
        *,
        passages: int,
        reads_pairs: bool,
        steps_done: Callable[[], int],
    ) -> None:
        super().__init__()
        self.models = models
        self.lesson = lesson
        self.chooser = chooser
        self.passages = passages
        self.reads_pairs = reads_pairs
        self.steps_done = steps_done

    def forward(
        self, batch: LeadBatch, train_retriever: bool = True, share: QueryShare | None = None
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        """The loss of one micro-batch. Its backward may be collective, too.

        Collective: every rank must call this, with any number of queries, zero included.

        Args:
            batch: this rank's share.
            train_retriever: there is nothing else to train; for the loop, which asks all alike.
            share: this rank's part of the step, which has one pass; None asks the others.

        Returns:
            The loss with gradient, such that gradients averaged over ranks are those of the whole
            batch in one process; and statistics, averages over this rank's queries.
        """
        clock = Stopwatch()
        share = share or QueryShare.of(len(batch.examples))
        with clock.time("runtime/embed"):
            student_states, teacher_states = self.models(batch, self.chooser.at(self.steps_done()))
        student, teacher = student_states.scores(), teacher_states.scores()
        losses = self._losses(student, teacher, share.mean)
        # A teacher that does not learn only tells how good it is.
        counted = losses if self.lesson.teacher_learns else losses | {"teacher": torch.zeros(())}
        loss = torch.stack([term.to(student.final) for term in counted.values()]).sum()
        stats: dict[str, Tensor | float] = {
            f"loss/{name}_loss": share.logged(term) for name, term in losses.items()
        }
        stats["loss/train_loss"] = share.logged(loss)
        return loss, stats | clock.seconds

    def _losses(
        self, student: LayerScores, teacher: LayerScores, count: Float[Tensor, ""]
    ) -> dict[str, Tensor]:
        """The four terms."""
        lesson = self.lesson
        own = {
            "student": contrastive_loss(
                student.final, student.positive, temperature=lesson.temperature, query_count=count
            ),
            "teacher": contrastive_loss(
                teacher.final,
                teacher.positive,
                temperature=lesson.teacher_temperature,
                query_count=count,
            ),
        }
        if self.reads_pairs:
            student = student.own_lists(self.passages)
        weights = self._weights(teacher, count)
        return own | {
            "final": final_distillation_loss(
                student.final / lesson.temperature,
                teacher.final,
                teacher_temperature=lesson.teacher_temperature,
                teacher_learns=lesson.teacher_learns,
                query_count=count,
            ),
            "layers": layer_distillation_loss(
                student.layers,
                teacher.layers,
                weights,
                teacher_temperature=lesson.teacher_temperature,
                teacher_learns=lesson.teacher_learns,
                query_count=count,
            ),
        }

    def _weights(self, teacher: LayerScores, count: Float[Tensor, ""]) -> Float[Tensor, " layer"]:
        """Weights of the layers, the same on every rank."""
        if self.lesson.layer_temperature is None or not len(teacher.layers):
            return teacher.layers.new_ones(len(teacher.layers))
        losses = layer_losses(teacher.layers.detach(), teacher.positive, query_count=count)
        return layer_weights(
            all_reduce_mean(losses), layer_temperature=self.lesson.layer_temperature
        )
