"""The divergence behind every loss that distils reader into retriever passage by passage.

What a passage's signal means is the business of perplexity.py, attention.py, leave_one_out.py.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gazetteer.errors import require_positive
from gazetteer.losses.contrastive import average_over_queries
from gazetteer.losses.precision import at_least_float32


def reader_to_retriever_divergence(
    retriever_scores: Float[Tensor, "query passage"],
    reader_signal: Float[Tensor, "query passage"],
    *,
    retriever_temperature: float,
    reader_temperature: float,
    query_count: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """Measure how far the retriever's ranking is from the one the reader's signal implies.

    Scores and signal become distributions over the passages of a query by softmax; the value is
    KL(reader || retriever), averaged over every (query, passage) cell.

    Args:
        retriever_scores: query-passage dot products, already divided by sqrt(embedding dim).
            Carries gradient.
        reader_signal: higher means the passage helped more. Treated as a constant.
        retriever_temperature: > 0; smaller sharpens. Set by `--temperature_score`.
        reader_temperature: > 0; smaller sharpens. Set by `--temperature_gold`.
        query_count: queries to average over, see `contrastive.average_over_queries`.

    Returns:
        Scalar, float32 (float64 for float64 scores); 0 when the two distributions agree.

    Raises:
        ValueError: a temperature is not positive.

    Note:
        Atlas averages over cells, so the value is 1/passages of the textbook KL. Kept: published
        learning rates assume it.

    Source:
        Atlas: the "mean" reduction of its KL (atlas.py:552-555).
    """
    require_positive("retriever_temperature", retriever_temperature)
    require_positive("reader_temperature", reader_temperature)
    scores = at_least_float32(retriever_scores)
    signal = at_least_float32(reader_signal.detach()).to(scores.dtype)
    retriever_log_probs = F.log_softmax(scores / retriever_temperature, dim=-1)
    reader_probs = F.softmax(signal / reader_temperature, dim=-1)
    # torch's own "mean" reduction is the same number, with a warning.
    total = F.kl_div(retriever_log_probs, reader_probs, reduction="sum")
    queries, passages = scores.shape
    return average_over_queries(
        total, passages * queries, None if query_count is None else passages * query_count
    )
