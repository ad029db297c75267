"""What a compressor learns beside the reader's own loss: whole passages' words, and relevance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from gazetteer.errors import require_positive
from gazetteer.losses.contrastive import average_over_queries
from gazetteer.losses.precision import at_least_float32
from gazetteer.losses.reader import average_over_tokens


def token_distillation_loss(
    logits: Float[Tensor, "query target vocab"],
    teacher_logits: Float[Tensor, "query target vocab"],
    target_mask: Bool[Tensor, "query target"],
    *,
    token_count: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """KL(teacher || student) of the next token, averaged over target tokens.

    Args:
        logits: of the reader on compressed passages. Carries gradient.
        teacher_logits: of the reader on whole ones. Treated as constants.
        target_mask: True at tokens that count.
        token_count: what to divide by, see `average_over_tokens`.

    Returns:
        Scalar in nats, float32 (float64 for float64 logits); 0 where the two agree.

    Source:
        xRAG, arXiv:2405.13792 (temperature 1, weight 2.0).
    """
    # Only tokens that count: a vocabulary of numbers for each is the largest tensor of a step.
    student = at_least_float32(logits[target_mask]).log_softmax(dim=-1)
    teacher = at_least_float32(teacher_logits.detach()[target_mask]).log_softmax(dim=-1)
    total = F.kl_div(student, teacher, reduction="sum", log_target=True)
    return average_over_tokens(total, target_mask, token_count)


def relevance_regression_loss(
    relevance: Float[Tensor, "query passage"],
    target: Float[Tensor, "query passage"],
    mask: Bool[Tensor, "query passage"],
    *,
    passage_count: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """Squared difference to a teacher's score, averaged over passages.

    Args:
        relevance: the compressor's. Carries gradient.
        target: a cross-encoder's, as it is. A constant.
        mask: True where there is a passage.
        passage_count: what to divide by, as `token_count` of `average_over_tokens`.

    Source:
        OSCAR, arXiv:2504.07109, with weight 0.05.
    """
    difference = at_least_float32(relevance)[mask] - target.detach()[mask].to(relevance.device)
    return average_over_tokens(difference.square().sum(), mask, passage_count)


def relevance_posterior_loss(
    relevance: Float[Tensor, "query passage"],
    log_likelihoods: Float[Tensor, "query passage"],
    mask: Bool[Tensor, "query passage"],
    *,
    reader_temperature: float,
    query_count: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """KL(reader's posterior over passages || softmax of relevance), averaged over queries.

    Args:
        relevance: the compressor's. Carries gradient.
        log_likelihoods: mean log-probability per target token given one passage alone, as PDist
            has it. Constants.
        mask: True where there is a passage; a query without any counts as 0.
        reader_temperature: > 0; smaller sharpens. Set by `--temperature_gold`.
        query_count: queries to average over, see `contrastive.average_over_queries`.

    Returns:
        Scalar, float32 (float64 for float64 scores).

    Raises:
        ValueError: the temperature is not positive.
    """
    require_positive("reader_temperature", reader_temperature)
    scores = at_least_float32(relevance)
    signal = at_least_float32(log_likelihoods.detach()).to(scores.dtype) / reader_temperature
    # Not minus infinity: its gradient would be nan for a query without passages.
    absent = torch.finfo(scores.dtype).min
    student = scores.masked_fill(~mask, absent).log_softmax(dim=-1)
    teacher = signal.masked_fill(~mask, absent).softmax(dim=-1)
    cells = teacher * (teacher.clamp_min(torch.finfo(scores.dtype).tiny).log() - student)
    return average_over_queries(cells.masked_fill(~mask, 0.0).sum(), len(scores), query_count)
