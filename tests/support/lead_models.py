"""Tiny models of every kind that LEAD compares, and what their tokenizer needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
)

from gazetteer.lead.dual import DualLayers
from gazetteer.retriever import DualEncoder, EmbeddingBatch
from gazetteer.retriever.encoder import TextEncoder
from tests.support.tiny_models import retriever_tokenizer


def lead_tokenizer() -> PreTrainedTokenizerFast:
    """Words with BERT's special tokens, LEAD's marks among them, and a template for pairs."""
    tokenizer = retriever_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    tokenizer.add_tokens(["[unused1]", "[unused2]"], special_tokens=True)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def lead_config(layers: int = 3, width: int = 32) -> BertConfig:
    """Of a BERT with the vocabulary of `lead_tokenizer`."""
    return BertConfig(
        vocab_size=len(lead_tokenizer()),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        # With the usual 0.02 the first token's states would be nearly the same for all texts.
        initializer_range=0.3,
    )


def tiny_dual(seed: int, *, layers: int = 2, normalize: bool = False) -> DualLayers:
    """Tied towers with cls pooling."""
    torch.manual_seed(seed)
    config = lead_config(layers)
    config._attn_implementation = "eager"
    model = BertModel(config, add_pooling_layer=False)
    tower = TextEncoder(model, pooling="cls", normalize=normalize)
    return DualLayers(DualEncoder(tower, tower, EmbeddingBatch(4, 64)))


def save_encoder(folder: Path, *, layers: int = 3, width: int = 32, seed: int = 0) -> Path:
    """A BERT with its tokenizer, without any head."""
    torch.manual_seed(seed)
    BertModel(lead_config(layers, width), add_pooling_layer=False).save_pretrained(folder)
    lead_tokenizer().save_pretrained(folder)
    return folder


def save_classifier(folder: Path, *, layers: int = 3, labels: int = 1) -> Path:
    """A BERT that classifies pairs, as published cross-encoders are."""
    torch.manual_seed(3)
    config = lead_config(layers)
    config.num_labels = labels
    BertForSequenceClassification(config).save_pretrained(folder)
    lead_tokenizer().save_pretrained(folder)
    return folder


def token_ids(*texts: str) -> list[np.ndarray]:
    """Ids of texts, special tokens included."""
    return [np.asarray(lead_tokenizer()(text).input_ids, dtype=np.int32) for text in texts]
