"""Rules of the compressor: what must come together, what has no effect, what flags amount to."""

from pathlib import Path

import pytest

from gazetteer.build_compressor import (
    build_compressor,
    count_weights,
    new_settings,
    rate_warnings,
    saved_settings,
)
from gazetteer.compressor_options import compressor_remarks, compressor_rules
from gazetteer.errors import OptionError
from gazetteer.options import Options, options_from_dict
from gazetteer.reader import FusionReader
from gazetteer.records import Ranks
from tests.support.tiny_models import reader_tokenizer, save_tiny_retriever, tiny_t5


def options_of(**flags) -> Options:
    return options_from_dict({"task": "qa", **flags})


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"distill_kl_weight": 1.0}, "--distill_kl_weight (1.0) must come with --compressor"),
        (
            {"rerank_target": "reader", "compressor": "none", "model_path": "m"},
            "--rerank_target (reader) must come with --compressor",
        ),
        ({"compressor": "encoder"}, "--compressor_model_path is required"),
        ({"compressor": "pool", "closed_book": True}, "--compressor (pool) must not come with"),
        ({"compressor": "pool", "task": "dense"}, "--compressor (pool) must come with a reader"),
        (
            {"compressor": "pool", "rerank_target": "file"},
            "--rerank_target (file) must come with --use_file_passages",
        ),
        (
            {"compressor": "pool", "rerank_by_compressor": 3, "n_context": 4},
            "--rerank_by_compressor (3) must be at least --n_context (4)",
        ),
    ],
)
def test_each_rule_speaks_alone(flags: dict, expected: str) -> None:
    (problem,) = compressor_rules(options_of(**flags))
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"compressor": "n_layers", "distill_kl_weight": 1.0, "rerank_target": "reader"},
        {"model_path": "m", "rerank_by_compressor": 9},
        {"compressor": "none", "closed_book": True, "model_path": "m"},
    ],
)
def test_sound_flags_pass(flags: dict) -> None:
    assert list(compressor_rules(options_of(**flags))) == []


def test_flags_without_effect_are_named() -> None:
    remarks = list(compressor_remarks(options_of(num_memory_tokens=4, compressor_layers=2)))
    assert remarks == [
        "compressor_layers 2: no effect without compressor",
        "num_memory_tokens 4: no effect without compressor",
    ]
    (remark,) = compressor_remarks(options_of(compressor="pool", compressor_layers=2))
    assert remark == "compressor_layers 2: no effect with compressor pool"
    assert list(compressor_remarks(options_of(model_path="m", num_memory_tokens=4))) == []


@pytest.mark.parametrize(
    ("flags", "vectors", "rate", "passage"),
    [
        ({}, 8, None, None),
        ({"num_memory_tokens": 4}, 4, None, None),
        ({"compression_rate": 16.0}, 13, 16.0, None),
        ({"compression_rate": 16.0, "compressor_maxlength": 128}, 8, 16.0, None),
        ({"num_memory_tokens": 4, "compression_rate": 16.0}, 4, None, 64),
    ],
)
def test_vectors_and_rate(
    flags: dict, vectors: int, rate: float | None, passage: int | None
) -> None:
    settings = new_settings(options_of(compressor="n_layers", **flags))
    assert (settings.vectors, settings.rate, settings.max_passage_tokens) == (
        vectors,
        rate,
        passage,
    )


def test_a_rate_that_cannot_be_reached_is_warned_of() -> None:
    flags = {"compressor": "n_layers", "num_memory_tokens": 8, "text_maxlength": 100}
    for rate, count in ((16.0, 1), (12.0, 0)):
        options = options_of(**flags, compression_rate=rate)
        warnings = list(rate_warnings(options, new_settings(options)))
        assert len(warnings) == count
        assert all("is 128 tokens" in line for line in warnings)


def test_a_checkpoint_keeps_what_its_weights_are_for() -> None:
    saved = new_settings(options_of(compressor="n_layers", num_memory_tokens=4))
    assert saved_settings(options_of(), saved) == saved
    for flags, expected in (
        ({"compressor": "pool"}, r"--compressor \(pool\) must be n_layers"),
        ({"compressor_pooling": "mean"}, r"--compressor_pooling \(mean\) must be memory"),
        ({"num_memory_tokens": 5}, "ask for 5 memory tokens, the checkpoint has 4"),
    ):
        with pytest.raises(OptionError, match=expected):
            saved_settings(options_of(**flags), saved)
    mean = new_settings(options_of(compressor="n_layers", compressor_pooling="mean"))
    changed = saved_settings(options_of(compression_rate=4.0, compressor_format="{text}"), mean)
    assert (changed.vectors, changed.rate, changed.format) == (50, 4.0, "{text}")


@pytest.mark.parametrize("kind", ["n_layers", "encoder", "pool"])
def test_weights_are_counted_as_they_are_built(kind: str, tmp_path: Path) -> None:
    save_tiny_retriever(tmp_path)
    options = options_of(compressor=kind, compressor_model_path=str(tmp_path), num_memory_tokens=3)
    reader = FusionReader(tiny_t5(), max_padded_tokens=99)
    built = build_compressor(options, Ranks(), None, reader, reader_tokenizer())
    assert built is not None
    expected = sum(parameter.numel() for _, parameter in built[0].own_named_parameters())
    assert count_weights(options, None, reader.model.config) == expected
