"""Both towers in one call, which is what ranks replicate and what GradCache runs twice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from gazetteer.records import TokenLists
from gazetteer.retriever import DualEncoder


class Towers(nn.Module):
    """Embed queries and passages together.

    Args:
        retriever: in whatever mode the caller wants.
    """

    def __init__(self, retriever: DualEncoder) -> None:
        super().__init__()
        self.retriever = retriever

    def forward(
        self, queries: TokenLists, passages: TokenLists
    ) -> tuple[Float[Tensor, "query dim"], Float[Tensor, "passage dim"]]:
        """Embeddings with gradient, of no texts too.

        A rank without texts has to take part in the backward passes of the others, so each tower
        is used in every call.
        """
        return (
            _embed(self.retriever.embed_queries, queries),
            _embed(self.retriever.embed_passages, passages),
        )


_SOME_TEXT = np.zeros(1, dtype=np.int32)


def _embed(embed: Callable[[TokenLists], Tensor], texts: TokenLists) -> Tensor:
    return embed(texts) if texts else embed([_SOME_TEXT])[:0]
