"""Compressors of every kind against the models they are made of, and against themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from gazetteer.compressor import (
    Compressor,
    CompressorSettings,
    load_compressor,
    save_compressor,
)
from gazetteer.compressor.backbones import first_layers, load_backbone, own_encoder
from gazetteer.compressor.pooling import vector_counts
from gazetteer.compressor.saving import make_compressor
from gazetteer.errors import CheckpointError, OptionError
from gazetteer.reader import FusionReader
from gazetteer.records import TokenIds
from tests.support.tiny_models import (
    reader_tokenizer,
    retriever_tokenizer,
    save_tiny_retriever,
    tiny_t5,
)

KINDS = ("n_layers", "encoder", "pool")
POOLINGS = ("memory", "mean", "first")


def settings(kind: str = "n_layers", pooling: str = "memory", **changes) -> CompressorSettings:
    values = {"vectors": 3, "rate": None, "format": "{query} {text}", "max_tokens": 64}
    return CompressorSettings(kind=kind, pooling=pooling, **{**values, **changes})  # type: ignore[arg-type]


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(reader_tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    config._attn_implementation = "eager"
    return LlamaForCausalLM(config).eval()


def compressor(
    kind: str, pooling: str, folder: Path, *, causal: bool = False, padded: int = 64, **changes
) -> Compressor:
    reader = tiny_llama() if causal else tiny_t5(layers=2)
    if kind == "encoder":
        backbone = load_backbone(str(folder), dropout=0.0, attention="eager")[0]
    else:
        backbone = first_layers(reader, 2) if kind == "n_layers" else own_encoder(reader)
    torch.manual_seed(1)
    made = make_compressor(
        backbone,
        settings(kind, pooling, **changes),
        reader_width=32,
        dtype=torch.float32,
        max_padded_tokens=padded,
    )
    return made.eval()


def inputs() -> list[list[TokenIds]]:
    """Three queries with 3, 1 and 2 passages of 2 to 30 tokens."""
    random = np.random.default_rng(0)
    lengths = ((9, 30, 2), (17,), (5, 12))
    return [[random.integers(5, 90, n).astype(np.int32) for n in row] for row in lengths]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_retriever(tmp_path_factory.mktemp("encoder"))


def gradients(made: Compressor, loss: Tensor) -> dict[str, Tensor]:
    made.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    ("kind", "causal"),
    [("n_layers", False), ("n_layers", True), ("encoder", False), ("pool", False), ("pool", True)],
)
def test_a_batch_is_what_its_passages_are_alone(
    kind: str, causal: bool, pooling: str, encoder: Path
) -> None:
    """Whatever is beside a passage, however it is padded, in whatever order: values, gradients."""
    # 90 padded tokens: several buckets, some of several passages.
    made = compressor(kind, pooling, encoder, causal=causal, padded=90, has_relevance=True)
    batch = inputs()
    together = made.compress(batch)
    fused = together.passages.fused()
    assert fused.mask.sum() == sum(min(3, len(ids)) for row in batch for ids in row)
    weights = torch.randn(32, generator=torch.Generator().manual_seed(0))
    assert together.relevance is not None
    present = torch.from_numpy(together.passages.lengths > 0)
    loss = ((fused.states @ weights) * fused.mask).sum() + together.relevance[present].sum()
    expected_gradients = gradients(made, loss)

    alone = [[made.compress([[ids]]) for ids in reversed(row)] for row in reversed(batch)]
    total = torch.zeros(())
    for row, singles in enumerate(reversed(alone)):
        found = fused.states[row][fused.mask[row]]
        states = [one.passages.states for one in reversed(singles)]
        torch.testing.assert_close(found, torch.cat(states), rtol=1e-5, atol=1e-5)
        for place, one in enumerate(reversed(singles)):
            assert one.relevance is not None
            torch.testing.assert_close(
                together.relevance[row, place], one.relevance[0, 0], rtol=1e-5, atol=1e-5
            )
            total = total + (one.passages.states @ weights).sum() + one.relevance.sum()
    found_gradients = gradients(made, total)
    assert found_gradients.keys() == expected_gradients.keys()
    for name, expected in expected_gradients.items():
        scale = float(expected.abs().max()) or 1.0
        difference = float((found_gradients[name] - expected).abs().max())
        assert difference <= 1e-5 * max(scale, 1.0), name


def test_all_layers_of_t5_are_its_encoder() -> None:
    reader = FusionReader(tiny_t5(layers=2), max_padded_tokens=90)
    made = make_compressor(
        first_layers(reader.model, 2),
        settings(pooling="first", vectors=100),
        reader_width=32,
        dtype=torch.float32,
        max_padded_tokens=90,
    )
    expected, found = (e.fused() for e in (reader.encode(inputs()), made(inputs()).passages))
    torch.testing.assert_close(found.states, expected.states, rtol=0, atol=0)


@pytest.mark.parametrize("layers", [2, 3])
def test_first_layers_of_a_decoder_are_its_own(layers: int) -> None:
    """Rotary positions and all: the state that transformers reports after so many layers."""
    model = tiny_llama()
    (ids,), *_ = inputs()[1:]
    made = make_compressor(
        first_layers(model, layers),
        settings(pooling="first", vectors=100),
        reader_width=32,
        dtype=torch.float32,
        max_padded_tokens=90,
    )
    token_ids = torch.from_numpy(ids)[None].long()
    states = model.model(input_ids=token_ids, output_hidden_states=True).hidden_states
    expected = states[layers][0] if layers == 3 else model.model.norm(states[layers][0])
    torch.testing.assert_close(made([[ids]]).passages.states, expected, rtol=1e-5, atol=1e-6)


def test_a_copy_learns_apart_from_the_reader() -> None:
    reader = tiny_t5()
    copied = compressor("n_layers", "memory", Path())
    assert {p.data_ptr() for p in copied.parameters()}.isdisjoint(
        p.data_ptr() for p in reader.parameters()
    )
    shared = make_compressor(
        own_encoder(reader),
        settings("pool"),
        reader_width=32,
        dtype=torch.float32,
        max_padded_tokens=9,
    )
    assert [name for name, _ in shared.own_named_parameters()] == ["memory"]


def test_means_are_those_of_adaptive_pooling(encoder: Path) -> None:
    whole = compressor("n_layers", "first", encoder, vectors=100)
    means = compressor("n_layers", "mean", encoder, vectors=4)
    for ids in inputs()[0]:
        states = whole([[ids]]).passages.states
        count = min(4, len(ids))
        expected = torch.nn.functional.adaptive_avg_pool1d(states.T[None], count)[0].T
        torch.testing.assert_close(means([[ids]]).passages.states, expected)


def test_a_passage_gets_vectors_by_its_own_length(encoder: Path) -> None:
    made = compressor("n_layers", "memory", encoder, vectors=5, rate=4.0)
    found = made(inputs(), beside=[5, 5, 5])
    # Of 9, 30, 2 | 17 | 5, 12 tokens five are the query's: 4, 25, 0 | 12 | 0, 7 are left.
    assert found.passages.lengths.tolist() == [[1, 5, 1], [3, 0, 0], [1, 2, 0]]
    assert found.rate == pytest.approx((4 + 25 + 12 + 7) / (1 + 5 + 1 + 3 + 1 + 2))
    assert found.rates == pytest.approx([29 / 7, 12 / 3, 7 / 3])


def test_no_passage_grows() -> None:
    counts = vector_counts(np.array([1, 2, 50]), np.array([1, 2, 50]), most=8, rate=None)
    assert counts.tolist() == [1, 2, 8]


def test_the_most_relevant_come_first_and_absent_ones_last(encoder: Path) -> None:
    made = compressor("n_layers", "first", encoder, vectors=1, has_relevance=True)
    found = made(inputs())
    assert found.relevance is not None
    best, order = found.best_first(2)
    for row, count in enumerate((3, 1, 2)):
        scores = found.relevance[row, :count]
        expected = scores.argsort(descending=True)[:2].tolist()
        assert order[row, : min(count, 2)].tolist() == expected
    assert best.passages.lengths.tolist() == [[1, 1], [1, 0], [1, 1]]
    states = found.passages.states[best.passages.starts[0, 0]]
    expected = found.passages.states[found.passages.starts[0, order[0, 0]]]
    assert torch.equal(states, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_what_is_loaded(kind: str, encoder: Path, tmp_path: Path) -> None:
    made = compressor(kind, "memory", encoder, has_relevance=True)
    tokenizer = retriever_tokenizer() if kind == "encoder" else reader_tokenizer()
    save_compressor(made, tokenizer, tmp_path / "saved")
    reader = tiny_t5(layers=2)
    loaded, found = load_compressor(
        tmp_path / "saved",
        CompressorSettings.load(tmp_path / "saved"),
        reader=reader,
        reader_tokenizer=reader_tokenizer(),
        reader_width=32,
        dropout=0.0,
        attention="eager",
        max_padded_tokens=64,
    )
    assert found("the river")["input_ids"] == tokenizer("the river")["input_ids"]
    expected, again = made(inputs()), loaded.eval()(inputs())
    assert torch.equal(again.passages.states, expected.passages.states)
    assert again.relevance is not None and expected.relevance is not None
    assert torch.equal(again.relevance, expected.relevance)


def test_damage_is_named(encoder: Path, tmp_path: Path) -> None:
    save_compressor(compressor("pool", "memory", encoder), reader_tokenizer(), tmp_path)
    file = tmp_path / "compressor.json"
    file.write_text(file.read_text().replace('"memory"', '"clever"'))
    with pytest.raises(CheckpointError, match=r"compressor\.json: 'pooling' is 'clever'"):
        CompressorSettings.load(tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match="no settings of a compressor"):
        CompressorSettings.load(tmp_path)


def test_a_reader_has_only_so_many_layers() -> None:
    with pytest.raises(OptionError, match=r"--compressor_layers \(3\) must be at most 2"):
        first_layers(tiny_t5(layers=2), 3)
    assert first_layers(tiny_t5(layers=2), None).config.num_layers == 1


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be loaded: .* \(--compressor_model_path\)"):
        load_backbone(str(tmp_path), dropout=0.0, attention="eager")
