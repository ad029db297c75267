"""Scores of a cross-encoder, which reads query and document together.

They are raw logits unless probabilities are asked for; a record's provenance says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from gazetteer.compress.model_names import cannot_load
from gazetteer.compress.records import document_text
from gazetteer.compress.retrieval import device_of
from gazetteer.data.jsonl import BadLineError
from gazetteer.errors import CheckpointError, DataError
from gazetteer.optional_packages import import_optional

FLAG = "--reranker_model"
DEFAULT_RERANKER = "cross-encoder/ms-marco-MiniLM-L-6-v2"
MAX_TOKENS = 512
ScoreKind = Literal["logits", "probabilities"]
Item = Mapping[str, Any]
"""A query with documents, as a script has it."""


class Reranker:
    """A cross-encoder of sentence-transformers.

    Args:
        name: hub name or folder.
        device: where it runs.
        batch_size: pairs of one call.
        scores: raw logits, or their sigmoid.

    Raises:
        CheckpointError: nothing usable under that name, or it does not give one score per pair.
        OptionError: sentence-transformers is not installed.
    """

    def __init__(
        self,
        name: str = DEFAULT_RERANKER,
        *,
        device: torch.device,
        batch_size: int = 16,
        scores: ScoreKind = "logits",
    ) -> None:
        package = import_optional("sentence_transformers", "reranking needs sentence-transformers")
        try:
            self._model: Any = package.CrossEncoder(name, device=str(device))
        except (OSError, ValueError, RuntimeError) as error:
            raise cannot_load(name, error, FLAG) from None
        labels = self._model.model.config.num_labels
        if labels != 1:
            raise CheckpointError(
                f"model '{name}' gives {labels} numbers for a pair, expected one ({FLAG})"
            )
        self._model.max_seq_length = min(MAX_TOKENS, self._model.max_seq_length or MAX_TOKENS)
        # Said here, because each model's own config may name one or the other.
        is_raw = scores == "logits"
        self._activation = torch.nn.Identity() if is_raw else torch.nn.Sigmoid()
        self._batch_size = batch_size

    @torch.no_grad()
    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """A score for each query with one document."""
        if not pairs:
            return []
        found = self._model.predict(
            list(pairs),
            batch_size=self._batch_size,
            show_progress_bar=False,
            activation_fn=self._activation,
        )
        return [float(score) for score in found]

    def score_documents(
        self, queries: Sequence[str], documents: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Scores of the documents of each query."""
        pairs = [
            (query, document)
            for query, some in zip(queries, documents, strict=True)
            for document in some
        ]
        scores = iter(self.score(pairs))
        return [[next(scores) for _ in some] for some in documents]


def best_first(scores: Sequence[float], top_k: int) -> list[int]:
    """Places of the best scores, best first; equal ones keep their order."""
    return sorted(range(len(scores)), key=lambda place: -scores[place])[:top_k]


def add_reranking_scores(
    items: Sequence[Item], model_name: str = DEFAULT_RERANKER, *, device: str | None = None
) -> list[dict[str, Any]]:
    """Give each item `reranking_scores`, raw logits, one per document; order is kept.

    Args:
        items: objects with `query` and `documents`: texts, or objects with `title` and `text`.
        model_name: hub name or folder of a cross-encoder.
        device: where it runs; None = a GPU where there is one.

    Raises:
        DataError: an item lacks something; its number is said.
        CheckpointError: nothing usable under that name.
    """
    queries, documents = texts_of_items(items)
    reranker = Reranker(model_name, device=device_of(device))
    scores = reranker.score_documents(queries, documents)
    return [{**item, "reranking_scores": each} for item, each in zip(items, scores, strict=True)]


def rerank_and_filter(
    items: Sequence[Item],
    top_k: int = 5,
    model_name: str = DEFAULT_RERANKER,
    *,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Keep the best `top_k` documents of each item, best first, with their scores.

    See `add_reranking_scores` for arguments and errors.
    """
    found = []
    for item in add_reranking_scores(items, model_name, device=device):
        places = best_first(item["reranking_scores"], top_k)
        chosen = {
            name: [item[name][place] for place in places]
            for name in ("documents", "reranking_scores")
        }
        found.append(item | chosen)
    return found


def texts_of_items(items: Sequence[Item]) -> tuple[list[str], list[list[str]]]:
    """Queries, and documents with their titles in front.

    Raises:
        DataError: an item lacks something; its number is said, from 0.
    """
    queries, documents = [], []
    for number, item in enumerate(items):
        query, found = item.get("query"), item.get("documents")
        if not isinstance(query, str) or not query.strip():
            raise DataError(f"item {number}: field 'query': expected a text")
        if not isinstance(found, list | tuple) or not found:
            raise DataError(f"item {number}: field 'documents': expected a list, not empty")
        try:
            documents.append([document_text(each) for each in found])
        except BadLineError as error:
            raise DataError(f"item {number}: {error}") from None
        queries.append(query)
    return queries, documents
