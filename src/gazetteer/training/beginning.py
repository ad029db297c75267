"""Where a run begins, a checkpoint of its own, of another run, or the first step; going there."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from gazetteer import build
from gazetteer.compute import seed_everything
from gazetteer.convert.atlas_checkpoint import ATLAS_FILE
from gazetteer.distributed.agreement import build_alike
from gazetteer.errors import OptionError
from gazetteer.indexing import IndexKeeper
from gazetteer.options import OPTIONS_FILE, Options, options_to_dict, read_options
from gazetteer.records import Ranks
from gazetteer.training.checkpoint import CheckpointFolder
from gazetteer.training.run import TrainingRun
from gazetteer.training.state import IndexEncoders, Position

logger = logging.getLogger(__name__)

MODEL_FLAGS = {"compressor_model_path", "model_path", "reader_model_type", "retriever_model_path"}
"""Where a run begins; on resuming it has models of its own."""
FIXED_BY_CHECKPOINT = {
    "add_linear_head",
    "compression_rate",
    "compressor",
    "compressor_layers",
    "compressor_pooling",
    "encoder_only",
    "lora_alpha",
    "lora_modules",
    "lora_rank",
    "lora_target",
    "num_memory_tokens",
    "precision",
    "projection_in_dim",
    "projection_out_dim",
    "query_side_retriever_training",
    "rerank_target",
    "retriever_kind",
    "retriever_normalize",
    "retriever_pooling",
    "untie_retriever",
}
"""What weights and optimiser states are for; no run can change it on the way."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a run begins.

    Attributes:
        checkpoints: of the experiment.
        resumed: the newest intact one of them; None where the run is new.
        models: folder of the checkpoint whose models it starts from; None = pretrained parts.
        notes: what changed since the checkpoint that is resumed.
    """

    checkpoints: CheckpointFolder
    resumed: Path | None
    models: Path | None
    notes: tuple[str, ...]


def begin(options: Options, ranks: Ranks) -> Beginning:
    """Seed this rank, and find the newest checkpoint of the experiment, else `--model_path`.

    Collective: every rank must call this.

    Raises:
        OptionError: a flag that the checkpoint was made with cannot change on the way, or Atlas's
            own checkpoints are in the experiment's folder; the same on every rank.
        CheckpointError: what `--model_path` names is none, or damaged; likewise.
    """
    seed_everything(options.experiment.seed + ranks.rank)
    return build_alike(lambda: _find_beginning(options), ranks)


def _find_beginning(options: Options) -> Beginning:
    checkpoints = CheckpointFolder(options.experiment.folder / "checkpoint")
    resumed = checkpoints.newest_intact()
    if resumed is None:
        _refuse_atlas_run(checkpoints.path)
    notes = _changed_options(options, resumed) if resumed else []
    return Beginning(checkpoints, resumed, resumed or build.model_folder(options), tuple(notes))


def _refuse_atlas_run(folder: Path) -> None:
    """Atlas would resume there; we would begin anew, and put our checkpoints where its are."""
    found = next(iter(sorted(folder.glob(f"*/{ATLAS_FILE}"))), None)
    if found is not None:
        raise OptionError(
            f"--name: {folder} holds checkpoints of Atlas, which are not resumed; choose another "
            f"--name, and --model_path {found.parent} to start from their weights"
        )


def _changed_options(options: Options, checkpoint: Path) -> list[str]:
    """What to say about flags that are not those the checkpoint was written with."""
    before, now = options_to_dict(read_options(checkpoint / OPTIONS_FILE)), options_to_dict(options)
    changed = {n: v for n, v in now.items() if n != "config" and before.get(n, v) != v}
    for name in FIXED_BY_CHECKPOINT & changed.keys():
        raise OptionError(
            f"--{name} is {changed[name]}, in {checkpoint} it was {before[name]}: resume with the "
            "same value, or start another run with another --name and this --model_path"
        )
    return [
        f"--{name} was {before[name]} in the checkpoint, now {value}; "
        + ("the checkpoint's models go on" if name in MODEL_FLAGS else "the command line wins")
        for name, value in changed.items()
    ]


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
