"""OpenMatch's folders, read and written.

Tied: one folder with the model of transformers, and of a linear head `linear.pt` and
`head_config.json`. Untied: `query_model/` and `passage_model/`, `query_head/` and `passage_head/`.
`openmatch_config.json` says which, and how vectors are made. Pickled tensors are read by torch's
`weights_only` reader, which runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from gazetteer.errors import CheckpointError
from gazetteer.files import replace_json
from gazetteer.retriever.dual_encoder import DualEncoder
from gazetteer.retriever.encoder import FIRST_DECODER_TOKEN, Pooling, TextEncoder
from gazetteer.retriever.head import head_of
from gazetteer.retriever.sources import Noted, Source

CONFIG = "openmatch_config.json"
HEAD, HEAD_CONFIG = "linear.pt", "head_config.json"
TOWERS = ("query_model", "passage_model")
HEADS = ("query_head", "passage_head")
FEATURE = "last_hidden_state"
POOLINGS: Mapping[str, Pooling] = {"first": "cls", "mean": "mean"}


def is_openmatch(folder: Path) -> bool:
    """Whether OpenMatch saved a retriever there."""
    return (folder / CONFIG).is_file()


def read_openmatch(folder: Path) -> Source:
    """What OpenMatch saved, as the parts of a retriever of ours.

    Raises:
        CheckpointError: it is damaged, or embeds in a way we have not.
    """
    path = folder / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        is_tied, has_head = config["tied"], config["linear_head"]
        noted = Noted(_pooling(config, path), bool(config["normalize"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not readable ({error})") from None
    towers = (folder,) if is_tied else tuple(folder / name for name in TOWERS)
    heads = (folder,) if is_tied else tuple(folder / name for name in HEADS)
    return Source(
        towers=tuple(map(str, towers)),
        tokenizer=str(folder),
        noted=noted,
        heads=tuple(map(_read_head, heads)) if has_head else (),
    )


def _pooling(config: Mapping[str, Any], path: Path) -> Pooling:
    """OpenMatch's pooling in our words; with a decoder its only state is taken, whatever it says.

    Raises:
        CheckpointError: we have it not.
    """
    backbone = config["plm_backbone"]
    types = [backbone[name] for name in ("type", "lm_q_type", "lm_p_type") if name in backbone]
    feature, pooling = backbone["feature"], config["pooling"]
    if not types or len(set(types)) > 1 or feature != FEATURE or config.get("layernorm"):
        raise CheckpointError(
            f"{path}: towers of one type with {FEATURE} and no layer norm can be read, this has "
            f"{backbone}, layernorm {config.get('layernorm')}"
        )
    if "T5" in types[0] and not types[0].endswith("EncoderModel"):
        return FIRST_DECODER_TOKEN
    if pooling not in POOLINGS:
        raise CheckpointError(
            f"{path}: pooling is {pooling}, which gives no single vector; expected one of "
            f"{', '.join(POOLINGS)}"
        )
    return POOLINGS[pooling]


def _read_head(folder: Path) -> nn.Linear:
    path = folder / HEAD
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Whatever a damaged file, or one that would run something, causes.
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: the linear head is not readable ({reason})") from None
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{path}: expected tensors by name, found {type(tensors).__name__}")
    return head_of(tensors, str(path))


def write_openmatch(
    retriever: DualEncoder, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write a retriever as OpenMatch does.

    Args:
        retriever: any but those with pooling "sqrt".
        tokenizer: goes to the folder itself, tied or not.
        folder: exists.

    Raises:
        CheckpointError: OpenMatch cannot pool like it.
    """
    towers = (retriever.query_tower, retriever.passage_tower)
    pooling = {ours: theirs for theirs, ours in POOLINGS.items()} | {FIRST_DECODER_TOKEN: "first"}
    tower = towers[0]
    if tower.pooling not in pooling:
        raise CheckpointError(f"OpenMatch has no pooling {tower.pooling}: {', '.join(POOLINGS)}")
    kinds = [type(tower.model).__name__ for tower in towers]
    backbone = {"type": kinds[0]}
    model_folders, head_folders = [folder], [folder]
    if not retriever.is_tied:
        backbone = {"lm_q_type": kinds[0], "lm_p_type": kinds[1]}
        model_folders = [folder / name for name in TOWERS]
        head_folders = [folder / name for name in HEADS]
    for each, models, heads in zip(towers, model_folders, head_folders, strict=False):
        each.model.save_pretrained(models)
        _write_head(each, heads)
    tokenizer.save_pretrained(folder)
    document = {
        "tied": retriever.is_tied,
        "plm_backbone": {**backbone, "feature": FEATURE},
        "pooling": pooling[tower.pooling],
        "linear_head": tower.head is not None,
        "normalize": tower.normalize,
        # Written by later versions, and asked for by them.
        "layernorm": False,
    }
    replace_json(folder / CONFIG, document)


def _write_head(tower: TextEncoder, folder: Path) -> None:
    head = tower.head
    if head is None:
        return
    folder.mkdir(exist_ok=True)
    tensors = {f"linear.{name}": tensor.cpu() for name, tensor in head.state_dict().items()}
    torch.save(tensors, folder / HEAD)
    sizes = {"input_dim": head.in_features, "output_dim": head.out_features}
    replace_json(folder / HEAD_CONFIG, sizes | ({} if head.bias is None else {"bias": True}))
