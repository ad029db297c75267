"""EMDR2: the retriever as a latent variable, summed out of the reader's likelihood.

Two forms: `emdr2` marginalises whole targets (the paper), `emdr` each token (Atlas).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from gazetteer.errors import require_positive
from gazetteer.losses.contrastive import average_over_queries
from gazetteer.losses.precision import at_least_float32
from gazetteer.losses.reader import average_over_tokens


def token_marginal_loss(
    retriever_scores: Float[Tensor, "query passage"],
    token_log_probs: Float[Tensor, "query passage target"],
    target_mask: Bool[Tensor, "query target"],
    *,
    retriever_temperature: float,
    token_count: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """Make every target token likely under the mixture of single-passage readers (`emdr`).

    The loss is -sum over tokens t of log sum_k p_retriever(k) p_reader(y_t | y_<t, k), divided by
    the number of target tokens in the batch.

    Args:
        retriever_scores: query-passage dot products, already divided by sqrt(embedding dim).
            Carries gradient.
        token_log_probs: log-probability of each label when the reader sees one passage alone,
            from float32 logits divided by `--temperature_gold`. Treated as constants; any value
            where masked.
        target_mask: True where the label counts.
        retriever_temperature: > 0; smaller sharpens. Set by `--temperature_score`.
        token_count: what to divide by, see `reader.average_over_tokens`.

    Returns:
        Scalar in nats, float32 (float64 for float64 scores); 0 without any target token.

    Raises:
        ValueError: the temperature is not positive.

    Source:
        Atlas's variant of EMDR2, which marginalises per token (atlas.py:381-397, 557-575).
    """
    log_probs = _target_log_probs(token_log_probs, target_mask)
    log_prior = _log_prior(retriever_scores, retriever_temperature)
    marginal = torch.logsumexp(log_prior.unsqueeze(-1) + log_probs.to(log_prior.dtype), dim=1)
    total = -marginal.masked_fill(~target_mask, 0.0).sum()
    return average_over_tokens(total, target_mask, token_count)


def sequence_marginal_loss(
    retriever_scores: Float[Tensor, "query passage"],
    token_log_probs: Float[Tensor, "query passage target"],
    target_mask: Bool[Tensor, "query target"],
    *,
    retriever_temperature: float,
    query_count: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """Make the whole target likely under the mixture of single-passage readers (`emdr2`).

    The loss is -log sum_k p_retriever(k) prod_t p_reader(y_t | y_<t, k), averaged over queries
    and not divided by target length: the textbook negative log-likelihood.

    Args:
        retriever_scores: query-passage dot products, already divided by sqrt(embedding dim).
            Carries gradient.
        token_log_probs: log-probability of each label when the reader sees one passage alone,
            from float32 logits, no temperature. Treated as constants; any value where masked.
        target_mask: True where the label counts.
        retriever_temperature: > 0; smaller sharpens. Set by `--temperature_score`.
        query_count: queries to average over, see `contrastive.average_over_queries`.

    Returns:
        Scalar in nats, float32 (float64 for float64 scores); a query without target tokens
        contributes 0.

    Raises:
        ValueError: the temperature is not positive.

    Source:
        "End-to-End Training of Multi-Document Reader and Retriever for Open-Domain Question
        Answering", section 2.3, arXiv:2106.05346; the retriever's term only.
    """
    log_probs = _target_log_probs(token_log_probs, target_mask)
    log_prior = _log_prior(retriever_scores, retriever_temperature)
    joint = log_prior + log_probs.sum(dim=-1).to(log_prior.dtype)
    total = -torch.logsumexp(joint, dim=-1).sum()
    return average_over_queries(total, len(joint), query_count)


def _log_prior(retriever_scores: Tensor, temperature: float) -> Tensor:
    require_positive("retriever_temperature", temperature)
    return F.log_softmax(at_least_float32(retriever_scores) / temperature, dim=-1)


def _target_log_probs(token_log_probs: Tensor, target_mask: Tensor) -> Tensor:
    """Constants, 0 where masked, so that padding weighs nothing whatever it holds."""
    log_probs = at_least_float32(token_log_probs.detach())
    return log_probs.masked_fill(~target_mask.unsqueeze(1), 0.0)
