"""Score candidates again with fresh embeddings, where the index may be stale."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gazetteer.data.tokens import PassageTokens
from gazetteer.index.flat import order_hits
from gazetteer.records import Hits
from gazetteer.retriever import DualEncoder


@torch.no_grad()
def rerank(
    candidates: Hits,
    query_embeddings: Float[Tensor, "query dim"],
    retriever: DualEncoder,
    passage_tokens: PassageTokens,
    top_k: int,
) -> Hits:
    """Embed the candidates now and keep the best top_k by dot product.

    A passage found by several queries is embedded once. Scores are plain dot products, not
    divided by anything, as in Atlas.

    Args:
        candidates: what search (and the filter) returned.
        query_embeddings: the ones searched with, on the retriever's device.
        retriever: its passage tower is used as it is now, in evaluation mode.
        passage_tokens: the retriever's tokens of the corpus.
        top_k: hits to keep; fewer if there are fewer candidates.
    """
    if candidates.rows.numel() == 0:
        return candidates.first(top_k)
    rows, places = candidates.rows.unique(return_inverse=True)
    embeddings = retriever.embed_for_index(passage_tokens.passage_inputs(rows.numpy()))
    fresh = embeddings[places.to(embeddings.device)]
    scores = torch.einsum("qkd,qd->qk", fresh, query_embeddings.to(fresh)).cpu()
    best_scores, best_rows = order_hits(scores, candidates.rows, top_k)
    return Hits(best_rows, best_scores)
