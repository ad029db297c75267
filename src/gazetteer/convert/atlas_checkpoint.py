"""Atlas's `model.pth.tar`: which tensor is which part of which model, and the options it knew.

Layout: a dict with "step", "model" (a flat state dict), optimisers, schedulers and "opt". Names
are `reader.*` as in T5, and `retriever.contriever.*` (tied), or `retriever.query_contriever.*`
and `retriever.passage_contriever.*` as in BERT; sharded runs put a `module.` in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gazetteer.convert.checkpoint_pickle import Namespace
from gazetteer.convert.saved_tensors import SavedTensor, open_saved_state
from gazetteer.errors import CheckpointError
from gazetteer.files import MANIFEST

ATLAS_FILE = "model.pth.tar"
READER, TIED = "reader", "retriever.contriever"
QUERY, PASSAGE = "retriever.query_contriever", "retriever.passage_contriever"
PARTS = (READER, TIED, QUERY, PASSAGE)
PLAIN_TYPES = (str, int, float, bool, type(None))
OPTIMISERS = ("optimizer", "retr_optimizer")


@dataclass(frozen=True, slots=True, kw_only=True)
class AtlasCheckpoint:
    """What a file of Atlas holds; no tensor is read yet.

    Attributes:
        path: the file.
        step: training step it was saved at.
        options: Atlas's options of that run, those that are plain values or lists of them.
        parts: for "reader", "retriever.contriever" and so on, tensors by transformers' names.
        has_optimisers: whether it holds the state of an optimiser.
    """

    path: Path
    step: int
    options: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, SavedTensor]]
    has_optimisers: bool

    @property
    def has_reader(self) -> bool:
        """Whether there is a reader in it."""
        return READER in self.parts

    @property
    def has_retriever(self) -> bool:
        """Whether there is a retriever in it, tied or not."""
        return TIED in self.parts or QUERY in self.parts


def atlas_file(source: Path) -> Path | None:
    """Atlas's checkpoint that a path names: the file itself or its folder; else None."""
    if source.is_file():
        return source
    is_ours = (source / MANIFEST).exists()
    return source / ATLAS_FILE if not is_ours and (source / ATLAS_FILE).is_file() else None


def open_atlas_checkpoint(path: Path) -> AtlasCheckpoint:
    """Find out what a checkpoint of Atlas holds. Nothing in it is run.

    Args:
        path: the file.

    Raises:
        CheckpointError: it is damaged, or none of Atlas's.
    """
    saved = open_saved_state(path)
    content = saved.content
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(model, dict):
        raise CheckpointError(f"{path}: no checkpoint of Atlas (no dict with the key 'model')")
    parts: dict[str, dict[str, SavedTensor]] = {}
    for name, described in model.items():
        part, inner = _split(name, path)
        tensors = parts.setdefault(part, {})
        if inner in tensors:
            raise CheckpointError(f"{path}: {name!a} is there twice, with and without 'module.'")
        tensors[inner] = saved.tensors.locate(str(name), described)
    if not parts:
        raise CheckpointError(f"{path}: its model has no weights")
    if (QUERY in parts) != (PASSAGE in parts) or (TIED in parts and QUERY in parts):
        found = ", ".join(sorted(parts.keys() - {READER}))
        raise CheckpointError(f"{path}: expected one retriever, tied or untied; found {found}")
    opt = content.get("opt")
    step = content.get("step")
    return AtlasCheckpoint(
        path=path,
        step=step if type(step) is int and step >= 0 else 0,
        options=_plain_options(opt.fields if isinstance(opt, Namespace) else {}),
        parts=parts,
        has_optimisers=any(content.get(name) is not None for name in OPTIMISERS),
    )


def _split(name: object, path: Path) -> tuple[str, str]:
    if isinstance(name, str):
        plain = ".".join(piece for piece in name.split(".") if piece != "module")
        for part in PARTS:
            if plain.startswith(f"{part}."):
                return part, plain.removeprefix(f"{part}.")
    expected = ", ".join(f"{part}.*" for part in PARTS)
    raise CheckpointError(f"{path}: unknown key {name!a} in its model, expected {expected}")


def _plain_options(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in fields.items()
        if isinstance(name, str)
        and (
            isinstance(value, PLAIN_TYPES)
            or (isinstance(value, list) and all(isinstance(v, PLAIN_TYPES) for v in value))
        )
    }
