"""Queries as token ids, unpadded: for the retriever, and for the reader with the book closed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from gazetteer.records import TokenIds


class QueryTokenizer:
    """Tokenise queries with the model's special tokens.

    Args:
        tokenizer: of the model that reads them.
        max_tokens: longer queries lose their tail.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens

    def encode(self, queries: Sequence[str]) -> list[TokenIds]:
        """Token ids of each query."""
        if not queries:
            return []
        ids = self._tokenizer(list(queries), truncation=True, max_length=self._max_tokens)
        return [np.asarray(one, dtype=np.int32) for one in ids["input_ids"]]  # type: ignore[union-attr]
