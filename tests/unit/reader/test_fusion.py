import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutput

from gazetteer.reader import FusionReader
from gazetteer.reader.fusion import sequence_chunks
from tests.support.tiny_models import tiny_t5


def inputs(seed: int = 0) -> list[list[np.ndarray]]:
    """Two queries with three passages each, of different lengths."""
    generator = np.random.default_rng(seed)
    return [
        [generator.integers(3, 100, size=n).astype(np.int32) for n in lengths]
        for lengths in ((5, 9, 2), (7, 1, 4))
    ]


def padded_fusion_logits(model, batch, decoder_input_ids):
    """Fusion in the decoder the plain way: everything padded to one length."""
    longest = max(len(ids) for passages in batch for ids in passages)
    ids = torch.zeros(len(batch) * len(batch[0]), longest, dtype=torch.long)
    for row, tokens in enumerate(tokens for passages in batch for tokens in passages):
        ids[row, : len(tokens)] = torch.from_numpy(tokens)
    mask = (ids != 0).long()
    states = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    fused = states.reshape(len(batch), -1, states.shape[-1])
    return model(
        encoder_outputs=BaseModelOutput(last_hidden_state=fused),
        attention_mask=mask.reshape(len(batch), -1),
        decoder_input_ids=decoder_input_ids,
    ).logits


def test_fusion_without_padding_equals_fusion_with_padding() -> None:
    model = tiny_t5()
    decoder_input_ids = torch.tensor([[0, 5, 6], [0, 9, 3]])
    expected = padded_fusion_logits(model, inputs(), decoder_input_ids)
    for budget in (1, 12, 10_000):
        reader = FusionReader(model, max_padded_tokens=budget)
        found = reader.decode(reader.encode(inputs()).fused(), decoder_input_ids)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_passage_apart_is_what_it_is_alone() -> None:
    reader = FusionReader(tiny_t5(), max_padded_tokens=64)
    batch = inputs()
    apart = reader.encode(batch).apart()
    for position, ids in enumerate(ids for passages in batch for ids in passages):
        alone = reader.encode([[ids]]).fused()
        assert int(apart.mask[position].sum()) == len(ids)
        torch.testing.assert_close(
            apart.states[position, : len(ids)], alone.states[0], rtol=1e-5, atol=1e-5
        )


def test_queries_may_have_different_numbers_of_passages() -> None:
    reader = FusionReader(tiny_t5(), max_padded_tokens=64)
    full, short = inputs()
    encoded = reader.encode([full, short[:1]])
    assert encoded.lengths.tolist() == [[5, 9, 2], [7, 0, 0]]
    assert encoded.fused().mask.sum(dim=1).tolist() == [16, 7]


def test_passages_encoded_in_two_parts_equal_those_encoded_at_once() -> None:
    reader = FusionReader(tiny_t5(), max_padded_tokens=64)
    batch = inputs()
    whole = reader.encode(batch).fused()
    first = reader.encode([passages[:2] for passages in batch])
    rest = reader.encode([passages[2:] for passages in batch])
    joined = first.followed_by(rest).fused()
    assert torch.equal(whole.mask, joined.mask)
    real = whole.mask
    torch.testing.assert_close(joined.states[real], whole.states[real], rtol=1e-5, atol=1e-5)
    assert torch.equal(first.followed_by(rest).first(2).fused().passage, first.fused().passage)


def test_gradient_reaches_every_passage_read_and_no_other() -> None:
    reader = FusionReader(tiny_t5(), max_padded_tokens=64)
    encoded = reader.encode(inputs())
    encoded.states.retain_grad()
    reader.decode(encoded.first(2).fused(), torch.tensor([[0, 5], [0, 9]])).sum().backward()
    gradient = encoded.states.grad
    assert gradient is not None
    has_gradient = gradient.abs().sum(dim=1) > 0
    for query in range(2):
        for passage in range(3):
            start, length = encoded.starts[query, passage], encoded.lengths[query, passage]
            assert bool(has_gradient[start : start + length].all()) == (passage < 2)


def test_no_passage_at_all_gives_empty_states() -> None:
    reader = FusionReader(tiny_t5(), max_padded_tokens=64)
    assert reader.encode([[], []]).states.shape == (0, 32)


def test_chunks_cover_all_sequences_and_stay_small() -> None:
    parts = list(sequence_chunks(10, 4, 100, max_logits=1200))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(10))
    assert max(part.stop - part.start for part in parts) == 3
    assert len(list(sequence_chunks(3, 100, 100, max_logits=1))) == 3
