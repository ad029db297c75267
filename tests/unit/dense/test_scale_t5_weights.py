"""A scaled T5 computes the same; what would not is not written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoTokenizer,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5Model,
)

from gazetteer.dense import scale_t5_weights
from gazetteer.dense.scale_t5_weights import main, scale_t5
from gazetteer.errors import CheckpointError, OptionError
from tests.support.tiny_models import reader_tokenizer

SIZES = {"vocab_size": 300, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 3}


def make(folder: Path, kind: Any = T5ForConditionalGeneration, **config: Any) -> Path:
    """A T5 with weights large enough to matter, in a folder."""
    torch.manual_seed(3)
    settings = MT5Config if kind is MT5ForConditionalGeneration else T5Config
    is_untied = config.pop("is_untied", False)
    model = kind(settings(**SIZES, **config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    if is_untied:
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.shared.weight))
    model.save_pretrained(folder)
    reader_tokenizer().save_pretrained(folder)
    return folder


def results(folder: Path, kind: Any, dtype: torch.dtype) -> list[torch.Tensor]:
    model = kind.from_pretrained(folder, dtype=dtype).eval()
    ids = torch.arange(1, 41).view(2, 20)
    with torch.no_grad():
        if kind is T5EncoderModel:
            return [model(input_ids=ids).last_hidden_state]
        found = model(input_ids=ids, decoder_input_ids=ids[:, :5])
    last = found.last_hidden_state if kind is T5Model else found.logits
    return [found.encoder_last_hidden_state, last]


CASES = [
    (T5ForConditionalGeneration, {}),
    (T5ForConditionalGeneration, {"feed_forward_proj": "gated-gelu", "is_untied": True}),
    (T5ForConditionalGeneration, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    (T5ForConditionalGeneration, {"feed_forward_proj": "gelu"}),
    (MT5ForConditionalGeneration, {"feed_forward_proj": "gated-gelu"}),
    (T5Model, {}),
    (T5EncoderModel, {"feed_forward_proj": "gated-gelu"}),
]


@pytest.mark.parametrize(("kind", "config"), CASES)
def test_it_computes_the_same(tmp_path: Path, kind: Any, config: dict) -> None:
    source, target = make(tmp_path / "source", kind, **config), tmp_path / "scaled"
    assert scale_t5(str(source), target, num_layers=2) < 1e-6
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-6)):
        pairs = zip(*(results(f, kind, dtype) for f in (source, target)), strict=True)
        for expected, found in pairs:
            assert (expected - found).abs().max() <= tolerance * expected.abs().max()


def test_the_stream_is_a_128th_and_its_states_have_the_same_bits(tmp_path: Path) -> None:
    source, target = make(tmp_path / "source"), tmp_path / "scaled"
    scale_t5(str(source), target)
    first, second = (T5Model.from_pretrained(f).eval() for f in (source, target))
    ids = torch.arange(1, 41).view(2, 20)
    with torch.no_grad():
        before, after = (
            m(input_ids=ids, decoder_input_ids=ids[:, :5], output_hidden_states=True)
            for m in (first, second)
        )
    for name in ("encoder_hidden_states", "decoder_hidden_states"):
        *streams, last = zip(getattr(before, name), getattr(after, name), strict=True)
        assert all(torch.equal(one / 128, other) for one, other in streams)
        assert torch.equal(*last)


def test_other_versions_of_transformers_are_told_that_the_head_is_apart(tmp_path: Path) -> None:
    source, target = make(tmp_path / "source"), tmp_path / "scaled"
    scale_t5(str(source), target)
    assert json.loads((target / "config.json").read_text())["tie_word_embeddings"] is False
    before, after = (load_file(f / "model.safetensors") for f in (source, target))
    torch.testing.assert_close(after["lm_head.weight"], before["shared.weight"] * 24**-0.5)
    assert not list(target.glob("*.bin"))
    assert len(AutoTokenizer.from_pretrained(target)) == len(reader_tokenizer())


def test_what_would_not_compute_the_same_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(tmp_path / "source", feed_forward_proj="gated-gelu")
    # As OpenMatch would have it: the gate's own layer divided as well.
    original = scale_t5_weights._divisor
    monkeypatch.setattr(
        scale_t5_weights,
        "_divisor",
        lambda name, inner: 8 if "wi_0" in name else original(name, inner),
    )
    with pytest.raises(CheckpointError, match="would not compute the same: outputs differ by"):
        scale_t5(str(source), tmp_path / "scaled")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_folder_in_use_is_not_overwritten(tmp_path: Path) -> None:
    source = make(tmp_path / "source")
    with pytest.raises(OptionError, match="must be empty: it is not overwritten"):
        scale_t5(str(source), source)
    (tmp_path / "empty").mkdir()
    scale_t5(str(source), tmp_path / "empty")


def test_the_command_line(tmp_path: Path, retriever_folder: Path, capsys) -> None:
    source, target = make(tmp_path / "source"), tmp_path / "scaled"

    def run(model: Path, *more: str) -> int:
        return main(["--input_model_path", str(model), "--output_model_path", str(target), *more])

    assert run(source, "--num_layers", "12") == 2
    assert "--num_layers (12) must be the model's, which has 2 and 2" in capsys.readouterr().err
    assert run(retriever_folder) == 2
    assert "it is a bert, expected a t5 (--input_model_path)" in capsys.readouterr().err
    assert run(tmp_path / "nowhere") == 2
    assert run(source, "--num_layers", "2") == 0
    assert (target / "model.safetensors").is_file()
