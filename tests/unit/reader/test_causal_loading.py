"""Decoder-only readers from folders and GGUF files, the words around, and what is saved."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel

from gazetteer.adapters import LoraSettings, add_adapters, has_adapters
from gazetteer.errors import CheckpointError, OptionError
from gazetteer.reader import CausalReader, GenerationSettings, load_reader, save_reader
from gazetteer.reader.causal_loading import prompt_of, without_special_tokens
from gazetteer.reader.words import ReaderWords
from tests.support.tiny_causal import causal_tokenizer, save_tiny_causal, tiny_llama
from tests.support.tiny_gguf import write_gguf

INPUTS = [[[5, 6, 7], [8, 9]], [[11]]]
DECODER_INPUTS = torch.tensor([[0, 40, 41], [0, 42, 43]])


def load(path: Path | str, **how) -> CausalReader:
    values = {"dropout": 0.0, "precision": "fp32", "max_padded_tokens": 64}
    reader = load_reader(str(path), **(values | how))[0]
    assert isinstance(reader, CausalReader)
    return reader


def logits_of(reader: CausalReader) -> torch.Tensor:
    with torch.no_grad():
        return reader.decode(reader.encode(INPUTS).fused(), DECODER_INPUTS)


def test_what_was_saved_is_read_back_with_its_words(tmp_path: Path) -> None:
    reader = load(save_tiny_causal(tmp_path / "first", has_chat=True))
    save_reader(reader, causal_tokenizer(has_chat=True), tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.prompt == reader.prompt
    assert torch.equal(logits_of(again), logits_of(reader))


def test_words_of_flags_are_saved_and_flags_come_first(tmp_path: Path) -> None:
    words = ReaderWords(prefix="Read:", passage_format=" {text}", question_format=" {query}?")
    reader = load(save_tiny_causal(tmp_path / "first", has_chat=True), words=words)
    save_reader(reader, causal_tokenizer(has_chat=True), tmp_path / "again")
    assert load(tmp_path / "again").prompt == reader.prompt
    assert reader.prompt.passage_format == " {text}"
    other = load(tmp_path / "again", words=ReaderWords(question_format="{query}!")).prompt
    assert other == replace(
        reader.prompt, question_format="{query}!", words=replace(words, question_format="{query}!")
    )
    (tmp_path / "again" / "words.json").write_text('{"prefix": 3}')
    with pytest.raises(CheckpointError, match=r"words\.json: no words of a reader \('passage"):
        load(tmp_path / "again")


def test_a_gguf_file_is_the_model_it_was_made_of(tmp_path: Path) -> None:
    model, tokenizer = tiny_llama(), causal_tokenizer()
    file = write_gguf(tmp_path / "tiny.gguf", model, tokenizer)
    reader = load(file)
    plain = CausalReader(model, prompt_of(tokenizer, model, ReaderWords(prefix="")))
    torch.testing.assert_close(logits_of(reader), logits_of(plain), rtol=1e-5, atol=1e-5)
    assert reader.prompt.end_ids == (2,)
    # The folder stands for its one file; saved, it is an ordinary checkpoint.
    by_folder, loaded = load_reader(
        str(tmp_path), dropout=0.0, precision="fp32", max_padded_tokens=64
    )
    words = "what is the capital of france?\n"
    assert loaded(words, add_special_tokens=False) == tokenizer(words, add_special_tokens=False)
    save_reader(by_folder, loaded, tmp_path / "saved")
    assert torch.equal(logits_of(load(tmp_path / "saved")), logits_of(reader))
    assert load(tmp_path / "saved").prompt == reader.prompt


def test_gguf_files_that_cannot_be_read_are_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(CheckpointError, match=r"bad\.gguf' cannot be loaded: ") as caught:
        load(tmp_path / "bad.gguf")
    assert "\n" not in str(caught.value)
    (tmp_path / "other.gguf").touch()
    with pytest.raises(CheckpointError, match="it holds 2 GGUF files; name one of them"):
        load(tmp_path)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(OptionError, match=r"pip install gazetteer\[compress\]"):
        load(tmp_path / "other.gguf")


@pytest.mark.skipif(not os.environ.get("GAZETTEER_TEST_GGUF"), reason="no real GGUF file given")
def test_a_real_gguf_file_answers() -> None:
    reader, tokenizer = load_reader(
        os.environ["GAZETTEER_TEST_GGUF"], dropout=0.0, precision="fp32", max_padded_tokens=64
    )
    bare = without_special_tokens(tokenizer)
    passage = bare("\ntitle: Oslo context: Oslo is the capital of Norway.")["input_ids"]
    assert isinstance(reader, CausalReader)
    question = reader.prompt.question_format.format(query="What is the capital of Norway?")
    prompts = [bare(question)["input_ids"]]
    context = reader.encode([[passage]]).fused()
    (ids,) = reader.generate(context, GenerationSettings(max_length=16), prompts)
    assert "Oslo" in tokenizer.decode(ids)


@pytest.mark.parametrize(
    "kind",
    [
        lambda size: GPT2LMHeadModel(
            GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=size, n_positions=64)
        ),
        lambda size: BloomForCausalLM(
            BloomConfig(hidden_size=16, n_layer=1, n_head=2, vocab_size=size)
        ),
    ],
    ids=["learned places", "no places"],
)
def test_other_ways_of_placing_tokens_need_no_padding_either(tmp_path: Path, kind) -> None:
    torch.manual_seed(0)
    kind(len(causal_tokenizer())).save_pretrained(tmp_path)
    causal_tokenizer().save_pretrained(tmp_path)
    reader = load(tmp_path)
    together = logits_of(reader)
    for row, passages in enumerate(INPUTS):
        context = reader.encode([passages]).fused()
        alone = reader.decode(context, DECODER_INPUTS[row : row + 1])[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-5, atol=1e-5)


def test_bfloat16_rounds_weights_but_no_places(tmp_path: Path) -> None:
    reader = load(save_tiny_causal(tmp_path), precision="bf16")
    assert {p.dtype for p in reader.parameters()} == {torch.bfloat16}
    assert reader.model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert logits_of(reader).dtype == torch.bfloat16


def test_the_dropout_asked_for_replaces_the_models_own(tmp_path: Path) -> None:
    reader = load(save_tiny_causal(tmp_path), dropout=0.5).train()
    assert not torch.equal(logits_of(reader), logits_of(reader))
    calm = load(tmp_path).train()
    assert torch.equal(logits_of(calm), logits_of(calm))


def test_the_words_around_come_from_the_chat_template_or_the_flag() -> None:
    model, chat, plain = tiny_llama(), causal_tokenizer(has_chat=True), causal_tokenizer()
    prompt = prompt_of(chat, model, ReaderWords())
    assert chat.decode(prompt.prefix) == "<|start|>user\n"
    assert prompt.question_format == "\n{query}<|end|>\n<|start|>assistant\n"
    assert prompt_of(plain, model, ReaderWords()).prefix == (1,)
    given = prompt_of(chat, model, ReaderWords(prefix="Read: "))
    assert chat.decode(given.prefix) == "<|start|>Read: "
    assert given.question_format == "\n{query}"
    # Braces of a template are no fields of a format.
    chat.chat_template = chat.chat_template.replace("assistant\n{%", "{'role'}\n{%")
    tail = prompt_of(chat, model, ReaderWords()).question_format.format(query="why")
    assert tail == "\nwhy<|end|>\n<|start|>{'role'}\n"


def test_every_end_that_the_model_knows_ends_an_answer_the_tokenizers_first() -> None:
    model = tiny_llama()
    model.generation_config.eos_token_id = [7, 2, 9]
    assert prompt_of(causal_tokenizer(), model, ReaderWords()).end_ids == (2, 7, 9)
    without_end = causal_tokenizer()
    without_end.eos_token = None
    with pytest.raises(ValueError, match="no end token"):
        prompt_of(without_end, model, ReaderWords())


def test_passages_are_cut_without_tokens_that_begin_a_text() -> None:
    tokenizer = causal_tokenizer()
    bare = without_special_tokens(tokenizer)
    assert tokenizer("the capital")["input_ids"] == [1, *bare("the capital")["input_ids"]]


def test_adapters_of_a_reader_come_back_with_the_same_bits(tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        reader = load(save_tiny_causal(tmp_path / "base"), precision=precision)
        before = logits_of(reader)
        settings = LoraSettings(rank=2, alpha=4.0, modules=("all-linear",), task_type="CAUSAL_LM")
        add_adapters(reader.model, settings)
        torch.testing.assert_close(logits_of(reader), before)
        with torch.no_grad():
            for name, parameter in reader.named_parameters():
                if "lora_" in name:
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
        save_reader(reader, causal_tokenizer(), tmp_path / precision)
        loaded = load(tmp_path / precision, precision=precision)
        assert has_adapters(loaded.model)
        assert torch.equal(logits_of(loaded), logits_of(reader))
        assert not torch.equal(logits_of(loaded), before)


def test_no_prefix_is_a_defect() -> None:
    model = tiny_llama()
    prompt = replace(prompt_of(causal_tokenizer(), model, ReaderWords()), prefix=())
    with pytest.raises(AssertionError):
        CausalReader(model, prompt)
