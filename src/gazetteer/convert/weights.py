"""Weights of Atlas into models of transformers, one tensor at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import nn

from gazetteer.convert.atlas_checkpoint import (
    PASSAGE,
    QUERY,
    READER,
    TIED,
    AtlasCheckpoint,
)
from gazetteer.convert.saved_tensors import SavedTensor
from gazetteer.errors import CheckpointError, OptionError
from gazetteer.reader_names import full_reader_name, is_reader_name

if TYPE_CHECKING:
    from gazetteer.reader.fusion import T5Model

RETRIEVER = "retriever"
READER_FLAG, RETRIEVER_FLAG = "--reader_model_type", "--retriever_model_path"
SHARED, HEAD = "shared.weight", "lm_head.weight"
EMBEDDINGS: tuple[str, ...] = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""T5 has one table of embeddings; its state dict repeats it under these names."""
UNUSED = {
    # Old T5 files have a bias there that no T5 adds.
    READER: re.compile(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias.*"),
    # Counting buffers, and a layer above the token states that no retriever of Atlas reads.
    RETRIEVER: re.compile(r"embeddings\.(position_ids|token_type_ids)|pooler\..*"),
}
SHOWN_KEYS = 3


def reader_name(atlas: AtlasCheckpoint, given: str | None) -> str:
    """Where the reader's config and tokenizer come from: the flag, else Atlas's own option.

    Raises:
        OptionError: neither says it.
        CheckpointError: there is no reader in the file.
    """
    if not atlas.has_reader:
        raise CheckpointError(f"{atlas.path}: holds no reader (no key reader.*)")
    if given is not None:
        return given
    noted = atlas.options.get("reader_model_type")
    if not isinstance(noted, str) or not is_reader_name(noted):
        raise OptionError(
            f"{READER_FLAG} is needed: {atlas.path} does not say which T5 its reader is"
        )
    return full_reader_name(noted)


def reader_fill(
    atlas: AtlasCheckpoint,
) -> Callable[[T5Model, torch.dtype], None]:
    """What sets the weights of a reader on the "meta" device; its head is tied as in the file.

    Raises (when called):
        CheckpointError: keys or shapes do not fit.
    """

    def fill(model: T5Model, dtype: torch.dtype) -> None:
        weights = _Weights(atlas, READER, READER_FLAG)
        # T5Config of transformers 5 ties every head, and loading one would overwrite `shared`.
        model.lm_head.weight = nn.Parameter(torch.empty_like(model.shared.weight))
        require_fit(atlas, READER, model)
        expected = dict(model.named_parameters())
        is_tied = weights.are_equal(SHARED, HEAD)
        for name in EMBEDDINGS:
            if name in weights.tensors and not weights.are_equal(SHARED, name):
                raise CheckpointError(f"{atlas.path}: reader.{name} differs from reader.{SHARED}")
        for name in expected:
            if not (is_tied and name == HEAD):
                tensor = weights.tensors[name].read().to(dtype)
                owner, _, field = name.rpartition(".")
                setattr(model.get_submodule(owner), field, nn.Parameter(tensor))
        # Replaced on `shared`; its other names follow.
        for stack in (model.encoder, model.decoder):
            stack.embed_tokens.weight = model.shared.weight
        if is_tied:
            model.lm_head.weight = model.shared.weight
        else:
            model.all_tied_weights_keys.pop(HEAD, None)

    return fill


def require_fit(atlas: AtlasCheckpoint, part: str, model: nn.Module) -> None:
    """Compare a part of a checkpoint with a model, which may be on the "meta" device.

    Args:
        atlas: the checkpoint.
        part: "reader", or one of the towers.
        model: T5 or BERT.

    Raises:
        CheckpointError: keys or shapes do not fit.
    """
    if part == READER:
        weights = _Weights(atlas, part, READER_FLAG)
        expected = dict(model.named_parameters())
        # As transformers makes them, tied to `shared`.
        expected[HEAD] = expected[SHARED]
        weights.require_fit(expected, optional=dict.fromkeys(EMBEDDINGS, expected[SHARED]))
        return
    unused = UNUSED[RETRIEVER]
    expected = {n: p for n, p in model.named_parameters() if not unused.fullmatch(n)}
    _Weights(atlas, part, RETRIEVER_FLAG).require_fit(expected)


def retriever_fills(atlas: AtlasCheckpoint) -> list[Callable[[nn.Module], None]]:
    """What sets the weights of the towers: one for tied ones, else the query's and the passage's.

    Raises (when called):
        CheckpointError: keys or shapes do not fit.
    """
    parts = [TIED] if TIED in atlas.parts else [QUERY, PASSAGE]
    return [_tower_fill(_Weights(atlas, part, RETRIEVER_FLAG)) for part in parts]


def _tower_fill(weights: _Weights) -> Callable[[nn.Module], None]:
    @torch.no_grad()
    def fill(model: nn.Module) -> None:
        require_fit(weights.atlas, weights.part, model)
        for name, parameter in model.named_parameters():
            parameter.copy_(weights.tensors[name].read())

    return fill


class _Weights:
    """Tensors of one part of a checkpoint, without those that no model reads."""

    def __init__(self, atlas: AtlasCheckpoint, part: str, flag: str) -> None:
        unused = UNUSED[part.split(".")[0]]
        tensors = atlas.parts[part]
        self.tensors: dict[str, SavedTensor] = {
            name: tensor for name, tensor in tensors.items() if not unused.fullmatch(name)
        }
        if part == READER and SHARED in tensors:
            self.tensors.setdefault(HEAD, tensors[SHARED])
        self.atlas = atlas
        self.part = part
        self._flag = flag

    def require_fit(
        self,
        expected: Mapping[str, nn.Parameter],
        optional: Mapping[str, nn.Parameter] = MappingProxyType({}),
    ) -> None:
        """Raise CheckpointError unless the file has these names in these shapes, and no others."""
        missing = expected.keys() - self.tensors.keys()
        unknown = self.tensors.keys() - expected.keys() - optional.keys()
        if missing or unknown:
            found = [f"lacks {self._shown(missing)}"] if missing else []
            found += [f"has {self._shown(unknown)}, which the model has not"] if unknown else []
            raise CheckpointError(
                f"{self.atlas.path}: {' and '.join(found)}: is it another model? ({self._flag})"
            )
        for name, parameter in {**expected, **optional}.items():
            saved = self.tensors.get(name)
            if saved is not None and saved.shape != tuple(parameter.shape):
                raise CheckpointError(
                    f"{self.atlas.path}: {self.part}.{name} has shape {list(saved.shape)}, "
                    f"expected {list(parameter.shape)} ({self._flag})"
                )

    def are_equal(self, first: str, second: str) -> bool:
        """Whether two tensors lie in the same place or hold the same numbers."""
        one, other = self.tensors[first], self.tensors[second]
        return one == other or torch.equal(one.read(), other.read())

    def _shown(self, names: Iterable[str]) -> str:
        ordered = sorted(names)
        shown = ", ".join(f"{self.part}.{ascii(name)[1:-1]}" for name in ordered[:SHOWN_KEYS])
        more = len(ordered) - SHOWN_KEYS
        return shown + (f" and {more} more" if more > 0 else "")
