"""What learns in a run: the parameters of its models, their optimisers, and who holds which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import nn

from gazetteer import build
from gazetteer.adapters import has_adapters
from gazetteer.distributed.collectives import all_reduce_max
from gazetteer.distributed.fairscale_gradients import FairscaleGradients
from gazetteer.distributed.fully_sharded import FullySharded
from gazetteer.distributed.ownership import Owners, assign_owners
from gazetteer.distributed.replicas import replicate
from gazetteer.errors import OptionError
from gazetteer.options import Options
from gazetteer.reader import Reader
from gazetteer.records import Ranks
from gazetteer.sharding_options import shards
from gazetteer.training.gradients import LossScale, NonFiniteGuard
from gazetteer.training.optimiser import MasterWeightAdamW
from gazetteer.training.optimiser_files import Optimiser
from gazetteer.training.owned_optimiser import OwnedAdamW
from gazetteer.training.rows_optimiser import RowsAdamW
from gazetteer.training.state import Position, TrainState

NamedParameters = Sequence[tuple[str, nn.Parameter]]


def trained_parameters(
    options: Options, models: build.Models
) -> tuple[dict[str, NamedParameters], dict[str, float]]:
    """Parameters of the models that learn, and their learning rates, by the models' names."""
    optimisation = options.optimisation
    assert models.reader is not None
    trained: dict[str, NamedParameters] = {"reader": list(models.reader.named_parameters())}
    rates = {"reader": optimisation.lr}
    if options.retriever.train_retriever and models.retriever is not None:
        trained["retriever"] = list(models.retriever.named_parameters())
        rates["retriever"] = optimisation.lr_retriever
    own = list(models.compressor.own_named_parameters()) if models.compressor else []
    if own:
        trained["compressor"] = own
        rates["compressor"] = options.compressor.lr_compressor
    return trained, rates


def assign(options: Options, ranks: Ranks, trained: Mapping[str, NamedParameters]) -> Owners | None:
    """Who updates which parameter; None where every rank updates all of them."""
    if ranks.world_size == 1 or not shards(options):
        return None
    return assign_owners([[p for _, p in named] for named in trained.values()], ranks.world_size)


def spread_step(
    options: Options,
    ranks: Ranks,
    models: build.Models,
    step: nn.Module,
    trained: Mapping[str, NamedParameters],
    owners: Owners | None,
) -> nn.Module:
    """A step whose gradients are averaged over ranks, its weights spread if flags say so.

    Collective: every rank must call this.

    With fsdp2 the reader is cut. The retriever stays whole: every rank embeds passages with it, by
    itself and whenever it likes.

    Raises:
        OptionError: the models have parts that fsdp2 cannot cut, or fairscale is not installed; the
            same on every rank.
    """
    backend = options.sharding.shard_backend
    if owners is None or backend == "zero":
        return replicate(step, ranks, owners if options.optimisation.shard_grads else None)
    if backend == "fairscale":
        return FairscaleGradients(step, [[p for _, p in named] for named in trained.values()])
    assert models.reader is not None
    if models.compressor is not None or has_adapters(models.reader.model):
        raise OptionError(
            "--shard_backend (fsdp2) must not come with a model that has a compressor or adapters:"
            " use zero"
        )
    cut = set(models.reader.parameters())
    whole = [p for p in step.parameters() if p not in cut]
    sharded = FullySharded(
        step,
        _layers(models.reader),
        whole={p: owners[p] for p in whole if p in owners},
        uncut={p for p in whole if p not in owners},
        ranks=ranks,
        reshard_after_forward=options.sharding.shard_params,
    )
    models.reader.most_calls = _most
    return sharded


def _layers(reader: Reader) -> list[nn.Module]:
    """What transformers says must stay together on one device: the layers of the model."""
    names = set(getattr(reader.model, "_no_split_modules", None) or ())
    return [part for part in reader.modules() if type(part).__name__ in names]


def _most(count: int) -> int:
    return int(all_reduce_max(torch.tensor([count])).item())


def train_state(
    options: Options,
    trained: Mapping[str, NamedParameters],
    peak_rates: Mapping[str, float],
    *,
    owners: Owners | None = None,
    step: nn.Module | None = None,
    position: Position | None = None,
) -> TrainState:
    """The state of a new run.

    Args:
        options: of the run.
        trained: parameters of models whose weights change, named, by the model's name.
        peak_rates: learning rate of each.
        owners: the ranks that update them; None: every rank updates all.
        step: as `spread_step` made it; None: no parameter is cut.
        position: where the run is; None = at its beginning.
    """
    optimisation = options.optimisation
    optimisers: dict[str, Optimiser] = {}
    if isinstance(step, FairscaleGradients):
        owners = step.owners
    for name, parameters in trained.items():
        settings: dict[str, float] = {
            "learning_rate": peak_rates[name],
            "beta2": optimisation.beta2,
            "epsilon": optimisation.epsilon,
            "weight_decay": optimisation.weight_decay,
        }
        cut = _cut(parameters, step)
        if owners is None:
            optimisers[name] = MasterWeightAdamW(parameters, **settings)
        elif cut is not None:
            optimisers[name] = cut(**settings)
        else:
            optimisers[name] = OwnedAdamW(parameters, owners, **settings)
    return TrainState(
        position=position or Position(),
        optimisers=optimisers,
        guard=NonFiniteGuard(optimisation.max_nonfinite_steps),
        loss_scale=LossScale.for_dtype(build.reader_dtype(options)),
    )


def _cut(parameters: NamedParameters, step: nn.Module | None) -> Callable[..., RowsAdamW] | None:
    """What makes the optimiser of parameters that lie in rows over the ranks; None: they do not."""
    if not isinstance(step, FullySharded) or parameters[0][1] not in step.replaced:
        return None
    now = [(name, step.replaced[p]) for name, p in parameters]
    return partial(
        RowsAdamW,
        [(name, step.rows[p]) for name, p in now],
        [len(p) for _, p in now],
        step.ranks.rank,
        step.ranks.world_size,
    )
