import numpy as np
import pytest
import torch

from gazetteer.reader import FusionReader
from gazetteer.reader.attention import (
    attention_statistics,
    passage_attention,
    record_cross_attention,
)
from gazetteer.reader.passage_scores import (
    leave_one_out_nll,
    passage_attention_scores,
    passage_log_likelihoods,
    passage_token_log_probs,
)
from gazetteer.records import Targets
from tests.support.tiny_models import tiny_t5

LENGTHS = ((5, 9, 2), (7, 1, 4))


@pytest.fixture
def reader() -> FusionReader:
    return FusionReader(tiny_t5(), max_padded_tokens=64)


@pytest.fixture
def batch() -> list[list[np.ndarray]]:
    generator = np.random.default_rng(0)
    return [
        [generator.integers(3, 100, size=n).astype(np.int32) for n in lengths]
        for lengths in LENGTHS
    ]


@pytest.fixture
def targets() -> Targets:
    labels = torch.tensor([[7, 8, 1, -100], [9, 1, -100, -100]])
    inputs = torch.tensor([[0, 7, 8, 1], [0, 9, 1, 0]])
    return Targets(labels, inputs)


def nll_of(reader: FusionReader, passages: list[np.ndarray], labels: list[int]) -> list[float]:
    """Per-token negative log-likelihood of one target, computed by itself."""
    context = reader.encode([passages]).fused()
    logits = reader.decode(context, torch.tensor([[0, *labels[:-1]]]))[0].double()
    log_probs = logits.log_softmax(dim=-1)
    return [-log_probs[t, label].item() for t, label in enumerate(labels)]


REAL_LABELS = ([7, 8, 1], [9, 1])


def test_log_likelihood_is_the_mean_over_target_tokens_given_one_passage(
    reader, batch, targets
) -> None:
    found = passage_log_likelihoods(reader, reader.encode(batch), targets)
    for query, passages in enumerate(batch):
        for position, passage in enumerate(passages):
            expected = -np.mean(nll_of(reader, [passage], REAL_LABELS[query]))
            assert found[query, position].item() == pytest.approx(expected, rel=1e-5)


def test_temperature_divides_the_vocabulary_logits(reader, batch, targets) -> None:
    found = passage_token_log_probs(reader, reader.encode(batch), targets, temperature=0.5)
    context = reader.encode([[batch[0][1]]]).fused()
    logits = reader.decode(context, torch.tensor([[0, 7, 8]]))[0] / 0.5
    expected = logits.log_softmax(dim=-1)[[0, 1, 2], [7, 8, 1]]
    torch.testing.assert_close(found[0, 1, :3], expected, rtol=1e-4, atol=1e-5)
    assert found[0, 1, 3] == 0


def test_leave_one_out_reads_all_passages_but_one(reader, batch, targets) -> None:
    found = leave_one_out_nll(reader, reader.encode(batch), targets)
    for query, passages in enumerate(batch):
        for position in range(len(passages)):
            others = [p for place, p in enumerate(passages) if place != position]
            expected = np.mean(nll_of(reader, others, REAL_LABELS[query]))
            assert found[query, position].item() == pytest.approx(expected, rel=1e-5)


def test_leave_one_out_of_a_single_passage_is_finite(reader, batch, targets) -> None:
    single = [passages[:1] for passages in batch]
    assert leave_one_out_nll(reader, reader.encode(single), targets).isfinite().all()


def test_signals_carry_no_gradient(reader, batch, targets) -> None:
    encoded = reader.encode(batch)
    for signal in (
        passage_log_likelihoods(reader, encoded, targets),
        leave_one_out_nll(reader, encoded, targets),
        passage_attention_scores(reader, encoded, targets),
    ):
        assert not signal.requires_grad


def attention_oracle(reader, passages, labels) -> np.ndarray:
    """Attention x value norm, summed by hand over layers, target tokens and passage tokens."""
    model = reader.model
    context = reader.encode([passages]).fused()
    model.decoder.config._attn_implementation = "eager"
    output = model.decoder(
        input_ids=torch.tensor([[0, *labels[:-1]]]),
        encoder_hidden_states=context.states,
        encoder_attention_mask=context.mask.long(),
        output_attentions=True,
    )
    owner = np.repeat(np.arange(len(passages)), [len(p) for p in passages])
    scores = np.zeros(len(passages))
    for layer, weights in enumerate(output.cross_attentions):
        attention = model.decoder.block[layer].layer[1].EncDecAttention
        heads = weights.shape[1]
        values = attention.v(context.states)[0].view(len(owner), heads, -1)
        norms = values.norm(dim=-1).detach().numpy()
        for head in range(heads):
            for token in range(len(labels)):
                for place, passage in enumerate(owner):
                    weight = weights[0, head, token, place].item()
                    scores[passage] += weight * norms[place, head] / heads
    return scores / (256 * len(output.cross_attentions) * len(labels))


def test_attention_score_equals_a_sum_by_hand(reader, batch, targets) -> None:
    found = passage_attention_scores(reader, reader.encode(batch), targets)
    for query, passages in enumerate(batch):
        expected = attention_oracle(reader, passages, REAL_LABELS[query])
        np.testing.assert_allclose(found[query].numpy(), expected, rtol=1e-4)


def test_recording_leaves_the_model_as_it_was(reader, batch, targets) -> None:
    context = reader.encode(batch).fused()
    before = reader.decode(context, targets.decoder_input_ids)
    implementation = reader.model.decoder.config._attn_implementation
    with record_cross_attention(reader.model) as recorded:
        during = reader.decode(context, targets.decoder_input_ids)
    after = reader.decode(context, targets.decoder_input_ids)
    assert len(recorded.weights) == len(recorded.values) == 2
    assert reader.model.decoder.config._attn_implementation == implementation
    torch.testing.assert_close(before, after)
    torch.testing.assert_close(before, during, rtol=1e-4, atol=1e-5)


def test_every_statistic_has_one_number_per_passage(reader, batch, targets) -> None:
    context = reader.encode(batch).fused()
    with record_cross_attention(reader.model) as recorded:
        reader.decode(context, targets.decoder_input_ids)
    statistics = attention_statistics(
        recorded, context.mask, context.passage, targets.mask, passages=3
    )
    assert len(statistics) == 18
    assert all(v.shape == (2, 3) and v.isfinite().all() for v in statistics.values())
    ones = statistics["probssum"] * 256
    torch.testing.assert_close(ones.sum(dim=1), torch.ones(2), rtol=1e-4, atol=1e-4)
    counts = torch.tensor(LENGTHS)
    torch.testing.assert_close(statistics["probsavg"], statistics["probssum"] / counts)
    # A passage of one token: its sum, average, first and best tokens are one number.
    for kind in ("scores", "probs", "norms"):
        single = [statistics[f"{kind}{r}"][1, 1] for r in ("sum", "avg", "first", "top5", "top20")]
        torch.testing.assert_close(torch.stack(single), single[0].expand(5))


def test_attention_needs_a_recording() -> None:
    from gazetteer.reader.attention import CrossAttention

    empty = torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="no cross-attention"):
        passage_attention(CrossAttention(), empty, empty.long(), empty, passages=1)
