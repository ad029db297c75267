"""What teaches a retriever without a reader: gold passages, or the scores of a teacher.

Embedding, gathering candidates from other ranks and adding terms up is the business of
`gazetteer.dense.step`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gazetteer.errors import require_positive
from gazetteer.losses.precision import at_least_float32


def contrastive_loss(
    scores: Float[Tensor, "query candidate"],
    positives: Int[Tensor, "query"],
    *,
    temperature: float,
    excluded: Bool[Tensor, "query candidate"] | None = None,
    query_count: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """Pull each query to its positive, away from every other candidate (InfoNCE).

    Args:
        scores: dot products of the queries with all candidates: their own passages, those of the
            other queries and, where they are gathered, of other ranks. Carries gradient.
        positives: the candidate that answers each query.
        temperature: > 0; smaller sharpens. Set by `--dense_temperature`.
        excluded: True where a candidate is no negative for the query; never its positive.
        query_count: what to divide by, see `average_over_queries`.

    Returns:
        Scalar in nats, float32 (float64 for float64 scores); 0 without queries.

    Raises:
        ValueError: the temperature is not positive.

    Source:
        "Representation Learning with Contrastive Predictive Coding", arXiv:1807.03748; OpenMatch
        has no temperature, which is the default of 1.
    """
    require_positive("temperature", temperature)
    logits = at_least_float32(scores) / temperature
    if excluded is not None:
        logits = logits.masked_fill(excluded, -torch.inf)
    total = F.cross_entropy(logits, positives, reduction="sum")
    return average_over_queries(total, len(scores), query_count)


def margin_mse_loss(
    scores: Float[Tensor, "query passage"],
    teacher_scores: Float[Tensor, "query passage"],
    *,
    query_count: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """Teach the distance between positive and negatives that a teacher sees.

    Args:
        scores: dot products of each query with its own passages, the positive first, at least one
            negative. Carries gradient.
        teacher_scores: the teacher's, on its own scale. Treated as a constant.
        query_count: what to divide by, see `average_over_queries`.

    Returns:
        Scalar, float32 (float64 for float64 scores): squared error of the margins, averaged over
        (query, negative) pairs; 0 without queries.

    Raises:
        ValueError: there are no negatives.

    Source:
        "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
        Distillation", arXiv:2010.02666.
    """
    if scores.shape[1] < 2:
        raise ValueError(f"scores must hold a positive and a negative, got {scores.shape[1]}")
    margins = _margins(at_least_float32(scores))
    errors = margins - _margins(teacher_scores.detach().to(margins))
    return average_over_queries(errors.square().mean(dim=1).sum(), len(scores), query_count)


def score_divergence_loss(
    scores: Float[Tensor, "query passage"],
    teacher_scores: Float[Tensor, "query passage"],
    *,
    temperature: float,
    teacher_temperature: float,
    query_count: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """Teach the distribution a teacher's scores imply over the passages of a query.

    Args:
        scores: dot products of each query with its own passages. Carries gradient.
        teacher_scores: the teacher's, on its own scale. Treated as a constant.
        temperature: > 0, of the scores. Set by `--dense_temperature`.
        teacher_temperature: > 0, of the teacher. Set by `--teacher_temperature`.
        query_count: what to divide by, see `average_over_queries`.

    Returns:
        Scalar in nats, float32 (float64 for float64 scores): KL(teacher || scores), averaged over
        queries; 0 without queries.

    Raises:
        ValueError: a temperature is not positive.

    Note:
        OpenMatch averages over (query, passage) cells, which makes its value 1/passages of this.
    """
    require_positive("temperature", temperature)
    require_positive("teacher_temperature", teacher_temperature)
    student = F.log_softmax(at_least_float32(scores) / temperature, dim=1)
    teacher = F.log_softmax(teacher_scores.detach().to(student) / teacher_temperature, dim=1)
    total = F.kl_div(student, teacher, reduction="sum", log_target=True)
    return average_over_queries(total, len(scores), query_count)


def truncate_embeddings(
    embeddings: Float[Tensor, "text dim"], dim: int, *, normalize: bool
) -> Float[Tensor, "text _"]:
    """The first `dim` numbers of each embedding, scaled to length 1 where whole ones are.

    Source:
        "Matryoshka Representation Learning", arXiv:2205.13147.
    """
    if not 1 <= dim <= embeddings.shape[1]:
        raise ValueError(f"dim must be between 1 and {embeddings.shape[1]}, got {dim}")
    first = embeddings[:, :dim]
    return F.normalize(first, dim=1) if normalize else first


def average_over_queries(
    total: Float[Tensor, ""], queries: int, query_count: Tensor | float | None = None
) -> Float[Tensor, ""]:
    """Divide a sum over queries by their number.

    Ranks may hold different numbers of queries, so the mean over ranks of local averages is not
    the average over all. Passing (queries of all ranks) / (world size) to every rank makes it so,
    for the value and, after gradients are averaged over ranks, for the gradient.

    Args:
        total: the sum, over this rank's queries. Carries gradient.
        queries: this rank's queries; the divisor when `query_count` is None.
        query_count: the divisor to use instead, on any device. No gradient.

    Returns:
        Scalar in the dtype of `total`; `total` itself where the divisor is 0.
    """
    count = torch.as_tensor(queries if query_count is None else query_count)
    count = count.detach().to(total)
    return total / torch.where(count > 0, count, 1.0)


def _margins(scores: Float[Tensor, "query passage"]) -> Float[Tensor, "query negative"]:
    return scores[:, :1] - scores[:, 1:]
