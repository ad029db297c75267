"""A training run: its objects, its state, and how that state is saved."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gazetteer import build
from gazetteer.build_compressor import COMPRESSOR_FOLDER
from gazetteer.build_search import Retrieving
from gazetteer.compressor import save_compressor
from gazetteer.data.sampling import Draw
from gazetteer.distributed.agreement import main_first, raise_together
from gazetteer.options import OPTIONS_FILE, Options, save_options
from gazetteer.reader import save_reader
from gazetteer.records import Ranks, TokenLists
from gazetteer.refresh_schedule import RefreshRange, is_refresh_step
from gazetteer.reporting import Reporter
from gazetteer.retriever import save_retriever
from gazetteer.training.background import BackgroundWork
from gazetteer.training.checkpoint import CheckpointFolder
from gazetteer.training.model_copies import ModelCopies
from gazetteer.training.plan import StepPlan
from gazetteer.training.state import IndexEncoders, TrainState

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

    def writing(self) -> Callable[[Path], None]:
        """What writes into a checkpoint what is in use now; on one rank, perhaps later."""
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
        save_more: writes further models, live ones, into a checkpoint's folder, on the main rank
            alone; not with `--async_save`.
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
            UnsavedError: the disk did not take it; the same on every rank.
            CheckpointError: it could not be. Raised at once, where it happened: others may still
                wait for this rank's part, and learn of its end from the watch over all ranks.
        """
        raise_together(self.saving.wait(), self.ranks)

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
        write_mined = self.miner.writing() if self.miner is not None else None
        if copies is not None:
            copies.fill(torch.device("cpu"), is_wanted=self.ranks.is_main)
            models = copies.models

        def write(folder: Path) -> None:
            try:
                state.write(folder)
                if self.ranks.is_main:
                    save_options(self.options, folder / OPTIONS_FILE)
                    save_models(models, folder)
                    if write_mined is not None:
                        write_mined(folder)
                    if self.save_more is not None:
                        self.save_more(folder)
            finally:
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
