"""Retrievers from disk or hub, and back.

A folder is either one encoder (tied towers) or holds `query/` and `passage/` (untied).
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from gazetteer.errors import CheckpointError
from gazetteer.retriever.dual_encoder import DualEncoder
from gazetteer.retriever.encoder import EmbeddingBatch, Pooling, TextEncoder

QUERY_FOLDER, PASSAGE_FOLDER = "query", "passage"


def load_retriever(
    name_or_folder: str,
    *,
    pooling: Pooling,
    normalize: bool,
    dropout: float,
    dtype: torch.dtype,
    batch: EmbeddingBatch,
) -> tuple[DualEncoder, PreTrainedTokenizerBase]:
    """Load a retriever and its tokenizer.

    Args:
        name_or_folder: hub name, a folder written by `save_pretrained`, or one by `save_retriever`.
        pooling: how token states become one embedding.
        normalize: scale embeddings to length 1.
        dropout: replaces the model's own dropout everywhere.
        dtype: weights are cast to it.
        batch: limits of one encoder call.

    Raises:
        CheckpointError: nothing usable under that name; the message says what was missing.
    """

    def tower(source: str) -> TextEncoder:
        model = AutoModel.from_pretrained(
            source,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            add_pooling_layer=False,
            dtype=torch.float32,
        )
        return TextEncoder(model.to(dtype), pooling=pooling, normalize=normalize)

    folder = Path(name_or_folder)
    is_untied = (folder / QUERY_FOLDER).is_dir()
    query_source = str(folder / QUERY_FOLDER) if is_untied else name_or_folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(query_source)
        query_tower = tower(query_source)
        passage_tower = tower(str(folder / PASSAGE_FOLDER)) if is_untied else query_tower
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"retriever '{name_or_folder}' cannot be loaded: {reason}") from error
    return DualEncoder(query_tower, passage_tower, batch), tokenizer


def save_retriever(
    retriever: DualEncoder, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write both towers (one folder when tied), configs and tokenizer."""
    if retriever.is_tied:
        _save_tower(retriever.query_tower, tokenizer, folder)
        return
    _save_tower(retriever.query_tower, tokenizer, folder / QUERY_FOLDER)
    _save_tower(retriever.passage_tower, tokenizer, folder / PASSAGE_FOLDER)


def _save_tower(tower: TextEncoder, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tower.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
