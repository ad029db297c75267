"""The training loop: update, and around it refresh, log, evaluate, save, leave."""

from __future__ import annotations

import logging

from gazetteer.compute import use_fast_float32_matmul
from gazetteer.data.sampling import draw_batch
from gazetteer.data_files import open_data
from gazetteer.distributed.replicas import without_averaging
from gazetteer.distributed.signals import StopRequest
from gazetteer.evaluation.run import evaluate_all
from gazetteer.options import Options
from gazetteer.progress import progress
from gazetteer.records import Batch, Ranks
from gazetteer.reporting import Reporter, drop_metrics_after, start_experiment, start_log
from gazetteer.stats import Stopwatch, WeightedStats
from gazetteer.training.gradients import all_finite, clip_gradients
from gazetteer.training.helping import embed_for_trainers
from gazetteer.training.plan import falls_due
from gazetteer.training.run import TrainingRun, build_training
from gazetteer.training.schedule import learning_rate_factor

logger = logging.getLogger(__name__)

TRY_AGAIN = 75
"""Exit code after a stop request: the same command goes on from the checkpoint just saved."""


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
    folder = start_experiment(options.experiment.folder, options, ranks)
    use_fast_float32_matmul()
    run = build_training(options, ranks, data)
    step = run.state.position.micro_batches
    if ranks.is_main:
        drop_metrics_after(folder, step)
    with StopRequest() as stop, Reporter(folder, ranks, run.plan.total) as reporter:
        return _run(run, stop, reporter)


def _run(run: TrainingRun, stop: StopRequest, reporter: Reporter) -> int:
    position, plan = run.state.position, run.plan
    stats = WeightedStats()
    saved_at = position.micro_batches if position.micro_batches else -1
    shown = run.ranks.is_main and not run.options.experiment.no_progress
    with progress(plan.total, "training", "step", enabled=shown) as bar:
        bar.update(position.micro_batches)
        while position.micro_batches < plan.total:
            before = position.micro_batches
            update(run, stats)
            after = position.micro_batches
            bar.update(after - before)
            if falls_due(plan.log, before, after):
                numbers = stats.averages() | _measure_staleness(run)
                reporter.training(after, numbers, _learning_rates(run))
                stats = WeightedStats()
            if falls_due(plan.evaluate, before, after):
                _evaluate(run, after, reporter)
            if falls_due(plan.save, before, after):
                run.save()
                saved_at = after
            if stop.requested(run.ranks):
                if saved_at != after:
                    run.save()
                logger.warning(
                    "stopped by a signal at step %d; run the same command to go on", after
                )
                return TRY_AGAIN
    if saved_at != position.micro_batches:
        run.save()
    if run.retrieving is not None:
        run.retrieving.keeper.forget_unfinished()
    return 0


def _evaluate(run: TrainingRun, step: int, reporter: Reporter) -> None:
    write_results = run.options.data.write_results
    evaluate_all(run.evaluations, run.folder, step, reporter, write_results=write_results)


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
            is_owed = run.retrieving.keeper.tend(micro_batch, is_due=bool(is_due))
            run.state.position.index_is_stale = int(is_owed)


def _measure_staleness(run: TrainingRun) -> dict[str, float]:
    """How stale the index is for the next queries; what is too stale is refreshed before them."""
    if run.retrieving is None or run.retrieving.meter is None:
        return {}
    found = run.retrieving.meter.measure(next_batch(run).query_tokens)
    is_refreshing = run.retrieving.keeper.in_progress is not None
    if found.overlap < run.options.index.refresh_below_overlap and not is_refreshing:
        run.state.position.index_is_stale = 1
    return found.numbers()


def _micro_batch(
    run: TrainingRun, stats: WeightedStats, clock: Stopwatch, *, share: float, is_last: bool
) -> None:
    position = run.state.position
    batch = next_batch(run)
    train_retriever = run.trains_retriever(position.micro_batches)
    with without_averaging(run.step, not is_last):
        with clock.time("runtime/forward"):
            loss, numbers = run.step(batch, train_retriever)
        with clock.time("runtime/backward"):
            (loss * (share * run.state.loss_scale.scale)).backward()
    for name, value in numbers.items():
        stats.add(name, value, weight=len(batch.examples))
    position.micro_batches += 1
    position.examples += len(batch.examples) * run.ranks.world_size


def next_batch(run: TrainingRun) -> Batch:
    """This rank's share of the next global micro-batch."""
    return run.batches.build(
        draw_batch(
            run.state.position.examples,
            count=run.batches.count,
            batch_size=run.options.data.per_gpu_batch_size,
            rank=run.ranks.rank,
            world_size=run.ranks.world_size,
            seed=run.options.experiment.seed,
            shuffle=run.options.data.shuffle,
        )
    )


def _apply(run: TrainingRun) -> None:
    """Clip, decide together whether the gradients are fit, and step both optimisers."""
    state, optimisation = run.state, run.options.optimisation
    scale = state.loss_scale.scale
    groups = [optimiser.parameters for optimiser in state.optimisers]
    if not optimisation.shard_optim:
        # As in Atlas: jointly over the whole model, or per optimiser with --shard_optim.
        groups = [[p for group in groups for p in group]]
    norms = [clip_gradients(g, optimisation.clip, gradient_scale=scale) for g in groups]
    is_finite = all_finite(*norms)
    step = state.position.micro_batches
    can_shrink = state.loss_scale.can_shrink
    if state.guard.allows_update(is_finite, step, is_expected=can_shrink):
        for optimiser, rate in zip(state.optimisers, _learning_rates(run).values(), strict=False):
            optimiser.set_learning_rate(rate)
            optimiser.step(gradient_scale=scale)
    else:
        logger.warning("step %d skipped: gradients are not finite", step)
    state.loss_scale.update(is_finite)
    for optimiser in state.optimisers:
        optimiser.zero_grad()


def _learning_rates(run: TrainingRun) -> dict[str, float]:
    """Rates of the update that ends at the current position."""
    optimisation, plan = run.options.optimisation, run.plan
    done = plan.updates(run.state.position.micro_batches) - 1
    factor = learning_rate_factor(
        optimisation.scheduler,
        done,
        warmup_steps=plan.updates(plan.warmup),
        total_steps=plan.updates(plan.schedule),
    )
    rates = {"lr": optimisation.lr * factor}
    if optimisation and run.options.retriever.train_retriever:
        rates["lr_retriever"] = optimisation.lr_retriever * factor
    return rates
