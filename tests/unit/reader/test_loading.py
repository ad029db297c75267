"""Readers of the T5 family under their own class: mT5 beside T5, heads tied and not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from gazetteer.errors import CheckpointError
from gazetteer.reader import decode_answers, load_reader
from gazetteer.reader.attention import record_cross_attention
from gazetteer.reader.fusion import T5Model
from gazetteer.reader.loading import save_reader
from tests.support.tiny_models import reader_tokenizer

SIZES = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}


def tiny(kind: str, *, is_tied: bool) -> T5Model:
    """A gated T5 or mT5 of equal shape and weights."""
    torch.manual_seed(5)
    config_class, model_class = {
        "t5": (T5Config, T5ForConditionalGeneration),
        "mt5": (MT5Config, MT5ForConditionalGeneration),
    }[kind]
    config = config_class(
        vocab_size=len(reader_tokenizer()),
        decoder_start_token_id=0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=is_tied,
        dropout_rate=0.0,
        **SIZES,
    )
    model = model_class(config)
    if not is_tied:
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.shared.weight) * 0.1)
    return model.eval()


def loaded(model: T5Model, folder: Path):
    model.save_pretrained(folder)
    reader_tokenizer().save_pretrained(folder)
    return load_reader(str(folder), dropout=0.0, precision="fp32", max_padded_tokens=64)[0]


def logits_of(reader) -> torch.Tensor:
    encoded = reader.encode([[[5, 6, 7, 1], [8, 9, 1]], [[11, 1], [12, 13, 1]]])
    return reader.decode(encoded.fused(), torch.tensor([[0, 4, 5], [0, 7, 8]]))


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", ["t5", "mt5"])
def test_weights_come_back_in_the_class_they_were_saved_from(
    tmp_path: Path, kind: str, is_tied: bool
) -> None:
    model = tiny(kind, is_tied=is_tied)
    reader = loaded(model, tmp_path / "saved")
    assert type(reader.model) is type(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(reader.model.state_dict()[name], tensor), name
    save_reader(reader, reader_tokenizer(), tmp_path / "again")
    again = load_reader(
        str(tmp_path / "again"), dropout=0.0, precision="fp32", max_padded_tokens=64
    )[0]
    assert type(again.model) is type(model)
    assert torch.equal(logits_of(again), logits_of(reader))


def test_an_mt5_reads_as_the_t5_of_its_weights_would(tmp_path: Path) -> None:
    """Version 1.1, untied: the two differ in their classes alone."""
    t5, mt5 = (loaded(tiny(kind, is_tied=False), tmp_path / kind) for kind in ("t5", "mt5"))
    mt5.model.load_state_dict(t5.model.state_dict())
    assert torch.equal(logits_of(mt5), logits_of(t5))
    seen = []
    for reader in (t5, mt5):
        with record_cross_attention(reader.model) as recorded:
            logits_of(reader)
        seen.append(recorded)
    assert len(seen[0].weights) == len(seen[1].weights) == SIZES["num_layers"]
    for first, second in zip(seen[0].weights, seen[1].weights, strict=True):
        assert torch.equal(first, second)


def test_sentinels_are_no_part_of_an_answer_whether_special_or_not() -> None:
    words = ["<extra_id_0>", "red", "river", "<extra_id_1>", "</s>"]
    plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}))
    # As in mT5, whose sentinels are pieces of its vocabulary.
    like_mt5 = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>")
    assert decode_answers(like_mt5, [range(5), [1]]) == ["red river", "red"]
    like_t5 = reader_tokenizer()
    ids = like_t5(" ".join(words), add_special_tokens=False)["input_ids"]
    assert decode_answers(like_t5, [ids]) == ["red river"]


def test_another_model_is_refused(tmp_path: Path) -> None:
    BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=8, vocab_size=9)).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(
        CheckpointError,
        match=r"it is a bert, expected a t5 or mt5, or a decoder-only model \(--reader",
    ):
        load_reader(str(tmp_path), dropout=0.0, precision="fp32", max_padded_tokens=64)
