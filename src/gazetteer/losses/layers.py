"""LEAD: a student learns how layers of a teacher rank the same passages.

Every layer gives scores (`losses/relevance.py`), scores give a distribution over the passages of a
query, and distributions can be compared. Which layers are compared is chosen in `lead/layers.py`.

    L = L_student + L_teacher + L_final + sum over pairs of layers of w_k KL(teacher_k || student_k)

Source: arXiv:2212.05225, "LEAD: Liberal Feature-based Distillation for Dense Retrieval".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from gazetteer.errors import require_positive
from gazetteer.losses.contrastive import average_over_queries
from gazetteer.losses.precision import at_least_float32


def layer_losses(
    scores: Float[Tensor, "layer query passage"],
    positive: Int[Tensor, " query"],
    *,
    query_count: Tensor | float | None = None,
) -> Float[Tensor, " layer"]:
    """How badly each layer alone finds the positives: cross-entropy, averaged over queries.

    Args:
        scores: of several layers, over the same passages.
        positive: column of each query's positive.
        query_count: what to divide by, see `contrastive.average_over_queries`.

    Returns:
        In nats, one per layer. Carries gradient.
    """
    log_probs = F.log_softmax(at_least_float32(scores), dim=-1)
    wanted = positive.view(1, -1, 1).expand(len(scores), -1, 1)
    total = -log_probs.gather(2, wanted).squeeze(2).sum(dim=1)
    return total * average_over_queries(total.new_ones(()), len(positive), query_count)


def layer_weights(
    teacher_losses: Float[Tensor, " layer"], *, layer_temperature: float
) -> Float[Tensor, " layer"]:
    """Weight the teacher's layers by how well each finds the positives by itself.

    Args:
        teacher_losses: see `layer_losses`; of all ranks together, so that all weigh alike.
        layer_temperature: > 0; larger makes the weights more equal. Set by `--layer_temperature`.

    Returns:
        Constants that sum to 1: softmax(-loss / temperature).
    """
    require_positive("layer_temperature", layer_temperature)
    return torch.softmax(-teacher_losses.detach() / layer_temperature, dim=0)


def layer_distillation_loss(
    student_scores: Float[Tensor, "layer query passage"],
    teacher_scores: Float[Tensor, "layer query passage"],
    weights: Float[Tensor, " layer"],
    *,
    teacher_temperature: float,
    teacher_learns: bool = False,
    query_count: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """Pull the student's layers towards the teacher's rankings, pair by pair.

    Args:
        student_scores: of the chosen layers; not tempered. Carries gradient.
        teacher_scores: i-th layer teaches the student's i-th, over the same passages.
        weights: of the pairs; constants.
        teacher_temperature: > 0; smaller sharpens. Set by `--distill_temperature`.
        teacher_learns: the gradient flows into the teacher as well, as in LEAD's own programs.
        query_count: what to divide by, see `contrastive.average_over_queries`.

    Returns:
        Weighted sum of the divergences, each averaged over queries; 0 without any layer.
    """
    divergence = _divergence(
        at_least_float32(student_scores), _tempered(teacher_scores, teacher_temperature),
        teacher_learns=teacher_learns,
    )  # fmt: skip
    total = (weights.detach() * divergence.sum(dim=-1)).sum()
    return average_over_queries(total, student_scores.shape[1], query_count)


def final_distillation_loss(
    student_scores: Float[Tensor, "query passage"],
    teacher_scores: Float[Tensor, "query passage"],
    *,
    teacher_temperature: float,
    teacher_learns: bool = False,
    query_count: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """Pull the student's ranking towards the teacher's; both ways when the teacher learns too.

    Args:
        student_scores: what the student ranks by; not tempered here. Carries gradient.
        teacher_scores: what the teacher ranks by, over the same passages.
        teacher_temperature: > 0; smaller sharpens. Set by `--distill_temperature`.
        teacher_learns: add KL(student || teacher), and let the gradient of both flow into both.
        query_count: what to divide by, see `contrastive.average_over_queries`.

    Returns:
        KL(teacher || student), averaged over queries; with its mirror image if `teacher_learns`.
    """
    student = at_least_float32(student_scores)
    teacher = _tempered(teacher_scores, teacher_temperature)
    total = _divergence(student, teacher, teacher_learns=teacher_learns).sum()
    if teacher_learns:
        total = total + _divergence(teacher, student, teacher_learns=True).sum()
    return average_over_queries(total, len(student), query_count)


def _tempered(teacher_scores: Tensor, temperature: float) -> Tensor:
    require_positive("teacher_temperature", temperature)
    return at_least_float32(teacher_scores) / temperature


def _divergence(student: Tensor, teacher: Tensor, *, teacher_learns: bool) -> Tensor:
    """KL(teacher || student) over the last dimension."""
    teacher = teacher if teacher_learns else teacher.detach()
    log_target = F.log_softmax(teacher.to(student.dtype), dim=-1)
    cells = F.kl_div(F.log_softmax(student, dim=-1), log_target, reduction="none", log_target=True)
    return cells.sum(dim=-1)
