"""The optional third way to spread state: fairscale's OSS and ShardedDataParallel, as in Atlas.

OSS says which rank owns a parameter, ShardedDataParallel sends gradients there. The update is ours,
since OSS has no float32 master weights.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from gazetteer.distributed.ownership import Owners
from gazetteer.optional_packages import import_optional


class FairscaleGradients(nn.Module):
    """A module whose gradients fairscale averages, each of them kept by its owner alone.

    Collective to build: weights of rank 0 are copied to all, and laid out anew, in place.

    Args:
        module: the same on every rank.
        models: parameters that learn, model by model; those of one model have one dtype.

    Attributes:
        owners: whose gradients are where.

    Raises:
        OptionError: fairscale is not installed.
    """

    def __init__(self, module: nn.Module, models: Iterable[Sequence[nn.Parameter]]) -> None:
        super().__init__()
        # It tells of its buckets for every run.
        level, root = logging.getLogger().level, logging.getLogger()
        root.setLevel(logging.WARNING)
        try:
            with warnings.catch_warnings():
                # Not maintained since 2022: it uses what torch has deprecated.
                warnings.simplefilter("ignore")
                oss, sharded = import_fairscale()
                optimisers = [oss.OSS(list(ps), optim=torch.optim.SGD, lr=0.0) for ps in models]
                self.module = sharded.ShardedDataParallel(
                    module,
                    optimisers,
                    broadcast_buffers=False,
                    reduce_buffer_size=0,
                    warn_on_trainable_params_changed=False,
                )
        finally:
            root.setLevel(level)
        self.owners: Owners = {p: r for each in optimisers for p, r in each._param_to_rank.items()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the module's
        """Call the module."""
        return self.module(*args, **kwargs)

    def no_sync(self) -> AbstractContextManager:
        """Within, gradients stay local and add up."""
        return self.module.no_sync()


def import_fairscale() -> tuple[Any, Any]:
    """Modules of OSS and of ShardedDataParallel.

    Raises:
        OptionError: fairscale is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        needed = "--shard_backend fairscale needs fairscale"
        extra = "gazetteer[fairscale]"
        oss = import_optional("fairscale.optim.oss", needed, extra)
        sharded = import_optional("fairscale.nn.data_parallel.sharded_ddp", needed, extra)
    return oss, sharded
