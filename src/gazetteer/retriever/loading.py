"""Retrievers from disk or hub, and back: the one way in, whatever lies under a name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoTokenizer,
    MT5Config,
    PreTrainedTokenizerBase,
    T5Config,
    UMT5Config,
)

from gazetteer.adapters import load_adapters, save_model
from gazetteer.errors import CheckpointError
from gazetteer.pretrained import load_whole, set_dropout, unused_layers
from gazetteer.retriever.dual_encoder import DualEncoder
from gazetteer.retriever.encoder import FIRST_DECODER_TOKEN, EmbeddingBatch, Pooling, TextEncoder
from gazetteer.retriever.head import NewHead, save_head
from gazetteer.retriever.openmatch import is_openmatch, read_openmatch
from gazetteer.retriever.sentence_files import describe_for_sentence_transformers
from gazetteer.retriever.sources import (
    PASSAGE_FOLDER,
    QUERY_FOLDER,
    Source,
    own_source,
    write_note,
)
from gazetteer.retriever.ways import Asked, PoolingName, settle

T5_CONFIGS = (T5Config, MT5Config, UMT5Config)
Attention = Literal["eager", "sdpa"]
Fill = Callable[[nn.Module], None]
"""Sets every weight of a model."""


def load_retriever(
    name_or_folder: str,
    *,
    pooling: PoolingName,
    normalize: bool,
    dropout: float,
    dtype: torch.dtype,
    batch: EmbeddingBatch,
    attention: Attention = "eager",
    fills: Sequence[Fill] | None = None,
    encoder_only: bool = False,
    new_head: NewHead | None = None,
    takes_suggestions: bool = True,
) -> tuple[DualEncoder, PreTrainedTokenizerBase]:
    """Load a retriever and its tokenizer.

    Args:
        name_or_folder: hub name, a folder written by `save_pretrained`, by `save_retriever`, by
            sentence-transformers or by OpenMatch.
        pooling: how token states become one embedding; what was noted on saving comes first. Of a
            T5 the first token of its decoder is taken, unless `encoder_only`.
        normalize: scale embeddings to length 1; what was noted comes first.
        dropout: replaces the model's own dropout everywhere.
        dtype: weights are cast to it.
        batch: limits of one encoder call.
        attention: implementation inside transformers. On a CPU "eager" is up to a third faster:
            "sdpa" multiplies many small blocks, each at the price of a large one.
        fills: give towers made of the config alone their weights: one for tied towers, or query's
            and passage's; None reads those that lie under the name.
        encoder_only: leave T5's decoder out, and pool the states of its encoder.
        new_head: a linear head, if the retriever has none yet.
        takes_suggestions: use a folder of sentence-transformers as it does, where `pooling` and
            `normalize` ask for nothing else.

    Raises:
        CheckpointError: nothing usable under that name; the message says what was missing.
        OptionError: a flag asks for something else than the retriever was saved with.
    """
    asked = Asked(
        pooling=pooling,
        normalize=normalize,
        encoder_only=encoder_only,
        new_head=new_head,
        takes_suggestions=takes_suggestions,
    )

    def tower(number: int, fill: Fill | None) -> TextEncoder:
        name = source.towers[min(number, len(source.towers) - 1)]
        model = _load_model(name, way.pooling, dropout, attention, fill)
        head = copy.deepcopy(way.heads[min(number, len(way.heads) - 1)]) if way.heads else None
        made = TextEncoder(model, pooling=way.pooling, normalize=way.normalize, head=head)
        if fill is None:
            load_adapters(made.model, Path(name))
        return made.to(dtype)

    try:
        source = find_source(name_or_folder)
        config = encoder_config(source.towers[0])
        way = settle(
            asked, source, name_or_folder, is_t5=is_t5(config), width=int(config.hidden_size)
        )
        tokenizer = AutoTokenizer.from_pretrained(source.tokenizer)
        fill_each = fills or [None] * len(source.towers)
        towers = [tower(number, fill) for number, fill in enumerate(fill_each)]
    except (OSError, ValueError) as error:
        raise _cannot_load(name_or_folder, error) from error
    return DualEncoder(towers[0], towers[-1], batch), tokenizer


def tower_on_meta(
    name_or_folder: str,
    asked: Asked,
    *,
    attention: Attention = "eager",
    dropout: float | None = None,
) -> TextEncoder:
    """The query tower as `load_retriever` would give it, without weights: to count, to measure.

    Args:
        name_or_folder: as `load_retriever` takes it.
        asked: likewise.
        attention: likewise.
        dropout: likewise; None leaves the model's own.

    Raises:
        CheckpointError, OptionError: as `load_retriever` does.
    """
    try:
        source = find_source(name_or_folder)
        config = encoder_config(source.towers[0])
        way = settle(
            asked, source, name_or_folder, is_t5=is_t5(config), width=int(config.hidden_size)
        )
        kind = _model_class(config, way.pooling)
        if dropout is not None:
            set_dropout(config, dropout)
        with torch.device("meta"):
            model = kind._from_config(config, attn_implementation=attention, **unused_layers(kind))
    except (OSError, ValueError) as error:
        raise _cannot_load(name_or_folder, error) from error
    head = way.heads[0] if way.heads else None
    return TextEncoder(model, pooling=way.pooling, normalize=way.normalize, head=head)


def find_source(name_or_folder: str) -> Source:
    """The parts of what lies under a name; no weights are read but those of a head.

    Raises:
        CheckpointError: what is noted there is damaged, or cannot be used.
    """
    folder = Path(name_or_folder)
    return read_openmatch(folder) if is_openmatch(folder) else own_source(name_or_folder)


def encoder_config(source: str) -> Any:  # noqa: ANN401 - each type of model has its own class
    """The config under a name.

    Raises:
        OSError, ValueError: nothing there, or no encoder.
    """
    config = AutoConfig.from_pretrained(source)
    # Encoders are what masked tokens are guessed with; BART has a decoder besides.
    has_decoder = getattr(config, "is_encoder_decoder", False)
    is_encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not has_decoder
    if not is_encoder and not is_t5(config):
        raise ValueError(
            f"it is a {config.model_type}, expected an encoder such as BERT, or a T5 "
            "(--retriever_model_path)"
        )
    return config


def is_t5(config: object) -> bool:
    """Whether a config is one of T5 (v1.0, v1.1, flan, ..), mT5 or umT5."""
    return isinstance(config, T5_CONFIGS)


def _model_class(config: Any, pooling: Pooling) -> Any:  # noqa: ANN401
    """What makes the states that are pooled.

    Raises:
        ValueError: that takes a decoder, and there is none.
    """
    if not is_t5(config):
        return MODEL_MAPPING[type(config)]
    if pooling != FIRST_DECODER_TOKEN:
        return MODEL_FOR_TEXT_ENCODING_MAPPING[type(config)]
    if not config.is_encoder_decoder:
        raise ValueError(f"it is the encoder of a {config.model_type} alone (--encoder_only)")
    return MODEL_MAPPING[type(config)]


def _load_model(
    source: str, pooling: Pooling, dropout: float, attention: Attention, fill: Fill | None
) -> Any:  # noqa: ANN401
    """The model in float32."""
    config = encoder_config(source)
    set_dropout(config, dropout)
    kind = _model_class(config, pooling)
    if fill is None:
        model = load_whole(kind, source, config, attention)
    else:
        model = kind._from_config(
            config, attn_implementation=attention, **unused_layers(kind)
        ).eval()
        fill(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return model


def _cannot_load(name: str, error: Exception) -> CheckpointError:
    return CheckpointError(f"retriever '{name}' cannot be loaded: {str(error).splitlines()[0]}")


def save_retriever(
    retriever: DualEncoder, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write both towers (one folder when tied), configs and tokenizer, and how they embed.

    Weights have adapters in them; `load_retriever` takes them apart again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_note(retriever.query_tower, folder)
    if retriever.is_tied:
        _save_tower(retriever.query_tower, tokenizer, folder)
        return
    _save_tower(retriever.query_tower, tokenizer, folder / QUERY_FOLDER)
    _save_tower(retriever.passage_tower, tokenizer, folder / PASSAGE_FOLDER)


def _save_tower(tower: TextEncoder, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    save_model(tower.model, folder)
    tokenizer.save_pretrained(folder)
    if tower.head is not None:
        save_head(tower.head, folder)
    describe_for_sentence_transformers(tower, folder)
