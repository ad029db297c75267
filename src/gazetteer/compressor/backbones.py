"""Models that compress: the reader's first layers, its own encoder, or a model of its own.

All are called alike, with `inputs_embeds` and `attention_mask`, through their own forward: of a
decoder with rotary positions no layer can be called by hand.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
)

from gazetteer.adapters import has_adapters, without_adapters
from gazetteer.errors import CheckpointError, OptionError
from gazetteer.pretrained import load_whole, set_dropout, unused_layers


def first_layers(model: PreTrainedModel, layers: int | None) -> PreTrainedModel:
    """The first layers of a T5's encoder or of a decoder, as a model of its own.

    Weights are copied, embeddings and last norm included: the copy learns at a rate of its own, and
    is saved as any model is.

    Args:
        model: T5 with its heads, or a causal language model; of adapters the sum is copied.
        layers: how many; None: a quarter, rounded up.

    Raises:
        OptionError: it has not so many.
    """
    config = shortened(model.config, layers)
    kind = _encoder_class(config)
    made = kind._from_config(config, attn_implementation=model.config._attn_implementation)
    source = _base(without_adapters(model) if has_adapters(model) else model).state_dict()
    made.load_state_dict({name: source[name] for name in made.state_dict()})
    return made


def shortened(config: Any, layers: int | None) -> Any:  # noqa: ANN401 - each type has its own
    """The config of a model of so many of its layers; None: a quarter, rounded up.

    Raises:
        OptionError: it has not so many.
    """
    there: int = config.num_hidden_layers
    wanted = -(-there // 4) if layers is None else layers
    if wanted > there:
        raise OptionError(f"--compressor_layers ({wanted}) must be at most {there}, the reader's")
    changed = copy.deepcopy(config)
    changed.num_hidden_layers = wanted
    if getattr(changed, "layer_types", None):
        changed.layer_types = changed.layer_types[:wanted]
    return changed


def encoder_on_meta(
    config: Any,  # noqa: ANN401
    *,
    dropout: float | None = None,
    attention: str = "eager",
) -> PreTrainedModel:
    """A model without weights: to count, to measure.

    Args:
        config: of any encoder; changed where there is a dropout.
        dropout: as `load_backbone` takes it; None leaves the model's own.
        attention: likewise.

    Raises:
        ValueError: a config of something that encodes nothing.
    """
    kind = _encoder_class(config)
    if dropout is not None:
        set_dropout(config, dropout)
    with torch.device("meta"):
        return kind._from_config(config, attn_implementation=attention, **unused_layers(kind))


def own_encoder(model: PreTrainedModel) -> PreTrainedModel:
    """The part of a reader that reads passages: T5's encoder, or the whole decoder without head."""
    is_t5 = model.config.is_encoder_decoder
    return cast(PreTrainedModel, model.get_encoder()) if is_t5 else _base(model)


def read_config(name_or_folder: str) -> Any:  # noqa: ANN401
    """The config of what can compress.

    Raises:
        CheckpointError: nothing usable under that name.
    """
    try:
        config = AutoConfig.from_pretrained(name_or_folder)
        _encoder_class(config)
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load(name_or_folder, error) from error
    return config


def load_backbone(
    name_or_folder: str, *, dropout: float, attention: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An encoder such as BERT or ModernBERT, the encoder of a T5, or a decoder without its head.

    Raises:
        CheckpointError: nothing usable under that name; the message says what was missing.
    """
    config = read_config(name_or_folder)
    try:
        set_dropout(config, dropout)
        model = load_whole(_encoder_class(config), name_or_folder, config, attention)
        tokenizer = AutoTokenizer.from_pretrained(name_or_folder)
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load(name_or_folder, error) from error
    return model, tokenizer


def _cannot_load(name: str, error: Exception) -> CheckpointError:
    reason = str(error).splitlines()[0]
    return CheckpointError(
        f"compressor '{name}' cannot be loaded: {reason} (--compressor_model_path)"
    )


def new_mapping(width: int, reader_width: int) -> nn.Module:
    """Two layers into the reader's width.

    Source: OSCAR, whose hidden layer is about twice as wide as its reader.
    """
    hidden = 2 * reader_width
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, reader_width))


def positions(config: Any) -> int | None:  # noqa: ANN401
    """How long a sequence may be; None where positions are relative."""
    count = getattr(config, "max_position_embeddings", None)
    # RoBERTa counts from behind the number of its padding token.
    is_shifted = "roberta" in config.model_type or config.model_type == "camembert"
    return count if count is None or not is_shifted else count - config.pad_token_id - 1


def _base(model: PreTrainedModel) -> PreTrainedModel:
    """The model below the head; T5 with its heads stands for itself."""
    return cast(PreTrainedModel, model.base_model)


def _encoder_class(config: Any) -> Any:  # noqa: ANN401 - each type of model has its own
    """What makes the states.

    Raises:
        ValueError: no such class.
    """
    if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        return MODEL_FOR_TEXT_ENCODING_MAPPING[type(config)]
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"it is a {config.model_type}, expected an encoder, a T5 or a decoder")
    return MODEL_MAPPING[type(config)]
