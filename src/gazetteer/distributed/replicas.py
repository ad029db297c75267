"""Replicas of one module that average their gradients: DDP, set up to repeat itself exactly."""

from __future__ import annotations

import inspect
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gazetteer.distributed.fairscale_gradients import FairscaleGradients
from gazetteer.distributed.fully_sharded import FullySharded
from gazetteer.distributed.owned_gradients import OwnedGradients
from gazetteer.distributed.ownership import Owners
from gazetteer.records import Ranks

# torch 2.13 renamed the argument and warns about the old name; 2.11 knows no other.
_ARGUMENTS = inspect.signature(DistributedDataParallel).parameters
_NO_BUFFER_SYNC: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _ARGUMENTS else "broadcast_buffers": False
}


Replicated = DistributedDataParallel | OwnedGradients | FullySharded | FairscaleGradients


def replicate(module: nn.Module, ranks: Ranks, owners: Owners | None = None) -> nn.Module:
    """Wrap a module so that backward averages gradients over ranks; one rank: as it is.

    Collective: every rank must call this. Weights of rank 0 are copied to all.

    Args:
        module: the same on every rank.
        ranks: this process among its peers.
        owners: the only ranks to keep a parameter's gradient; None: every rank keeps all.

    `find_unused_parameters` is on for two reasons. While the retriever is frozen its parameters
    take no part. And without it DDP lays its buckets out anew after the first backward, so a
    resumed run would sum gradients in another order than the run it continues.
    """
    if ranks.world_size == 1:
        return module
    if owners is not None:
        return OwnedGradients(module, owners)
    warnings.filterwarnings("ignore", message=".*find_unused_parameters=True was specified.*")
    device_ids = [ranks.device.index] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(
        module,
        device_ids=device_ids,
        **_NO_BUFFER_SYNC,
        find_unused_parameters=True,
        gradient_as_bucket_view=True,
    )


def without_averaging(module: nn.Module, wanted: bool) -> AbstractContextManager:
    """Leave gradients local for this micro-batch, as all but the last of an update do.

    Args:
        module: replicated, or holding a module that is; of others nothing is changed, nor where
            whole gradients are what does not fit.
        wanted: False changes nothing either.
    """
    replicated = _replicated(module)
    if not wanted or not isinstance(replicated, DistributedDataParallel | FairscaleGradients):
        return nullcontext()
    return replicated.no_sync()


def finish_backward(module: nn.Module) -> None:
    """Wait for gradients of which a rank keeps a part only; call it after each backward pass.

    Collective: every rank must call this. With DDP there is nothing to wait for.
    """
    replicated = _replicated(module)
    if isinstance(replicated, OwnedGradients | FullySharded):
        replicated.finish()


def has_parts_of_gradients(module: nn.Module) -> bool:
    """Whether a rank keeps a part only of the gradients, after `finish_backward`."""
    return isinstance(_replicated(module), OwnedGradients | FullySharded | FairscaleGradients)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module behind its replication."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def _replicated(module: nn.Module) -> Replicated | None:
    kinds = (DistributedDataParallel, OwnedGradients, FullySharded, FairscaleGradients)
    return next((part for part in module.modules() if isinstance(part, kinds)), None)
