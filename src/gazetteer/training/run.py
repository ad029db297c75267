"""Options -> a training run: its objects, its state, and how that state is saved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gazetteer import build
from gazetteer.build_compressor import COMPRESSOR_FOLDER
from gazetteer.build_search import Retrieving, build_retrieving
from gazetteer.compressor import save_compressor
from gazetteer.data.passages import PassageStore
from gazetteer.data.sampling import Draw
from gazetteer.data_files import RunData
from gazetteer.distributed.agreement import build_alike, main_first
from gazetteer.distributed.collectives import barrier
from gazetteer.distributed.fully_sharded import FullySharded
from gazetteer.evaluation.run import build_evaluation, evaluate_all
from gazetteer.indexing import IndexKeeper
from gazetteer.options import OPTIONS_FILE, Options, save_options
from gazetteer.reader import save_reader
from gazetteer.records import Ranks, TokenLists
from gazetteer.refresh_schedule import RefreshRange, is_refresh_step, parse_refresh_schedule
from gazetteer.reporting import Reporter
from gazetteer.retriever import save_retriever
from gazetteer.step import TrainingStep
from gazetteer.training.background import BackgroundWork
from gazetteer.training.beginning import Beginning, begin
from gazetteer.training.checkpoint import CheckpointFolder
from gazetteer.training.learning import assign, spread_step, train_state, trained_parameters
from gazetteer.training.model_copies import ModelCopies
from gazetteer.training.plan import StepPlan
from gazetteer.training.state import IndexEncoders, Position, TrainState

logger = logging.getLogger(__name__)


class TrainingBatch(Protocol):
    """What the loop knows of a batch; the rest is between who builds it and the step."""

    @property
    def examples(self) -> Sequence[Any]:
        """One for each query of this rank."""
        ...

    @property
    def query_tokens(self) -> TokenLists:
        """The retriever's ids of each query."""
        ...

    @property
    def target_tokens(self) -> Tensor | None:
        """How many tokens the reader learns from; None where nothing is read."""
        ...


class BatchSource(Protocol):
    """Training data, by numbers of examples."""

    @property
    def count(self) -> int:
        """Number of examples."""
        ...

    def build(self, draws: Sequence[Draw]) -> Any:  # noqa: ANN401 - a TrainingBatch of the step's
        """One batch."""
        ...


class Miner(Protocol):
    """Finds training data in the index; what it found is part of a run's state."""

    def mine(self, step: int) -> None:
        """Search the index as it is now. Collective: every rank must call this."""
        ...

    def save(self, folder: Path) -> None:
        """Write what is in use into a checkpoint. On one rank."""
        ...

    def load(self, folder: Path) -> bool:
        """Use what a checkpoint holds; False where there is nothing. Not a collective."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """The objects of a run. What changes is in `state` and in the weights.

    Attributes:
        options: as resolved.
        ranks: this process among its peers.
        folder: of the experiment.
        plan: which step does what.
        models: reader, retriever and compressor.
        step: the training step, whose weights are replicated.
        retrieving: corpus, index and its keeper; None where nothing is searched.
        refreshes: when the index is embedded anew.
        batches: training data.
        evaluate: evaluates and reports, given the step; every rank calls it.
        state: what a resumed run needs.
        peak_rates: learning rates of its optimisers, by the same names.
        checkpoints: where it is saved.
        saving: writes checkpoints beside training; idle without `--async_save`.
        copies: the models as they are written, where that is not done with those that learn.
        export: told each new checkpoint, on the main rank alone; None for nothing.
        miner: called with every new version of the index; None where nothing is mined.
        save_more: writes further models into a checkpoint's folder, on the main rank alone.
    """

    options: Options
    ranks: Ranks
    folder: Path
    plan: StepPlan
    models: build.Models
    step: nn.Module
    retrieving: Retrieving | None
    refreshes: tuple[RefreshRange, ...]
    batches: BatchSource
    evaluate: Callable[[int, Reporter], None]
    state: TrainState
    peak_rates: Mapping[str, float]
    checkpoints: CheckpointFolder
    saving: BackgroundWork = field(default_factory=BackgroundWork)
    copies: ModelCopies | None = None
    export: Callable[[Path], None] | None = None
    miner: Miner | None = None
    save_more: Callable[[Path], None] | None = None

    def trains_retriever(self, micro_batch: int) -> bool:
        """Whether the retriever learns from the micro-batch of this (0-based) number."""
        frozen = self.options.retriever.freeze_retriever_steps
        return self.options.retriever.train_retriever and micro_batch + 1 > frozen

    def refresh_is_due(self, micro_batch: int) -> bool:
        """Whether the index is embedded anew before this (0-based) micro-batch."""
        return micro_batch > 0 and is_refresh_step(
            self.refreshes,
            micro_batch,
            self.options.retriever.train_retriever and self._index_can_age,
            self.options.retriever.freeze_retriever_steps,
        )

    @property
    def _index_can_age(self) -> bool:
        """A frozen passage tower embeds every passage as it did before."""
        return not self.options.retriever.query_side_retriever_training

    def save(self) -> None:
        """Write a checkpoint of the run as it is now, or begin to.

        Collective: every rank must call this.
        """
        step = self.state.position.micro_batches
        keep = self.options.optimisation.save_optimizer
        write = self._writing()
        if self.options.sharding.async_save:
            self.checkpoints.save_beside(
                self.saving, step, write, self.ranks, keep_optimisers=keep, then=self._saved
            )
            return
        path = self.checkpoints.save(step, write, self.ranks, keep_optimisers=keep)
        main_first(lambda: self._saved(path), self.ranks)

    def finish_saving(self) -> None:
        """Wait until the last checkpoint is written.

        Collective: every rank must call this.

        Raises:
            CheckpointError: it could not be. Raised at once, where it happened: others may still
                wait for this rank's part, and learn of its end from the watch over all ranks.
        """
        self.saving.wait()
        barrier()

    def _saved(self, path: Path) -> None:
        logger.info("saved %s", path)
        if self.export is not None:
            self.export(path)

    def _writing(self) -> Callable[[Path], None]:
        """What writes this rank's part of the run as it is now.

        Collective: every rank must call this; what it returns is none. With `--async_save` that may
        be called while training goes on: all of it was copied.
        """
        self.saving.wait()
        copied = self.options.sharding.async_save
        state = self.state.files(self.ranks, self._note_index(), copied=copied)
        copies, models = self.copies, self.models
        if copies is not None:
            copies.fill(torch.device("cpu"), is_wanted=self.ranks.is_main)
            models = copies.models

        def write(folder: Path) -> None:
            state.write(folder)
            if self.ranks.is_main:
                save_options(self.options, folder / OPTIONS_FILE)
                save_models(models, folder)
                if self.miner is not None:
                    self.miner.save(folder)
                if self.save_more is not None:
                    self.save_more(folder)
            if copies is not None:
                copies.empty()

        return write

    def _note_index(self) -> IndexEncoders:
        """Put what the index is into the position, and say which weights made it."""
        if self.retrieving is None:
            return IndexEncoders({}, {})
        position, keeper = self.state.position, self.retrieving.keeper
        version = keeper.in_progress
        position.index_step = keeper.step
        position.index_is_foreign = int(keeper.is_foreign)
        position.next_index_step = version.step if version else 0
        position.slices = version.slices if version else 0
        position.slices_done = version.slices_done if version else 0
        return IndexEncoders(keeper.made_by(), version.weights if version else {})


def save_models(models: build.Models, folder: Path) -> None:
    """Write all models so that `--model_path folder` and transformers read them."""
    if models.reader is not None and models.reader_tokenizer is not None:
        save_reader(models.reader, models.reader_tokenizer, folder / build.READER_FOLDER)
    if models.retriever is not None and models.retriever_tokenizer is not None:
        target = folder / build.RETRIEVER_FOLDER
        save_retriever(models.retriever, models.retriever_tokenizer, target)
    if models.compressor is not None and models.compressor_tokenizer is not None:
        target = folder / COMPRESSOR_FOLDER
        save_compressor(models.compressor, models.compressor_tokenizer, target)


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
    copies = ModelCopies(models) if is_cut or options.sharding.async_save else None
    whole = ModelCopies(models) if is_cut else None
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


def start(run: TrainingRun, beginning: Beginning) -> None:
    """Bring a run to where it left off, and fill its index.

    Collective: every rank must call this.
    """
    checkpoint = beginning.resumed
    keeper = run.retrieving.keeper if run.retrieving else None
    if checkpoint is None:
        if keeper is not None:
            keeper.fill()
        if run.miner is not None:
            run.miner.mine(0)
        return
    encoders, notes = run.state.load(checkpoint, run.ranks, run.options.experiment.seed)
    position = run.state.position
    logger.info("resuming from %s at step %d", checkpoint, position.micro_batches)
    for note in notes:
        logger.warning("%s", note)
    if position.micro_batches >= run.plan.total:
        logger.info("--total_steps %d is reached already: nothing to do", run.plan.total)
    elif keeper is not None:
        _restore_index(keeper, position, encoders)
        _restore_mined(run, checkpoint)
    if position.step_size not in (0, run.plan.size):
        logger.warning(
            "a step reads %d examples of all workers together, it was %d before; "
            "--global_batch_size %d keeps it on any number of workers",
            run.plan.size,
            position.step_size,
            position.step_size,
        )
    for note in beginning.notes:
        logger.warning("%s", note)


def _restore_index(keeper: IndexKeeper, position: Position, encoders: IndexEncoders) -> None:
    is_foreign = bool(position.index_is_foreign)
    keeper.restore(position.index_step, encoders.serving, is_foreign=is_foreign)
    if position.slices:
        keeper.restore_in_progress(
            position.next_index_step, position.slices, position.slices_done, encoders.next
        )


def _restore_mined(run: TrainingRun, checkpoint: Path) -> None:
    """Go on with what was mined; mine now if nothing was, since the flag is new to the run."""
    miner = run.miner
    if miner is not None and not build_alike(lambda: miner.load(checkpoint), run.ranks):
        miner.mine(run.state.position.micro_batches)


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
