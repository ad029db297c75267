"""The training loop: update, and around it refresh, log, evaluate, save, leave."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from gazetteer.compute import use_fast_float32_matmul
from gazetteer.data.sampling import Pass, draw_step
from gazetteer.data_files import open_data
from gazetteer.distributed.collectives import all_reduce_sum
from gazetteer.distributed.query_shares import QueryShare
from gazetteer.distributed.replicas import (
    finish_backward,
    has_parts_of_gradients,
    without_averaging,
)
from gazetteer.distributed.signals import StopRequest
from gazetteer.errors import TRY_AGAIN, TrainingDivergedError, UnsavedError
from gazetteer.options import Options
from gazetteer.progress import progress
from gazetteer.records import Ranks
from gazetteer.reporting import Reporter, drop_metrics_after, start_experiment, start_log
from gazetteer.stats import Stopwatch, WeightedStats
from gazetteer.training.building import build_training
from gazetteer.training.gradients import all_finite, clip_gradients
from gazetteer.training.helping import embed_for_trainers
from gazetteer.training.plan import falls_due
from gazetteer.training.run import TrainingBatch, TrainingRun
from gazetteer.training.schedule import learning_rate_factor

logger = logging.getLogger(__name__)


def train(options: Options, ranks: Ranks) -> int:
    """Train until `--total_steps`, or until asked to stop.

    Collective: every rank must call this. A process set aside embeds for the others instead.

    Returns:
        Exit code: 0, or 75 when a signal ended the run early; the state is saved either way.
    """
    if ranks.is_set_aside:
        return embed_for_trainers(options, ranks)
    start_log(ranks)
    data = open_data(options, ranks, is_training=True)
    start_experiment(options.experiment.folder, options, ranks)
    use_fast_float32_matmul()
    return carry_out(build_training(options, ranks, data))


def carry_out(run: TrainingRun, tensorboard: Path | None = None) -> int:
    """Train to the end of the plan, or until asked to stop.

    Collective: every rank must call this.

    Args:
        run: brought to where it left off.
        tensorboard: folder of TensorBoard's files; None for the experiment's.

    Returns:
        Exit code, as `train` does.
    """
    if run.ranks.is_main:
        drop_metrics_after(run.folder, run.state.position.micro_batches)
    reporter = Reporter(run.folder, run.ranks, run.plan.total, tensorboard)
    with StopRequest() as stop, reporter:
        try:
            return _run(run, stop, reporter)
        except TrainingDivergedError:
            run.finish_saving()
            raise


def _run(run: TrainingRun, stop: StopRequest, reporter: Reporter) -> int:
    position, plan = run.state.position, run.plan
    stats = WeightedStats()
    saved_at = position.micro_batches if position.micro_batches else -1
    shown = run.ranks.is_main and not run.options.experiment.no_progress
    with progress(plan.total, "training", "step", enabled=shown) as bar:
        bar.update(position.micro_batches)
        while position.micro_batches < plan.total:
            before = position.micro_batches
            run.saving.check()
            update(run, stats)
            after = position.micro_batches
            bar.update(after - before)
            if falls_due(plan.log, before, after):
                numbers = stats.averages() | _measure_staleness(run)
                reporter.training(after, numbers, _learning_rates(run))
                stats = WeightedStats()
            if falls_due(plan.evaluate, before, after):
                run.evaluate(after, reporter)
            if falls_due(plan.save, before, after) and _save_or_go_on(run):
                saved_at = after
            if stop.requested(run.ranks):
                if saved_at != after:
                    run.save()
                run.finish_saving()
                logger.warning(
                    "stopped by a signal at step %d; run the same command to go on", after
                )
                return TRY_AGAIN
    if saved_at != position.micro_batches:
        run.save()
    run.finish_saving()
    if run.retrieving is not None:
        run.retrieving.keeper.forget_unfinished()
    return 0


def _save_or_go_on(run: TrainingRun) -> bool:
    """Save; a full disk does not end a run that has steps left: there may be room later.

    Collective: every rank must call this.
    """
    try:
        run.save()
    except UnsavedError as error:
        logger.warning("%s; training goes on, and saves again when it is due", error)
        return False
    return True


def update(run: TrainingRun, stats: WeightedStats) -> None:
    """One optimiser update: its micro-batches, then clip, check, step.

    Collective: every rank must call this.

    Gradients are averaged over micro-batches and ranks. An update whose gradients are not finite
    is skipped on all ranks alike, since averaged gradients are equal everywhere.
    """
    clock = Stopwatch()
    run.step.train()
    with clock.time("runtime/train_step"):
        size = run.plan.micro_batches_of_next_update(run.state.position.micro_batches)
        for number in range(size):
            _tend_index(run, clock)
            _micro_batch(run, stats, clock, share=1 / size, is_last=number == size - 1)
        with clock.time("runtime/model_update"):
            _apply(run)
    for name, seconds in clock.seconds.items():
        stats.add(name, seconds)


def _tend_index(run: TrainingRun, clock: Stopwatch) -> None:
    micro_batch = run.state.position.micro_batches
    if run.retrieving is not None:
        with clock.time("runtime/indexing"):
            is_due = run.refresh_is_due(micro_batch) or run.state.position.index_is_stale
            keeper = run.retrieving.keeper
            served = keeper.step
            is_owed = keeper.tend(micro_batch, is_due=bool(is_due))
            run.state.position.index_is_stale = int(is_owed)
            if run.miner is not None and keeper.step != served:
                run.miner.mine(micro_batch)


def _measure_staleness(run: TrainingRun) -> dict[str, float]:
    """How stale the index is for the next queries; what is too stale is refreshed before them."""
    if run.retrieving is None or run.retrieving.meter is None:
        return {}
    next_batches = [run.batches.build(each.draws) for each in next_passes(run)]
    queries = [ids for batch in next_batches for ids in batch.query_tokens]
    found = run.retrieving.meter.measure(queries)
    is_refreshing = run.retrieving.keeper.in_progress is not None
    if found.overlap < run.options.index.refresh_below_overlap and not is_refreshing:
        run.state.position.index_is_stale = 1
    return found.numbers()


def _micro_batch(
    run: TrainingRun, stats: WeightedStats, clock: Stopwatch, *, share: float, is_last: bool
) -> None:
    position = run.state.position
    passes = next_passes(run)
    train_retriever = run.trains_retriever(position.micro_batches)
    for number, (batch, part) in enumerate(_with_shares(run, passes), start=1):
        with without_averaging(run.step, not is_last or number < len(passes)):
            with clock.time("runtime/forward"):
                loss, numbers = run.step(batch, train_retriever, part)
            with clock.time("runtime/backward"):
                (loss * (share * run.state.loss_scale.scale)).backward()
                finish_backward(run.step)
        for name, value in numbers.items():
            stats.add(name, value, weight=len(batch.examples))
    position.micro_batches += 1
    position.examples += sum(each.together for each in passes)
    position.step_size = run.plan.size


def next_passes(run: TrainingRun) -> tuple[Pass, ...]:
    """This rank's part of what the next step reads."""
    return draw_step(
        run.state.position.examples,
        count=run.batches.count,
        size=run.plan.size,
        passes=run.plan.passes,
        rank=run.ranks.rank,
        world_size=run.ranks.world_size,
        seed=run.options.experiment.seed,
        shuffle=run.options.data.shuffle,
        limit=run.plan.examples,
    )


def _with_shares(
    run: TrainingRun, passes: Sequence[Pass]
) -> list[tuple[TrainingBatch, QueryShare]]:
    """The batch of each pass, and what part of the step it is. Collective."""
    batches: list[TrainingBatch] = [run.batches.build(each.draws) for each in passes]
    shares = QueryShare.of_passes(
        [len(batch.examples) for batch in batches],
        [each.together for each in passes],
        [batch.target_tokens for batch in batches],
        run.ranks.world_size,
    )
    return list(zip(batches, shares, strict=True))


def _apply(run: TrainingRun) -> None:
    """Clip, decide together whether the gradients are fit, and step both optimisers."""
    state, optimisation = run.state, run.options.optimisation
    scale = state.loss_scale.scale
    groups = [optimiser.parameters for optimiser in state.optimisers.values()]
    if not optimisation.shard_optim:
        # As in Atlas: jointly over the whole model, or per optimiser with --shard_optim.
        groups = [[p for group in groups for p in group]]
    add_up = all_reduce_sum if has_parts_of_gradients(run.step) else None
    norms = [
        clip_gradients(g, optimisation.clip, gradient_scale=scale, add_up=add_up) for g in groups
    ]
    is_finite = all_finite(*norms)
    step = state.position.micro_batches
    can_shrink = state.loss_scale.can_shrink
    if state.guard.allows_update(is_finite, step, is_expected=can_shrink):
        factor = _learning_rate_factor(run)
        for name, optimiser in state.optimisers.items():
            optimiser.set_learning_rate(run.peak_rates[name] * factor)
            optimiser.step(gradient_scale=scale)
    else:
        logger.warning("step %d skipped: gradients are not finite", step)
    state.loss_scale.update(is_finite)
    for optimiser in state.optimisers.values():
        optimiser.zero_grad()


def _learning_rates(run: TrainingRun) -> dict[str, float]:
    """Rates of the update that ends at the current position, by the names of the log."""
    factor = _learning_rate_factor(run)
    return {
        "lr" if name == "reader" else f"lr_{name}": rate * factor
        for name, rate in run.peak_rates.items()
    }


def _learning_rate_factor(run: TrainingRun) -> float:
    """Share of its peak that a learning rate has in the update that ends here."""
    plan = run.plan
    return learning_rate_factor(
        run.options.optimisation.scheduler,
        plan.updates(run.state.position.micro_batches) - 1,
        warmup_steps=plan.updates(plan.warmup),
        total_steps=plan.updates(plan.schedule),
    )
