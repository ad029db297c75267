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
    part = context.rows(slice(sequence, sequence + 1))
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
        part = context.rows(slice(sequence, sequence + 1))
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


def beam_search(reader: FusionReader, context, beams: int, length: int) -> list[int]:
    """Beam search by hand, of one sequence: scores are averages over the tokens before the end."""
    going, done = [(0.0, [0])], []
    while len(going[0][1]) < length:
        ids = torch.tensor([ids for _, ids in going])
        part = context.repeated(len(ids))
        log_probs = reader.decode(part, ids)[:, -1].log_softmax(-1)
        scores = log_probs + torch.tensor([score for score, _ in going]).unsqueeze(1)
        best, places = scores.flatten().topk(2 * beams)
        found = [
            (score, going[place // scores.shape[1]][1], place % scores.shape[1])
            for score, place in zip(best.tolist(), places.tolist(), strict=True)
        ]
        done += [(score / len(ids), [*ids, 1]) for score, ids, token in found[:beams] if token == 1]
        done = sorted(done, reverse=True)[:beams]
        if len(done) == beams and done[-1][0] >= found[0][0] / len(found[0][1]):
            return done[0][1][1:]
        going = [(score, [*ids, token]) for score, ids, token in found if token != 1][:beams]
    done += [(score / len(ids), ids) for score, ids in going]
    return max(done)[1][1:]


def test_beams_go_on_until_none_can_win() -> None:
    reader = FusionReader(tiny_t5(), max_padded_tokens=64)
    likely_end = torch.zeros(reader.vocab_size)
    likely_end[1] = 6.0  # Then some beams end early, and lose in the end.
    reader.model.lm_head.register_forward_hook(lambda *call: 2 * call[-1] + likely_end)
    generator = np.random.default_rng(0)
    batch = [[generator.integers(3, 100, size=6).astype(np.int32)] * 2 for _ in range(12)]
    context = reader.encode(batch).fused()
    found = generate(reader, context, GenerationSettings(max_length=8, num_beams=2))
    for number, ids in enumerate(found):
        part = context.rows(slice(number, number + 1))
        expected = beam_search(reader, part, beams=2, length=8)
        assert without_padding(ids) == without_padding(expected)


def test_answers_come_without_special_tokens() -> None:
    tokenizer = reader_tokenizer()
    ids = tokenizer("<extra_id_0> the capital")["input_ids"]
    assert decode_answers(tokenizer, [[*ids, 0, 0]]) == ["the capital"]
