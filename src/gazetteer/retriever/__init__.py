"""The retriever: encoder towers, tied, untied or query-side."""

from gazetteer.retriever.dual_encoder import DualEncoder, tower_fingerprint, weights_fingerprint
from gazetteer.retriever.encoder import EmbeddingBatch, TextEncoder
from gazetteer.retriever.loading import load_retriever, save_retriever

__all__ = [
    "DualEncoder",
    "EmbeddingBatch",
    "TextEncoder",
    "load_retriever",
    "save_retriever",
    "tower_fingerprint",
    "weights_fingerprint",
]
