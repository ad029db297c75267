"""Tiny decoder-only readers: a Llama and a byte-level tokenizer, made on the fly."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gazetteer.reader import CausalReader
from gazetteer.reader.causal_loading import prompt_of
from gazetteer.reader.words import ReaderWords
from tests.support.tiny_models import WORDS

CHAT = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>"
    "\n{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SPECIAL = ["<|pad|>", "<|start|>", "<|end|>"]


def causal_tokenizer(*, has_chat: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level pieces; pad 0, begin 1 (before every text, as Llama's), end 2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|start|>",
        eos_token="<|end|>",
        chat_template=CHAT if has_chat else None,
    )


def tiny_llama(seed: int = 0, *, layers: int = 2, is_tied: bool = True) -> LlamaForCausalLM:
    """A Llama of some 40,000 parameters with seeded weights, its heads grouped."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(causal_tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=is_tied,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def tiny_causal_reader(seed: int = 0, *, has_chat: bool = False) -> CausalReader:
    """A reader of a `tiny_llama`."""
    model = tiny_llama(seed)
    return CausalReader(model, prompt_of(causal_tokenizer(has_chat=has_chat), model, ReaderWords()))


def save_tiny_causal(folder: Path, seed: int = 0, *, has_chat: bool = False) -> Path:
    """A folder `--reader_model_type` takes."""
    tiny_llama(seed).save_pretrained(folder)
    causal_tokenizer(has_chat=has_chat).save_pretrained(folder)
    return folder
