import numpy as np
import torch

from gazetteer.reader import FusionReader, GenerationSettings, decode_answers, generate
from tests.support.tiny_models import reader_tokenizer, tiny_t5


def contexts(reader: FusionReader):
    generator = np.random.default_rng(0)
    batch = [[generator.integers(3, 100, size=6).astype(np.int32)] * 2 for _ in range(3)]
    return reader.encode(batch).fused()


def greedy(reader: FusionReader, context, sequence: int, length: int) -> list[int]:
    """Greedy decoding by hand, without any cache."""
    part = type(context)(
        context.states[sequence : sequence + 1],
        context.mask[sequence : sequence + 1],
        context.passage[sequence : sequence + 1],
    )
    ids = [0]
    while len(ids) < length:
        ids.append(int(reader.decode(part, torch.tensor([ids]))[0, -1].argmax()))
        if ids[-1] == 1:
            break
    return ids[1:]


def without_padding(ids: list[int]) -> list[int]:
    return ids[: ids.index(1) + 1] if 1 in ids else ids


def test_greedy_generation_equals_decoding_by_hand() -> None:
    reader = FusionReader(tiny_t5(), max_padded_tokens=64)
    context = contexts(reader)
    found = generate(reader, context, GenerationSettings(max_length=7))
    for sequence, ids in enumerate(found):
        assert without_padding(ids) == greedy(reader, context, sequence, 7)


def test_prompts_of_different_lengths_are_forced_and_cut_off() -> None:
    reader = FusionReader(tiny_t5(), max_padded_tokens=64)
    context = contexts(reader)
    prompts = [(11,), (12, 13, 14), (15, 16)]
    forced = generate(reader, context, GenerationSettings(max_length=8), prompts)
    for sequence, prompt in enumerate(prompts):
        part = type(context)(
            context.states[sequence : sequence + 1],
            context.mask[sequence : sequence + 1],
            context.passage[sequence : sequence + 1],
        )
        ids = [0, *prompt]
        while len(ids) < 8 and ids[-1] != 1:
            ids.append(int(reader.decode(part, torch.tensor([ids]))[0, -1].argmax()))
        assert without_padding(forced[sequence]) == ids[1 + len(prompt) :]


def test_lengths_and_beams_are_obeyed() -> None:
    reader = FusionReader(tiny_t5(), max_padded_tokens=64)
    context = contexts(reader)
    short = generate(reader, context, GenerationSettings(max_length=4))
    assert all(len(ids) <= 3 for ids in short)
    long = generate(reader, context, GenerationSettings(max_length=9, min_length=9, num_beams=3))
    assert all(len(ids) == 8 and 1 not in ids[:-1] for ids in long)
    penalised = GenerationSettings(max_length=9, num_beams=3, length_penalty=-5.0)
    assert len(generate(reader, context, penalised)) == 3


def test_answers_come_without_special_tokens() -> None:
    tokenizer = reader_tokenizer()
    ids = tokenizer("<extra_id_0> the capital")["input_ids"]
    assert decode_answers(tokenizer, [[*ids, 0, 0]]) == ["the capital"]
