"""ADist (`evalnormsum`, `adist`): the reader likes the passages it looks at."""

from jaxtyping import Float
from torch import Tensor

from gazetteer.losses.divergence import reader_to_retriever_divergence


def attention_distillation_loss(
    retriever_scores: Float[Tensor, "query passage"],
    reader_attention_scores: Float[Tensor, "query passage"],
    *,
    retriever_temperature: float,
    reader_temperature: float,
    query_count: Tensor | float | None = None,
) -> Float[Tensor, ""]:
    """Pull the retriever's ranking towards where the reader's cross-attention goes.

    The loss is KL(reader || retriever) over the passages of a query, averaged over every
    (query, passage) cell.

    Args:
        retriever_scores: query-passage dot products, already divided by sqrt(embedding dim).
            Carries gradient.
        reader_attention_scores: attention weighted by value norms, summed over the passage's
            tokens, layers and target tokens, then divided by Atlas's constant; >= 0. Treated as
            a constant.
        retriever_temperature: > 0; smaller sharpens. Set by `--temperature_score`.
        reader_temperature: > 0; smaller sharpens. Set by `--temperature_gold`.
        query_count: queries to average over, see `contrastive.average_over_queries`.

    Returns:
        Scalar, float32 (float64 for float64 scores); 0 when the two distributions agree.

    Raises:
        ValueError: a temperature is not positive.

    Note:
        The value is 1/passages of the textbook KL: see `reader_to_retriever_divergence`.

    Source:
        "Atlas: Few-shot Learning with Retrieval Augmented Language Models", section 2.2
        (ADist), arXiv:2208.03299; before it, arXiv:2012.04584.
    """
    return reader_to_retriever_divergence(
        retriever_scores,
        reader_attention_scores,
        retriever_temperature=retriever_temperature,
        reader_temperature=reader_temperature,
        query_count=query_count,
    )
