"""Tiny models for the data pipeline of the compressor: SPLADE, cross-encoder, teachers."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tests.support.tiny_models import reader_tokenizer, retriever_tokenizer, tiny_t5

CHAT = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} [assistant] {% endif %}"
)


def _bert_config(**changes: int) -> BertConfig:
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 512,
    }
    return BertConfig(vocab_size=len(retriever_tokenizer()), **(sizes | changes))


def save_tiny_splade(folder: Path, seed: int = 0) -> Path:
    """A masked language model for a SparseEncoder: words mostly stand for themselves."""
    torch.manual_seed(seed)
    model = BertForMaskedLM(_bert_config())
    with torch.no_grad():
        # Tied to the embeddings, so that each token votes for its own word.
        model.bert.embeddings.word_embeddings.weight.mul_(20)
        model.cls.predictions.transform.dense.weight.copy_(torch.eye(32))
        model.cls.predictions.bias.fill_(-6.0)
    model.save_pretrained(folder)
    retriever_tokenizer().save_pretrained(folder)
    return folder


def save_tiny_cross_encoder(folder: Path, seed: int = 0, labels: int = 1) -> Path:
    """A classifier of pairs that gives `labels` numbers."""
    torch.manual_seed(seed)
    model = BertForSequenceClassification(_bert_config(num_labels=labels))
    with torch.no_grad():
        model.classifier.weight.mul_(50)
    model.save_pretrained(folder)
    retriever_tokenizer().save_pretrained(folder)
    return folder


def teacher_tokenizer(*, has_chat: bool = False) -> PreTrainedTokenizerFast:
    """The reader's pieces, with a begin in front as decoder-only models have it."""
    tokenizer = reader_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<unk> $A", special_tokens=[("<unk>", 2)]
    )
    if has_chat:
        tokenizer.chat_template = CHAT
    return tokenizer


def save_loud_t5(folder: Path) -> Path:
    """A T5 whose answers differ from prompt to prompt."""
    model = tiny_t5()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    model.save_pretrained(folder)
    reader_tokenizer().save_pretrained(folder)
    return folder


def save_tiny_teacher(folder: Path, seed: int = 0, *, has_chat: bool = False) -> Path:
    """A Llama of some 30,000 parameters that says something else for every prompt."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(reader_tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.4,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    teacher_tokenizer(has_chat=has_chat).save_pretrained(folder)
    return folder
