"""Labels: end token, truncation, padding, and prompts that teach nothing."""

from __future__ import annotations

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase

from gazetteer.data.targets import (
    IGNORED,
    ContinuationTokenizer,
    TargetTokenizer,
    strip_sentinels,
)
from tests.support.tiny_causal import causal_tokenizer
from tests.support.tiny_models import reader_tokenizer

START, END, PAD = 0, 1, 0
WORDS = "paris london rome berlin"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """The tiny reader's, cutting at white space as T5's does: none is left before `</s>`."""
    tokenizer = reader_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    return tokenizer


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[return-value]


def _kept(labels: torch.Tensor) -> list[list[int]]:
    return [row[row != IGNORED].tolist() for row in labels]


def test_targets_end_with_one_end_token(tokenizer: PreTrainedTokenizerBase) -> None:
    targets = TargetTokenizer(tokenizer, decoder_start_id=START)
    words = _ids(tokenizer, "<extra_id_0> paris")
    encoded = targets.encode(["q"] * 3, ["<extra_id_0> paris", "<extra_id_0> paris </s>", ""])
    assert _kept(encoded.labels) == [[*words, END], [*words, END], [END]]


def test_batch_is_padded_to_its_longest_target(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = TargetTokenizer(tokenizer, decoder_start_id=START).encode(
        ["q", "q"], [WORDS, "paris"]
    )
    long, short = _ids(tokenizer, WORDS), _ids(tokenizer, "paris")
    assert encoded.labels.tolist() == [[*long, END], [*short, END, *[IGNORED] * (4 - 1)]]
    assert encoded.decoder_input_ids.tolist() == [[START, *long], [START, *short, *[PAD] * 3]]
    assert encoded.labels.dtype == encoded.decoder_input_ids.dtype == torch.int64
    assert encoded.token_counts.tolist() == [5, 2]
    assert encoded.prompts == ()


@pytest.mark.parametrize(
    ("limit", "kept"), [(1, 1), (2, 2), (4, 4), (5, 5), (6, 5), (-1, 5), (None, 5)]
)
def test_truncation_keeps_the_head(
    tokenizer: PreTrainedTokenizerBase, limit: int | None, kept: int
) -> None:
    targets = TargetTokenizer(tokenizer, decoder_start_id=START, max_length=limit)
    encoded = targets.encode(["q"], [WORDS])
    assert _kept(encoded.labels) == [[*_ids(tokenizer, WORDS), END][:kept]]
    assert encoded.decoder_input_ids.shape == encoded.labels.shape == (1, kept)


def test_no_limit_is_the_tokenizers_own(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "paris " * 600
    lengths = {
        limit: TargetTokenizer(tokenizer, decoder_start_id=START, max_length=limit)
        .encode(["q"], [text])
        .labels.shape[1]
        for limit in (None, -1)
    }
    assert lengths == {None: 512, -1: 601}


def test_format_wraps_the_target(tokenizer: PreTrainedTokenizerBase) -> None:
    targets = TargetTokenizer(
        tokenizer, decoder_start_id=START, decoder_format="answer {target} end </s>"
    )
    encoded = targets.encode(["q"], ["paris"])
    assert _kept(encoded.labels) == [_ids(tokenizer, "answer paris end </s>")]


def test_prompt_is_given_and_masked(tokenizer: PreTrainedTokenizerBase) -> None:
    targets = TargetTokenizer(
        tokenizer, decoder_start_id=START, max_length=2, decoder_prompt_format="answer to {query}"
    )
    queries, answers = ["who", "what is it"], ["rome", "paris london"]
    encoded = targets.encode(queries, answers)
    prompts = [_ids(tokenizer, f"answer to {query}") for query in queries]
    wanted = [[*_ids(tokenizer, answer), END][:2] for answer in answers]
    assert encoded.prompts == tuple(map(tuple, prompts))
    assert _kept(encoded.labels) == wanted
    for row, (prompt, answer) in enumerate(zip(prompts, wanted, strict=True)):
        full = [*prompt, *answer]
        assert encoded.labels[row, : len(prompt)].tolist() == [IGNORED] * len(prompt)
        assert encoded.labels[row, len(prompt) : len(full)].tolist() == answer
        assert encoded.decoder_input_ids[row, : len(full)].tolist() == [START, *full[:-1]]


@pytest.mark.parametrize("prompt", [None, "answer to {query}"])
def test_no_targets_are_an_empty_batch(
    tokenizer: PreTrainedTokenizerBase, prompt: str | None
) -> None:
    targets = TargetTokenizer(tokenizer, decoder_start_id=START, decoder_prompt_format=prompt)
    encoded = targets.encode([], [])
    assert encoded.labels.shape == encoded.decoder_input_ids.shape == (0, 0)
    assert encoded.prompts == ()


def test_a_continuation_is_the_text_after_the_prompt_and_then_the_end() -> None:
    tokenizer = causal_tokenizer()
    targets = ContinuationTokenizer(
        tokenizer, decoder_start_id=0, decoder_prompt_format="\n{query}", max_length=30
    )
    encoded = targets.encode(
        ["question: where? answer: <extra_id_0>"] * 2, ["<extra_id_0> north lake", ""]
    )
    assert tokenizer.decode(encoded.prompts[0]) == "\nquestion: where? answer:"
    kept = _kept(encoded.labels)
    assert tokenizer.decode(kept[0]) == " north lake<|end|>" and kept[0].count(2) == 1
    assert kept[1] == [2]
    # One sequence: what goes in is what comes out, shifted, with the context's place before it.
    whole = [*encoded.prompts[0], *kept[0]]
    assert encoded.decoder_input_ids[0, : len(whole)].tolist() == [0, *whole[:-1]]


def test_a_continuation_adds_a_space_only_where_two_words_would_run_together() -> None:
    tokenizer = causal_tokenizer()
    chat = ContinuationTokenizer(
        tokenizer, decoder_start_id=0, decoder_prompt_format="{query}<|end|>\n"
    )
    (ids,) = _kept(chat.encode(["q"], ["<extra_id_0> lake<|end|>"]).labels)
    assert tokenizer.decode(ids) == "lake<|end|>"
    # Metaspace puts a space before every text by itself.
    spaced = reader_tokenizer()
    targets = ContinuationTokenizer(spaced, decoder_start_id=0, decoder_prompt_format="{query}")
    (ids,) = _kept(targets.encode(["q"], ["<extra_id_0> lake"]).labels)
    assert ids == [*_ids(spaced, "lake"), END]


def test_sentinels_go_and_white_space_stays() -> None:
    assert strip_sentinels("question: a\n b answer: <extra_id_0>") == "question: a\n b answer:"
    assert strip_sentinels("<extra_id_0> two  words") == "two  words"
    assert strip_sentinels("none") == "none"
