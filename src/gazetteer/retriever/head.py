"""The linear head of a tower: it projects what was pooled, before that is normalised.

On disk it is the `Dense` module of sentence-transformers, which then reads it as it lies there.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gazetteer.errors import CheckpointError, OptionError
from gazetteer.files import replace_json

HEAD_FOLDER = "head"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
IDENTITY = "torch.nn.modules.linear.Identity"
WEIGHT, BIAS = "linear.weight", "linear.bias"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewHead:
    """A head for a retriever that has none (`--add_linear_head`).

    Attributes:
        input_dim: None = the model's width, which is all it can be.
        output_dim: of the embeddings; None = the model's width.
        seed: fixes its weights, on every rank alike.
    """

    input_dim: int | None = None
    output_dim: int | None = None
    seed: int = 0

    def make(self, width: int) -> nn.Linear:
        """The head for a model of that width, without bias.

        Source:
            Weights as `nn.Linear` begins with them.

        Raises:
            OptionError: it is for a model of another width.
        """
        if self.input_dim not in (None, width):
            raise OptionError(f"--projection_in_dim ({self.input_dim}) must be the model's {width}")
        head = nn.Linear(width, self.output_dim or width, bias=False)
        generator = torch.Generator().manual_seed(self.seed)
        nn.init.kaiming_uniform_(head.weight, a=math.sqrt(5), generator=generator)
        return head

    def require_fit(self, head: nn.Linear, where: str) -> None:
        """Raise OptionError unless a head that exists already is of the size asked for."""
        pairs = {
            "projection_in_dim": (self.input_dim, head.in_features),
            "projection_out_dim": (self.output_dim, head.out_features),
        }
        for flag, (asked, found) in pairs.items():
            if asked not in (None, found):
                raise OptionError(
                    f"--{flag} is {asked}, but the linear head of {where} has {found}"
                )


def save_head(head: nn.Linear, tower_folder: Path) -> None:
    """Write a head beside the weights of its tower."""
    folder = tower_folder / HEAD_FOLDER
    folder.mkdir(exist_ok=True)
    tensors = {f"linear.{name}": tensor for name, tensor in head.state_dict().items()}
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS
    )
    document = {
        "in_features": head.in_features,
        "out_features": head.out_features,
        "bias": head.bias is not None,
        "activation_function": IDENTITY,
    }
    replace_json(folder / CONFIG, document)


def load_head(tower_folder: Path) -> nn.Linear:
    """Read what `save_head` wrote.

    Raises:
        CheckpointError: it is missing, damaged, or more than linear.
    """
    folder = tower_folder / HEAD_FOLDER
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the linear head is not readable ({error})") from None
    if config.get("activation_function") != IDENTITY or config.get("use_residual"):
        raise CheckpointError(f"{folder}: not a linear head ({config})")
    return head_of(tensors, str(folder))


def head_of(tensors: dict[str, Tensor], where: str) -> nn.Linear:
    """A head of its tensors, `linear.weight` and perhaps `linear.bias`.

    Raises:
        CheckpointError: they are others.
    """
    weight, bias = tensors.get(WEIGHT), tensors.get(BIAS)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or tensors.keys() - {WEIGHT, BIAS}:
        raise CheckpointError(
            f"{where}: expected {WEIGHT} of a linear head, found {sorted(tensors)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise CheckpointError(f"{where}: {BIAS} does not fit {WEIGHT} of {list(weight.shape)}")
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    head.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return head
