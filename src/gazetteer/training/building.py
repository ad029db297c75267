"""Options -> a training run: its objects, brought to where the run left off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from gazetteer import build
from gazetteer.build_search import Retrieving, build_retrieving
from gazetteer.data.passages import PassageStore
from gazetteer.data.sampling import Draw
from gazetteer.data_files import RunData
from gazetteer.distributed.fully_sharded import FullySharded
from gazetteer.evaluation.run import build_evaluation, evaluate_all
from gazetteer.options import Options
from gazetteer.records import Ranks
from gazetteer.refresh_schedule import parse_refresh_schedule
from gazetteer.reporting import Reporter
from gazetteer.step import TrainingStep
from gazetteer.training.beginning import begin, start
from gazetteer.training.learning import assign, spread_step, train_state, trained_parameters
from gazetteer.training.model_copies import ModelCopies
from gazetteer.training.plan import StepPlan
from gazetteer.training.run import TrainingRun
from gazetteer.training.state import Position


def build_training(options: Options, ranks: Ranks, data: RunData) -> TrainingRun:
    """Build everything a training run needs, and bring it to where it left off.

    Collective: every rank must call this.

    Starts from the newest intact checkpoint of the experiment; else from `--model_path` if given
    (fresh optimisers, step 0); else from the pre-trained models.

    Raises:
        OptionError: as `begin` does.
    """
    beginning = begin(options, ranks)
    assert data.train is not None
    models = build.build_models(options, ranks, beginning.models)
    retrieving = build_retrieving(
        options,
        ranks,
        models.retriever,
        models.retriever_tokenizer,
        data.corpus,
        filters=data.task.filters,
    )
    trained, peak_rates = trained_parameters(options, models)
    owners = assign(options, ranks, trained)
    position = Position()
    batches = build.build_batches(options, ranks, models, data.train, data.task, is_training=True)
    step = _training_step(options, ranks, models, retrieving, data.train.passages, position)
    step.stand_in = partial(batches.build, [Draw(0, 0)])
    step.to(ranks.device)
    is_cut = owners is not None and options.sharding.shard_backend == "fsdp2"
    whole = ModelCopies(models) if is_cut else None
    # Evaluation may fill `whole` while a thread writes.
    copies = ModelCopies(models) if options.sharding.async_save else whole
    spread = spread_step(options, ranks, models, step, trained, owners)
    for each in (copies, whole):
        if each is not None and isinstance(spread, FullySharded):
            each.follow(spread.replaced)
    read_by = replace(models, reader=whole.models.reader) if whole else models
    evaluations = tuple(
        build_evaluation(options, ranks, read_by, retrieving, data.task, files)
        for files in data.evaluations
    )
    evaluate = partial(
        evaluate_all,
        evaluations,
        options.experiment.folder,
        write_results=options.data.write_results,
    )
    run = TrainingRun(
        options=options,
        ranks=ranks,
        folder=options.experiment.folder,
        plan=step_plan(options, ranks),
        models=models,
        step=spread,
        retrieving=retrieving,
        refreshes=parse_refresh_schedule(options.index.refresh_index),
        batches=batches,
        evaluate=_evaluate_whole(evaluate, whole, ranks) if whole else evaluate,
        state=train_state(
            options, trained, peak_rates, owners=owners, step=spread, position=position
        ),
        peak_rates=peak_rates,
        checkpoints=beginning.checkpoints,
        copies=copies,
    )
    start(run, beginning)
    return run


def _evaluate_whole(
    evaluate: Callable[[int, Reporter], None], models: ModelCopies, ranks: Ranks
) -> Callable[[int, Reporter], None]:
    """Evaluate with weights gathered for it: ranks answer unequal numbers of queries."""

    def gathered(step: int, reporter: Reporter) -> None:
        with models.filled(ranks.device):
            evaluate(step, reporter)

    return gathered


def step_plan(options: Options, ranks: Ranks) -> StepPlan:
    """The steps of a run, as flags say."""
    at_once = options.data.per_gpu_batch_size * ranks.world_size
    size = options.data.global_batch_size or at_once
    return StepPlan(
        total=options.optimisation.total_steps,
        accumulation=options.optimisation.accumulation_steps,
        warmup=options.optimisation.warmup_steps,
        schedule=options.optimisation.scheduler_steps or options.optimisation.total_steps,
        log=options.experiment.log_freq,
        evaluate=options.experiment.eval_freq,
        save=options.experiment.save_freq,
        size=size,
        passes=-(-size // at_once),
    )


def _training_step(
    options: Options,
    ranks: Ranks,
    models: build.Models,
    retrieving: Retrieving | None,
    given_passages: PassageStore | None,
    position: Position,
) -> TrainingStep:
    passages = retrieving.corpus if retrieving else given_passages
    assert models.reader is not None
    return TrainingStep(
        source=build.build_source(models, retrieving),
        inputs=build.build_reader_inputs(options, ranks, models, passages),
        retriever_tokens=retrieving.tokens if retrieving else None,
        retriever=models.retriever,
        reader=models.reader,
        n_context=options.reader.n_context,
        lesson=build.build_lesson(
            options, build.build_reader_layers(options, models, lambda: position.micro_batches)
        ),
        compressor=models.compressor,
        compressor_lesson=build.build_compressor_lesson(options, ranks, models, passages),
    )
