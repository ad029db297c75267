"""Weights spread over ranks by torch's `fully_shard`: every rank has some rows of every parameter.

A layer is gathered when it is called, and its gradient is added up over ranks when backward has
passed it. Each call is a collective, so all ranks must make the same calls.
"""

# torch documents fully_shard, but not every place that exports it.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from gazetteer.distributed.owned_gradients import OwnedGradients
from gazetteer.distributed.ownership import Owners
from gazetteer.records import Ranks


def gather_rows(parameter: nn.Parameter) -> Tensor | None:
    """All rows of a parameter that lies over the ranks; None if it lies whole on each of them.

    Collective for a parameter in rows: every rank must call this.
    """
    return parameter.full_tensor() if isinstance(parameter, DTensor) else None


class FullySharded(nn.Module):
    """A module whose parameters lie in rows over the ranks, except some that are whole everywhere.

    Collective to build: weights of rank 0 are copied to all, then cut. The module is changed in
    place; see `replaced`. Call `finish` after each backward pass.

    Args:
        module: called once in each forward pass, and calls all others.
        layers: parts of it that are gathered one by one; the rest is gathered as a whole.
        whole: parameters that are not cut, their gradients kept by their owners.
        uncut: parameters that do not learn and are not cut.
        ranks: this process among its peers.
        reshard_after_forward: forget a layer after each call, and gather it again in backward.

    Attributes:
        ranks: this process among its peers.
        replaced: the parameters that now stand for those the module had.
        rows: for each of them a leaf over this rank's rows, which holds the gradient after
            `finish`; rows of the weights themselves, not copies.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Iterable[nn.Module],
        *,
        whole: Owners,
        uncut: set[nn.Parameter],
        ranks: Ranks,
        reshard_after_forward: bool,
    ) -> None:
        super().__init__()
        self.module, self.ranks = OwnedGradients(module, whole), ranks
        # Of the position bias that T5's layers pass on, which nobody changes in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
        before = dict(module.named_parameters())
        settings: dict[str, Any] = {
            "mesh": init_device_mesh(ranks.device.type, (ranks.world_size,)),
            "ignored_params": set(whole) | uncut,
        }
        for layer in layers:
            fully_shard(layer, reshard_after_forward=reshard_after_forward, **settings)
        fully_shard(module, reshard_after_forward=False, **settings)
        after = dict(module.named_parameters())
        self.replaced = {p: after[name] for name, p in before.items() if p is not after[name]}
        with torch.no_grad():
            self.rows: dict[nn.Parameter, nn.Parameter] = {
                p: nn.Parameter(p.to_local(), p.requires_grad)
                for p in self.replaced.values()
                if isinstance(p, DTensor)
            }
            for parameter in self.replaced:
                # Known by what it was to those who ask what replaced it; its weights are cut.
                parameter.data = parameter.new_empty(0)

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the module's
        """Call the module."""
        return self.module(*args, **kwargs)

    def finish(self) -> None:
        """Wait for gradients, and give the leaves of `rows` theirs.

        Collective: every rank must call this.
        """
        self.module.finish()
        for parameter, leaf in self.rows.items():
            if not isinstance(parameter.grad, DTensor):
                continue
            gradient, parameter.grad = parameter.grad.to_local(), None
            # Earlier micro-batches of the update left theirs here.
            leaf.grad = gradient if leaf.grad is None else leaf.grad.add_(gradient)
