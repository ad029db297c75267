"""A dense retriever as the pipeline sees it: our own encoder, and search that is exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gazetteer.build_retriever import PADDED_TOKENS
from gazetteer.compress.splade import MAX_TOKENS, Arrays
from gazetteer.data.queries import QueryTokenizer
from gazetteer.data.tokens import tokenizer_fingerprint
from gazetteer.dense.model_flags import way_of
from gazetteer.index.flat import search_flat
from gazetteer.retriever import EmbeddingBatch, load_retriever, tower_fingerprint


class DenseEncoder:
    """Passages and queries as single vectors.

    Args:
        name: hub name or folder, as `--retriever_model_path` of train.py.
        device: where it runs.
        batch_size: texts of one call.

    Raises:
        CheckpointError: nothing usable under that name.
    """

    kind = "dense"

    def __init__(self, name: str, *, device: torch.device, batch_size: int = 32) -> None:
        pooling, normalize = way_of(name, None, False)
        retriever, tokenizer = load_retriever(
            name,
            pooling=pooling,
            normalize=normalize,
            dropout=0.0,
            dtype=torch.float32,
            batch=EmbeddingBatch(
                max_texts=batch_size, max_padded_tokens=PADDED_TOKENS[device.type]
            ),
            attention="sdpa" if device.type == "cuda" else "eager",
        )
        self._retriever = retriever.to(device).eval().requires_grad_(False)
        self._tokens = QueryTokenizer(tokenizer, max_tokens=MAX_TOKENS)
        self.name = name
        weights = tower_fingerprint(retriever.passage_tower)
        way = f"{pooling} {normalize} {MAX_TOKENS}"
        self.identity = f"dense-1 {weights} {tokenizer_fingerprint(tokenizer)} {way}"

    @torch.no_grad()
    def encode_passages(self, titles: Sequence[str], texts: Sequence[str]) -> Arrays:
        """A block: one float32 row per passage."""
        joined = [f"{title} {text}".strip() for title, text in zip(titles, texts, strict=True)]
        vectors = self._retriever.embed_for_index(self._tokens.encode(joined))
        return {"vectors": vectors.float().cpu().numpy()}

    @torch.no_grad()
    def encode_queries(self, texts: Sequence[str]) -> Tensor:
        """One float32 row per query, on the CPU."""
        return self._retriever.embed_for_search(self._tokens.encode(texts)).float().cpu()

    def stack(self, parts: Sequence[Tensor]) -> Tensor:
        """Rows of several calls as one matrix."""
        return torch.cat(list(parts))

    def best(self, queries: Tensor, block: Arrays, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores (float32) and rows (int64, of the block) of each query's best passages.

        Exactly those, best first, ties by row; -inf and -1 where the block has fewer.
        """
        scores, rows = search_flat(torch.from_numpy(block["vectors"]), queries, top_k)
        return scores.numpy(), rows.numpy()
