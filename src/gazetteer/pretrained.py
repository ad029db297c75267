"""What all loading of encoders has in common: dropout set, no layer unused, no weight missing."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from safetensors import SafetensorError


def set_dropout(config: Any, dropout: float) -> None:  # noqa: ANN401 - each type has its own
    """Replace every dropout of a config: types have names of their own, some read in a forward."""
    for name, value in config.to_dict().items():
        if "dropout" in name and isinstance(value, float):
            setattr(config, name, dropout)


def unused_layers(kind: Any) -> dict[str, bool]:  # noqa: ANN401
    """What leaves out the layer that some classes have above the token states."""
    takes_layer = "add_pooling_layer" in inspect.signature(kind).parameters
    return {"add_pooling_layer": False} if takes_layer else {}


def load_whole(kind: Any, source: str, config: Any, attention: str) -> Any:  # noqa: ANN401
    """A model of a class in float32, without its unused layers.

    Raises:
        OSError, ValueError: nothing there, or weights that the class needs are not.
    """
    try:
        model, keys = kind.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            attn_implementation=attention,
            output_loading_info=True,
            **unused_layers(kind),
        )
    except SafetensorError as error:
        raise ValueError(f"a file of its weights is damaged: {error}") from None
    if keys["missing_keys"]:
        missing = sorted(keys["missing_keys"])
        raise ValueError(f"it lacks {len(missing)} weights, {missing[0]} for one")
    return model
