"""Options -> the compressor: what it is like, from flags or from a checkpoint, and its inputs."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from gazetteer.build_retriever import PADDED_TOKENS
from gazetteer.compressor import Compressor, CompressorSettings, load_compressor
from gazetteer.compressor.backbones import (
    encoder_on_meta,
    first_layers,
    load_backbone,
    own_encoder,
    positions,
    read_config,
    shortened,
)
from gazetteer.compressor.saving import BACKBONE_FOLDER, make_compressor
from gazetteer.compressor_options import DEFAULT_FORMAT, DEFAULT_VECTORS, NEEDS_COMPRESSOR
from gazetteer.data.templates import PassageTemplate
from gazetteer.errors import OptionError
from gazetteer.flags import all_flags
from gazetteer.options import Options
from gazetteer.reader import FusionReader, Reader
from gazetteer.reader.loading import enable_gradient_checkpointing
from gazetteer.records import Ranks

logger = logging.getLogger(__name__)

COMPRESSOR_FOLDER = "compressor"


def build_compressor(
    options: Options,
    ranks: Ranks,
    checkpoint: Path | None,
    reader: Reader,
    reader_tokenizer: PreTrainedTokenizerBase,
) -> tuple[Compressor, PreTrainedTokenizerBase] | None:
    """The compressor and its tokenizer, on this rank's device; None for whole passages.

    A checkpoint's goes on, unless flags ask for none; without one it begins as flags say.

    Raises:
        CheckpointError: it cannot be loaded.
        OptionError: a flag asks for something else than the checkpoint holds, or than the reader
            can do with.
    """
    folder = saved_folder(options, checkpoint)
    settings = settle(options, folder)
    if settings is None:
        return None
    _require_question(options, settings, reader)
    if folder is not None:
        made, tokenizer = load_compressor(
            folder,
            settings,
            reader=reader.model,
            reader_tokenizer=reader_tokenizer,
            reader_width=reader.width,
            dropout=options.optimisation.dropout,
            attention=_attention(ranks),
            max_padded_tokens=PADDED_TOKENS[ranks.device.type],
        )
    else:
        made, tokenizer = _new(options, ranks, settings, reader, reader_tokenizer)
    require_fit(options, settings, made)
    if options.optimisation.use_gradient_checkpoint_reader and not made.is_shared:
        enable_gradient_checkpointing(made.backbone)  # type: ignore[arg-type]
    for line in describe(settings):
        logger.info("%s", line)
    for line in rate_warnings(options, settings):
        logger.warning("%s", line)
    return made.to(ranks.device), tokenizer


def saved_folder(options: Options, checkpoint: Path | None) -> Path | None:
    """The compressor of a checkpoint, if it has one that flags do not switch off."""
    folder = checkpoint / COMPRESSOR_FOLDER if checkpoint else None
    is_used = folder is not None and folder.is_dir() and options.compressor.compressor != "none"
    return folder if is_used else None


def settle(options: Options, folder: Path | None) -> CompressorSettings | None:
    """What the compressor is, by its folder or by flags; None where there is none.

    Raises:
        CheckpointError, OptionError: as `build_compressor` does.
    """
    if folder is not None:
        saved = CompressorSettings.load(folder)
        settings = saved_settings(options, saved)
    elif options.compressor.compressor in (None, "none"):
        _refuse_what_needs_one(options)
        return None
    else:
        saved = settings = new_settings(options)
    _require_relevance(options, saved)
    return settings


def count_weights(
    options: Options,
    checkpoint: Path | None,
    reader_config: Any,  # noqa: ANN401
) -> int | None:
    """How many weights are the compressor's own; None without one. None are loaded.

    Raises:
        CheckpointError, OptionError: as `build_compressor` does.
    """
    folder = saved_folder(options, checkpoint)
    settings = settle(options, folder)
    if settings is None:
        return None
    width = reader_width = reader_config.hidden_size
    count = 0
    if settings.kind != "pool":
        asked = options.compressor
        config = shortened(reader_config, asked.compressor_layers)
        if folder is not None or settings.kind == "encoder":
            name = str(folder / BACKBONE_FOLDER) if folder else asked.compressor_model_path
            config = read_config(name or "")
        model, width = encoder_on_meta(config), config.hidden_size
        count = sum(parameter.numel() for parameter in model.parameters())
    if settings.kind == "encoder":
        # Two layers with their biases, see `new_mapping`.
        count += (width + 1) * 2 * reader_width + (2 * reader_width + 1) * reader_width
    if settings.pooling == "memory":
        count += settings.vectors * width
    return count


def _new(
    options: Options,
    ranks: Ranks,
    settings: CompressorSettings,
    reader: Reader,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[Compressor, PreTrainedTokenizerBase]:
    if settings.kind == "encoder":
        name = options.compressor.compressor_model_path
        assert name is not None, "option rules require it"
        backbone, tokenizer = load_backbone(
            name, dropout=options.optimisation.dropout, attention=_attention(ranks)
        )
    elif settings.kind == "n_layers":
        backbone = first_layers(reader.model, options.compressor.compressor_layers)
    else:
        backbone = own_encoder(reader.model)
    made = make_compressor(
        backbone,
        settings,
        reader_width=reader.width,
        dtype=reader.model.dtype,
        max_padded_tokens=PADDED_TOKENS[ranks.device.type],
    )
    return made, tokenizer


def new_settings(options: Options) -> CompressorSettings:
    """What flags say of a new compressor."""
    asked = options.compressor
    assert asked.compressor not in (None, "none")
    vectors, rate = asked.num_memory_tokens, asked.compression_rate
    most = asked.compressor_maxlength or options.reader.text_maxlength
    if vectors is None:
        vectors = DEFAULT_VECTORS if rate is None else math.ceil(most / rate)
    is_fixed = asked.num_memory_tokens is not None
    return CompressorSettings(
        kind=asked.compressor,  # type: ignore[arg-type]
        pooling=asked.compressor_pooling or "memory",
        vectors=vectors,
        rate=None if is_fixed else rate,
        format=asked.compressor_format or DEFAULT_FORMAT,
        max_tokens=most,
        max_passage_tokens=round(vectors * rate) if is_fixed and rate is not None else None,
        has_relevance=asked.rerank_target != "none",
    )


def saved_settings(options: Options, saved: CompressorSettings) -> CompressorSettings:
    """A checkpoint's settings, with what flags may change: inputs, and vectors without weights.

    Raises:
        OptionError: a flag asks for what these weights are not.
    """
    asked = options.compressor
    for name, here, there in (
        ("compressor", asked.compressor, saved.kind),
        ("compressor_pooling", asked.compressor_pooling, saved.pooling),
    ):
        if here is not None and here != there:
            raise OptionError(f"--{name} ({here}) must be {there}, as in the checkpoint")
    vectors, rate = asked.num_memory_tokens, asked.compression_rate
    changed = replace(
        saved,
        format=asked.compressor_format or saved.format,
        max_tokens=asked.compressor_maxlength or saved.max_tokens,
        has_relevance=saved.has_relevance or asked.rerank_target != "none",
    )
    if vectors is None and rate is None:
        return changed
    merged = new_settings(_with_kind(options, saved))
    changed = replace(
        changed,
        vectors=merged.vectors,
        rate=merged.rate,
        max_passage_tokens=merged.max_passage_tokens,
    )
    if saved.pooling == "memory" and changed.vectors != saved.vectors:
        raise OptionError(
            f"--num_memory_tokens, --compression_rate: they ask for {changed.vectors} memory"
            f" tokens, the checkpoint has {saved.vectors}"
        )
    return changed


def _with_kind(options: Options, saved: CompressorSettings) -> Options:
    asked = options.compressor
    length = asked.compressor_maxlength or saved.max_tokens
    return replace(
        options,
        compressor=replace(asked, compressor=saved.kind, compressor_maxlength=length),
    )


def _refuse_what_needs_one(options: Options) -> None:
    flags = all_flags(Options)
    for name in NEEDS_COMPRESSOR:
        value = getattr(options.compressor, name)
        if value != flags[name].default:
            raise OptionError(f"--{name} ({value}) must come with --compressor")


def _require_question(options: Options, settings: CompressorSettings, reader: Reader) -> None:
    """What fuses passages in its decoder sees the question in them alone.

    Raises:
        OptionError: it would see it nowhere.
    """
    has_question = PassageTemplate.parse(settings.format).has_query
    if has_question or options.reader.decoder_prompt_format is not None:
        return
    if isinstance(reader, FusionReader):
        raise OptionError(
            f"--compressor_format ({settings.format}) must use {{query}}, or come with a"
            " --decoder_prompt_format that does: else the reader never sees the question"
        )


def require_fit(options: Options, settings: CompressorSettings, made: Compressor) -> None:
    """Refuse what the backbone is not: longer than its positions, or of other layers."""
    config: Any = made.backbone.config
    longest, learned = positions(config), settings.learned_tokens
    if longest is not None and settings.max_tokens + learned > longest:
        raise OptionError(
            f"--compressor_maxlength ({settings.max_tokens}) must be at most {longest - learned}:"
            f" the compressor has {longest} positions, and {learned} are for learned tokens"
        )
    asked, there = options.compressor.compressor_layers, config.num_hidden_layers
    if settings.kind == "n_layers" and asked not in (None, there):
        raise OptionError(f"--compressor_layers ({asked}) must be {there}, as in the checkpoint")


def _require_relevance(options: Options, settings: CompressorSettings) -> None:
    """Refuse to order passages by what nothing ever taught."""
    learns = bool(options.data.train_data) and options.compressor.rerank_target != "none"
    count = options.compressor.rerank_by_compressor
    if count and not settings.has_relevance and not learns:
        raise OptionError(
            f"--rerank_by_compressor ({count}) must come with a compressor that was trained with"
            " --rerank_target"
        )


def describe(settings: CompressorSettings) -> Iterator[str]:
    """What is made of a passage, for the log and for `--dry_run`."""
    asks = PassageTemplate.parse(settings.format).has_query
    how = "with its query" if asks else "without its query"
    if settings.rate is None:
        count = f"{settings.vectors} vectors each"
    else:
        count = f"a vector for {settings.rate:g} tokens, {settings.vectors} at most"
    yield f"compressor: {settings.kind}, {settings.pooling}: a passage {how}, {count}"


def rate_warnings(options: Options, settings: CompressorSettings) -> Iterator[str]:
    """Where vectors x rate is not the length that passages may have."""
    vectors, rate = options.compressor.num_memory_tokens, options.compressor.compression_rate
    if vectors is None or rate is None:
        return
    length = vectors * rate
    if length > settings.max_tokens:
        yield (
            f"--num_memory_tokens ({vectors}) x --compression_rate ({rate:g}) is {length:g} tokens,"
            f" of which the compressor reads {settings.max_tokens} at most, query included"
            " (--compressor_maxlength, --text_maxlength): the rate achieved is lower"
        )


def _attention(ranks: Ranks) -> str:
    return "eager" if ranks.device.type == "cpu" else "sdpa"
