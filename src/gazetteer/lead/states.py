"""Token states of every transformer layer, recorded while a model computes something else."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(slots=True)
class RecordedStates:
    """What a model's layers gave in its last call, lowest layer first.

    Attributes:
        layers: each (text, token, dim), with gradient; the embeddings below are left out.
    """

    layers: tuple[Tensor, ...] = field(default=())

    def chosen(self, layers: Sequence[int]) -> list[Float[Tensor, "text token dim"]]:
        """The layers of these numbers."""
        return [self.layers[number] for number in layers]


@contextmanager
def record_states(model: PreTrainedModel) -> Iterator[RecordedStates]:
    """Keep the states of each call of `model` while the context is open.

    Works for any model of transformers, whoever calls it. Of one with a decoder, it is the
    decoder's layers that are kept.
    """
    recorded = RecordedStates()
    forward = model.forward

    @functools.wraps(forward)
    def keeping(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - as the model's own
        output = forward(*arguments, **named | {"output_hidden_states": True, "return_dict": True})
        states = getattr(output, "decoder_hidden_states", None) or output.hidden_states
        recorded.layers = tuple(states[1:])
        return output

    # An attribute of the object stands before the method of its class. Not a hook: those are passed
    # by where `forward` is called by its name, as sentence-transformers does.
    model.forward = keeping
    try:
        yield recorded
    finally:
        del model.forward


def layer_count(model: PreTrainedModel) -> int:
    """How many layers `record_states` finds; the decoder's where there is one."""
    config = model.config
    if hasattr(model, "decoder"):
        return int(getattr(config, "num_decoder_layers", None) or config.num_hidden_layers)
    return int(config.num_hidden_layers)
