"""The models of a run once more, without weights until they are filled with those of a moment."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from gazetteer.build import Models
from gazetteer.distributed.fully_sharded import gather_rows


class ModelCopies:
    """Copies for what goes on beside training, or needs weights whole that training has in parts.

    Make them before weights are spread. Buffers are those of that moment: no model of ours has any
    that training changes.

    Args:
        models: with their weights; tokenizers are shared, not copied.
    """

    def __init__(self, models: Models) -> None:
        parts = [models.reader, models.retriever, models.compressor]
        live = [p for part in parts if part is not None for p in part.parameters()]
        empty = {id(p): _without_weights(p) for p in live}
        # Together, since a compressor may share the reader's layers.
        reader, retriever, compressor = copy.deepcopy(parts, dict(empty))
        self.models = replace(models, reader=reader, retriever=retriever, compressor=compressor)
        source = {id(empty[id(p)]): p for p in live}
        self._places: list[tuple[nn.Module, str, nn.Parameter]] = [
            (module, name, source[id(parameter)])
            for part in (reader, retriever, compressor)
            if part is not None
            for module in part.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        self._empty = [module._parameters[name] for module, name, _ in self._places]

    def follow(self, replaced: dict[nn.Parameter, nn.Parameter]) -> None:
        """Take weights from other parameters, which stand for those at hand from now on."""
        self._places = [(m, n, replaced.get(p, p)) for m, n, p in self._places]

    @torch.no_grad()
    def fill(self, device: torch.device, *, is_wanted: bool = True) -> None:
        """Copy the weights of now, one tensor after the other.

        Collective where weights are spread: every rank must call this.

        Args:
            device: where the copies are to be.
            is_wanted: False only helps the other ranks to theirs.
        """
        copies: dict[nn.Parameter, nn.Parameter] = {}
        # Each once, however many modules share it: gathering is collective.
        for parameter in dict.fromkeys(parameter for _, _, parameter in self._places):
            whole = _whole(parameter, device, is_wanted=is_wanted)
            if whole is not None:
                copies[parameter] = nn.Parameter(whole, parameter.requires_grad)
        for module, name, parameter in self._places:
            if is_wanted:
                module._parameters[name] = copies[parameter]

    def empty(self) -> None:
        """Forget the weights."""
        for (module, name, _), parameter in zip(self._places, self._empty, strict=True):
            module._parameters[name] = parameter

    @contextmanager
    def filled(self, device: torch.device) -> Iterator[None]:
        """Within, the copies have the weights of now, on every rank.

        Collective where weights are spread: every rank must call this.
        """
        self.fill(device)
        try:
            yield
        finally:
            self.empty()


def _without_weights(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)


def _whole(parameter: nn.Parameter, device: torch.device, *, is_wanted: bool) -> Tensor | None:
    gathered = gather_rows(parameter)
    if gathered is not None:
        return gathered.to(device) if is_wanted else None
    return parameter.detach().to(device, copy=True) if is_wanted else None
