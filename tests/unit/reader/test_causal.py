"""The decoder-only reader is what a plain call of transformers on all ids at once would be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from gazetteer.reader import CausalReader, GenerationSettings
from gazetteer.reader.passage_scores import leave_one_out_nll, passage_token_log_probs
from gazetteer.records import Targets
from tests.support.tiny_causal import tiny_causal_reader

PROMPTS = [(40, 41, 42), (43,), (44, 45)]
ANSWERS = [[50, 51, 2], [52, 2], [53, 54, 2]]


def inputs(seed: int = 0) -> list[list[np.ndarray]]:
    """Three queries with three, one and no passages, of different lengths."""
    generator = np.random.default_rng(seed)
    return [
        [generator.integers(3, 300, size=n).astype(np.int32) for n in lengths]
        for lengths in ((5, 9, 2), (7,), ())
    ]


def targets(rows: slice = slice(None)) -> Targets:
    """Prompt and answer of each query, as `TargetTokenizer` lays them out."""
    full = [[*p, *a] for p, a in zip(PROMPTS[rows], ANSWERS[rows], strict=True)]
    width = max(map(len, full))
    labels, ids = torch.full((len(full), width), -100), torch.zeros(len(full), width).long()
    for row, (prompt, tokens) in enumerate(zip(PROMPTS[rows], full, strict=True)):
        labels[row, len(prompt) : len(tokens)] = torch.tensor(tokens[len(prompt) :])
        ids[row, 1 : len(tokens)] = torch.tensor(tokens[:-1])
    return Targets(labels, ids, tuple(PROMPTS[rows]))


def plain_ids(reader: CausalReader, passages: list[np.ndarray], following: list[int]) -> Tensor:
    """Everything the model reads for one query, as one row of ids."""
    ids = [*reader.prompt.prefix, *(int(i) for p in passages for i in p), *following]
    return torch.tensor([ids])


def test_logits_equal_a_plain_call_on_the_concatenated_ids() -> None:
    reader = tiny_causal_reader()
    batch, wanted = inputs(), targets()
    logits = reader.decode(reader.encode(batch).fused(), wanted.decoder_input_ids)
    for row, passages in enumerate(batch):
        following = [*PROMPTS[row], *ANSWERS[row][:-1]]
        plain = reader.model(plain_ids(reader, passages, following)).logits[0]
        expected = plain[-len(following) - 1 :]
        torch.testing.assert_close(logits[row, : len(expected)], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_equals_a_plain_call_on_the_concatenated_ids(beams: int) -> None:
    reader = tiny_causal_reader()
    batch = inputs()
    settings = GenerationSettings(max_length=9, min_length=3, num_beams=beams)
    found = reader.generate(reader.encode(batch).fused(), settings, PROMPTS)
    config = GenerationConfig(
        max_new_tokens=8, min_new_tokens=2, num_beams=beams, do_sample=False, early_stopping=False,
        pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    for row, passages in enumerate(batch):
        ids = plain_ids(reader, passages, list(PROMPTS[row]))
        expected = reader.model.generate(ids, generation_config=config)[0, ids.shape[1] :].tolist()
        assert len(expected) >= 2
        assert found[row][: len(expected)] == expected
        assert set(found[row][len(expected) :]) <= {0}


def test_generation_ends_with_any_end_token_of_the_model() -> None:
    reader = tiny_causal_reader()
    context = reader.encode(inputs()).fused()
    first = reader.generate(context, GenerationSettings(max_length=2), PROMPTS)
    from dataclasses import replace

    reader.prompt = replace(reader.prompt, end_ids=(2, first[0][0]))
    ended = reader.generate(context, GenerationSettings(max_length=6), PROMPTS)
    assert ended[0][0] == first[0][0] and set(ended[0][1:]) <= {0}


def test_one_passage_apart_or_left_out_is_what_it_is_alone() -> None:
    reader = tiny_causal_reader()
    batch, wanted = inputs()[:1], targets(slice(0, 1))
    encoded = reader.encode(batch)
    apart = passage_token_log_probs(reader, encoded, wanted)
    without = leave_one_out_nll(reader, encoded, wanted)
    for place, passage in enumerate(batch[0]):
        alone = passage_token_log_probs(reader, reader.encode([[passage]]), wanted)
        torch.testing.assert_close(apart[:, place], alone[:, 0], rtol=1e-5, atol=1e-5)
        rest = [ids for number, ids in enumerate(batch[0]) if number != place]
        context = reader.encode([[np.concatenate(rest)]])
        expected = -passage_token_log_probs(reader, context, wanted).sum() / 3
        torch.testing.assert_close(without[0, place], expected, rtol=1e-5, atol=1e-5)


def test_decoding_asks_the_device_for_no_number() -> None:
    reader = tiny_causal_reader()
    reader.model.set_attn_implementation("eager")
    # On this device every value that the host asks for is an error.
    reader.to("meta")
    encoded = reader.encode(inputs()[:2])
    ids = targets(slice(0, 2)).decoder_input_ids.to("meta")
    context = encoded.fused()
    assert reader.decode(context, ids).shape == (*ids.shape, reader.vocab_size)
    hidden = context.mask & (context.passage != 0)
    assert reader.decode(context, ids, mask=hidden).shape == (*ids.shape, reader.vocab_size)


def test_gradient_reaches_every_vector_of_the_context_and_is_finite() -> None:
    reader = tiny_causal_reader()
    encoded = reader.encode(inputs())
    encoded.states.retain_grad()
    wanted = targets()
    logits = reader.decode(encoded.fused(), wanted.decoder_input_ids)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.labels.flatten()).backward()
    gradient = encoded.states.grad
    assert gradient is not None and bool((gradient.abs().sum(dim=1) > 0).all())
    assert all(bool(p.grad.isfinite().all()) for p in reader.parameters() if p.grad is not None)


def test_no_passage_at_all_gives_empty_states() -> None:
    assert tiny_causal_reader().encode([[], []]).states.shape == (0, 32)
