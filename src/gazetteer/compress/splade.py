"""SPLADE: texts as sparse vectors over the vocabulary, multiplied without ever being dense.

A corpus of 5.9 million articles as a dense matrix over 30,522 words would take 720 GB. Here a block
of passages is a CSR matrix, about 1.2 KB a passage, and a search is a product of two sparse
matrices: what an inverted index computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gazetteer.compress.model_names import cannot_load, model_identity
from gazetteer.optional_packages import import_optional

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

FLAG = "--retriever_model"
DEFAULT_SPLADE = "naver/splade-cocondenser-ensembledistil"
MAX_TOKENS = 256
Arrays = Mapping[str, np.ndarray]
"""A block of encoded passages, as it lies on the disk."""


class SpladeEncoder:
    """A SPLADE of sentence-transformers: max over tokens of log(1 + relu(logit)).

    Args:
        name: hub name or folder, of a SparseEncoder or of a masked language model.
        device: where it runs.
        batch_size: texts of one call.

    Raises:
        CheckpointError: nothing usable under that name.
        OptionError: sentence-transformers or scipy is not installed.
    """

    kind = "splade"

    def __init__(self, name: str, *, device: torch.device, batch_size: int = 32) -> None:
        needed = "--retriever splade needs"
        self._sparse = import_optional("scipy.sparse", f"{needed} scipy")
        package = import_optional("sentence_transformers", f"{needed} sentence-transformers")
        try:
            self._model: Any = package.SparseEncoder(name, device=str(device))
        except (OSError, ValueError, RuntimeError) as error:
            raise cannot_load(name, error, FLAG) from None
        self._model.max_seq_length = min(MAX_TOKENS, self._model.max_seq_length or MAX_TOKENS)
        self._model.eval()
        _pool_before_logarithm(self._model)
        self._batch_size = batch_size
        self.name = name
        self.identity = f"splade-1 {model_identity(name, FLAG)} {self._model.max_seq_length}"

    def encode_passages(self, titles: Sequence[str], texts: Sequence[str]) -> Arrays:
        """A block: CSR over the vocabulary, columns of a row in order."""
        joined = [f"{title} {text}".strip() for title, text in zip(titles, texts, strict=True)]
        matrix = self._rows(joined, is_query=False)
        return {
            "starts": matrix.indptr.astype(np.int64),
            "words": matrix.indices.astype(np.int32),
            "weights": matrix.data.astype(np.float32),
            "shape": np.asarray(matrix.shape, dtype=np.int64),
        }

    def encode_queries(self, texts: Sequence[str]) -> csr_matrix:
        """One row per query."""
        return self._rows(list(texts), is_query=True)

    def stack(self, parts: Sequence[csr_matrix]) -> csr_matrix:
        """Rows of several calls as one matrix."""
        return self._sparse.vstack(parts, format="csr")

    def best(self, queries: csr_matrix, block: Arrays, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores (float32) and rows (int64, of the block) of each query's best passages.

        Best first, ties by row; -inf and -1 where fewer share a word with the query.
        """
        passages = self._sparse.csr_matrix(
            (block["weights"], block["words"], block["starts"]), shape=tuple(block["shape"])
        )
        # The product of sparse matrices sums over the words of the query, in their order, so that
        # a score does not depend on what else is searched for.
        product = (queries @ passages.T).tocsr()
        scores = np.full((product.shape[0], top_k), -np.inf, dtype=np.float32)
        rows = np.full((product.shape[0], top_k), -1, dtype=np.int64)
        for query, (start, stop) in enumerate(
            zip(product.indptr[:-1], product.indptr[1:], strict=True)
        ):
            found, places = product.data[start:stop], product.indices[start:stop]
            kept = best_places(found, places, top_k)
            scores[query, : len(kept)] = found[kept]
            rows[query, : len(kept)] = places[kept]
        return scores, rows

    @torch.no_grad()
    def _rows(self, texts: list[str], *, is_query: bool) -> csr_matrix:
        encode = self._model.encode_query if is_query else self._model.encode_document
        found = encode(
            texts,
            batch_size=self._batch_size,
            show_progress_bar=False,
            convert_to_tensor=True,
            convert_to_sparse_tensor=True,
            save_to_cpu=True,
        ).coalesce()
        places, weights = found.indices().numpy(), found.values().float().numpy()
        matrix = self._sparse.csr_matrix((weights, (places[0], places[1])), shape=found.shape)
        matrix.sort_indices()
        return matrix


def _pool_before_logarithm(model: Any) -> None:  # noqa: ANN401 - sentence-transformers
    """Take the maximum over tokens first: the same numbers, with one logarithm per word.

    The library takes one per token and word, which is most of the time on a CPU.
    """
    pooling = model[-1]
    ways = getattr(pooling, "pooling_strategy", ""), getattr(pooling, "activation_function", "")
    if ways == ("max", "relu") and type(pooling).__name__ == "SpladePooling":
        forward = pooling.forward

        def pool(features: dict[str, Any]) -> dict[str, Any]:
            if "cu_seq_lens_q" in features:
                return forward(features)
            padding = features["attention_mask"].unsqueeze(-1) == 0
            best = features["token_embeddings"].masked_fill_(padding, 0.0).amax(dim=1)
            features["sentence_embedding"] = best.relu_().log1p_()
            return features

        pooling.forward = pool


def best_places(scores: np.ndarray, rows: np.ndarray, top_k: int) -> np.ndarray:
    """Places of the best scores, best first, ties by row."""
    if len(scores) > top_k:
        limit = np.partition(scores, len(scores) - top_k)[len(scores) - top_k]
        kept = np.flatnonzero(scores >= limit)
    else:
        kept = np.arange(len(scores))
    order = np.lexsort((rows[kept], -scores[kept]))
    return kept[order[:top_k]]
