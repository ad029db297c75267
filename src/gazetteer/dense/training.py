"""`train.py --task dense`: options -> a run of the loop that trains readers, too."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from gazetteer import build
from gazetteer.build_search import (
    retriever_max_tokens,
)
from gazetteer.compute import use_fast_float32_matmul
from gazetteer.data.marked_templates import MarkedTemplate
from gazetteer.data.queries import QueryTokenizer
from gazetteer.data.tokens import PassageTokens, SpecialTokens
from gazetteer.dense.batches import DenseBatches
from gazetteer.dense.build_mining import build_mining
from gazetteer.dense.data import DenseData, is_scored, open_data
from gazetteer.dense.dev_retrieval import DevRetrieval
from gazetteer.dense.distillation import (
    TEACHER,
    LeadBatches,
    TokenisedModel,
    build_lead_step,
    open_teacher,
    require_texts,
)
from gazetteer.dense.evaluation import Measurement, ValidationLoss, report_all
from gazetteer.dense.grad_cache import ChunkSizes
from gazetteer.dense.known_positives import KnownPositives
from gazetteer.dense.line_store import LineStore
from gazetteer.dense.picking import Picker
from gazetteer.dense.step import DenseLesson, DenseStep
from gazetteer.dense.towers import Towers
from gazetteer.distributed.agreement import (
    main_first,
)
from gazetteer.distributed.replicas import replicate
from gazetteer.flags import with_values
from gazetteer.options import Options
from gazetteer.records import Ranks
from gazetteer.refresh_schedule import parse_refresh_schedule
from gazetteer.reporting import start_experiment, start_log
from gazetteer.retriever import DualEncoder, save_retriever
from gazetteer.training.beginning import Beginning, begin, start
from gazetteer.training.building import step_plan
from gazetteer.training.learning import assign, train_state
from gazetteer.training.loop import carry_out
from gazetteer.training.model_copies import ModelCopies
from gazetteer.training.plan import StepPlan
from gazetteer.training.run import TrainingRun

RETRIEVER = "retriever"
"""Name of the only model that learns, for the state and the log."""


def train(options: Options, ranks: Ranks) -> int:
    """Train a retriever until the end of the plan, or until asked to stop.

    Collective: every rank must call this.

    Returns:
        Exit code: 0, or 75 when a signal ended the run early; the state is saved either way.
    """
    start_log(ranks)
    beginning = begin(options, ranks)
    models = build.build_models(options, ranks, beginning.models)
    retriever, tokenizer = _retriever_of(models)
    data = open_data(options, ranks, tokenizer, embedding_dim=retriever.embedding_dim)
    teaching = None
    if options.lead.teacher is not None:
        teacher = open_teacher(options, ranks, beginning.resumed)
        require_texts(options, ranks, tokenizer, teacher.tokenizer)
        lessons = with_values(options, {"eval_data": [], "dev_queries": None})
        teaching = teacher, open_data(lessons, ranks, teacher.tokenizer)
    start_experiment(options.experiment.folder, options, ranks)
    use_fast_float32_matmul()
    run = build_training(options, ranks, beginning, models, data, teaching)
    logs = options.dense.logging_dir
    code = carry_out(run, Path(logs) if logs else None)
    if code == 0 and options.dense.export_path is not None:
        export = Path(options.dense.export_path)
        main_first(lambda: save_retriever(retriever, tokenizer, export), ranks)
    return code


def build_training(
    options: Options,
    ranks: Ranks,
    beginning: Beginning,
    models: build.Models,
    data: DenseData,
    teaching: tuple[TokenisedModel, DenseData] | None = None,
) -> TrainingRun:
    """Build a run, and bring it to where it left off.

    Collective: every rank must call this.

    Args:
        options: of the run.
        ranks: this process among its peers.
        beginning: where it begins.
        models: the retriever.
        data: in the retriever's tokens.
        teaching: a teacher whose layers teach the retriever's, and the data in its tokens.
    """
    retriever, tokenizer = _retriever_of(models)
    teacher = teaching[0] if teaching else None
    towers, lesson = Towers(retriever).to(ranks.device), build_lesson(options, retriever)
    measurements: list[Measurement] = [
        *validation_losses(options, ranks, data, tokenizer, DenseStep(towers, lesson, None))
    ]
    if data.dev is not None:
        measurements.append(_dev_retrieval(options, ranks, data, retriever, tokenizer))
    trained = {RETRIEVER: list(retriever.named_parameters())}
    if teacher is not None and options.lead.train_teacher:
        trained[TEACHER] = list(teacher.model.named_parameters())
    peak_rates = dict.fromkeys(trained, options.optimisation.lr_retriever)
    state = train_state(options, trained, peak_rates, owners=assign(options, ranks, trained))
    if teacher is None:
        step: nn.Module = DenseStep(replicate(towers, ranks), lesson, build_chunks(options))
    else:
        step = build_lead_step(options, ranks, retriever, teacher.model, state.position)
    batches = _training_batches(options, data, tokenizer, teaching)
    retrieving, miner = build_mining(options, ranks, models, data.passages, batches)
    export = options.dense.export_path
    run = TrainingRun(
        options=options,
        ranks=ranks,
        folder=options.experiment.folder,
        plan=dense_plan(options, ranks, data.train.count),
        models=models,
        step=step,
        retrieving=retrieving,
        refreshes=parse_refresh_schedule(options.index.refresh_index) if retrieving else (),
        batches=batches,
        evaluate=partial(report_all, measurements),
        state=state,
        peak_rates=peak_rates,
        checkpoints=beginning.checkpoints,
        copies=ModelCopies(models) if options.sharding.async_save else None,
        export=partial(link_checkpoint, Path(export)) if export else None,
        miner=miner,
        save_more=_saving_teacher(teacher) if TEACHER in trained else None,
    )
    return started(run, beginning, data)


def started(run: TrainingRun, beginning: Beginning, data: DenseData) -> TrainingRun:
    """The run where it left off, with the plan of what is left.

    Collective: every rank must call this.
    """
    start(run, beginning)
    done = run.state.position
    return replace(
        run,
        plan=dense_plan(
            run.options, run.ranks, data.train.count, done.micro_batches, done.examples
        ),
    )


def _saving_teacher(teacher: TokenisedModel | None) -> Callable[[Path], None]:
    assert teacher is not None
    return lambda checkpoint: teacher.save(checkpoint / TEACHER)


def validation_losses(
    options: Options,
    ranks: Ranks,
    data: DenseData,
    tokenizer: PreTrainedTokenizerBase,
    step: nn.Module,
) -> tuple[ValidationLoss, ...]:
    """The loss of `step`, which is not replicated, on each file of `--eval_data`."""
    special = SpecialTokens.of(tokenizer)
    return tuple(
        ValidationLoss(
            name=name,
            batches=build_batches(options, lines, data.corpus, special, is_training=False),
            step=step,
            size=step_plan(options, ranks).size,
            ranks=ranks,
        )
        for name, lines in data.evaluations
    )


def _training_batches(
    options: Options,
    data: DenseData,
    tokenizer: PreTrainedTokenizerBase,
    teaching: tuple[TokenisedModel, DenseData] | None,
) -> DenseBatches | LeadBatches:
    def batches(of: DenseData, tokens_of: PreTrainedTokenizerBase) -> DenseBatches:
        special = SpecialTokens.of(tokens_of)
        return build_batches(options, of.train, of.corpus, special, is_training=True)

    own = batches(data, tokenizer)
    if teaching is None:
        return own
    teacher, teachers_data = teaching
    return LeadBatches(own, batches(teachers_data, teacher.tokenizer))


def _dev_retrieval(
    options: Options,
    ranks: Ranks,
    data: DenseData,
    retriever: DualEncoder,
    tokenizer: PreTrainedTokenizerBase,
) -> DevRetrieval:
    assert data.dev is not None and data.corpus is not None and options.dense.dev_queries
    template = MarkedTemplate.parse_marked(options.dense.query_template)
    texts = [template.fill({"id": query.id, "text": query.text}) for query in data.dev.queries]
    encode = QueryTokenizer(tokenizer, max_tokens=options.dense.q_max_len).encode
    name = Path(options.dense.dev_queries).resolve().name
    return DevRetrieval(name, data.dev, encode(texts), data.corpus, retriever, ranks)


def build_lesson(options: Options, retriever: DualEncoder) -> DenseLesson:
    """What the retriever learns from a batch."""
    dense = options.dense
    return DenseLesson(
        loss=dense.dense_loss,
        passages=dense.train_n_passages,
        temperature=dense.dense_temperature,
        teacher_temperature=dense.teacher_temperature,
        gathers=dense.negatives_x_device and dense.dense_loss == "infonce",
        dims=tuple(dense.matryoshka_dims),
        normalizes=retriever.query_tower.normalize,
    )


def build_chunks(options: Options) -> ChunkSizes | None:
    """Chunks of `--grad_cache`; None without."""
    dense = options.dense
    return ChunkSizes(dense.gc_q_chunk_size, dense.gc_p_chunk_size) if dense.grad_cache else None


def build_batches(
    options: Options,
    lines: LineStore,
    corpus: PassageTokens | None,
    special: SpecialTokens,
    *,
    is_training: bool,
) -> DenseBatches:
    """From lines to batches; in evaluation a line always has its first passages."""
    dense = options.dense
    return DenseBatches(
        lines,
        corpus,
        special,
        Picker(
            negatives=dense.train_n_passages - 1,
            seed=options.experiment.seed,
            shuffles_positives=is_training and not dense.positive_passage_no_shuffle,
            shuffles_negatives=is_training and not dense.negative_passage_no_shuffle,
        ),
        query_tokens=dense.q_max_len,
        passage_tokens=retriever_max_tokens(options),
        scored=is_scored(options),
        known=KnownPositives(lines) if dense.mask_known_positives else None,
    )


def dense_plan(
    options: Options, ranks: Ranks, count: int, micro_batches: int = 0, examples: int = 0
) -> StepPlan:
    """The steps of a run, as flags say.

    Args:
        options: of the run.
        ranks: this process among its peers.
        count: lines to train on.
        micro_batches: done so far, perhaps by another number of workers.
        examples: read by them.
    """
    # In one pass: the loss of a query depends on all passages that are read with it.
    plan, dense = replace(step_plan(options, ranks), passes=1), options.dense
    if dense.num_train_epochs is not None:
        # Not one example more for what 0.1 + 0.2 is in binary.
        wanted = math.ceil(round(dense.num_train_epochs * count, 6))
        total = micro_batches + max(0, -(-(wanted - examples) // plan.size))
        schedule = options.optimisation.scheduler_steps or total
        plan = replace(plan, total=total, schedule=schedule, examples=wanted)
    if dense.warmup_ratio is not None:
        plan = replace(plan, warmup=math.ceil(round(dense.warmup_ratio * plan.total, 6)))
    return plan


def link_checkpoint(export: Path, checkpoint: Path) -> None:
    """Show the retriever of a checkpoint as `checkpoint-N`, as a link that can be moved along."""
    export.mkdir(parents=True, exist_ok=True)
    link = export / checkpoint.name.replace("step-", "checkpoint-")
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    target = checkpoint / build.RETRIEVER_FOLDER
    temporary.symlink_to(os.path.relpath(target.resolve(), export.resolve()))
    temporary.replace(link)


def _retriever_of(models: build.Models) -> tuple[DualEncoder, PreTrainedTokenizerBase]:
    assert models.retriever is not None and models.retriever_tokenizer is not None
    return models.retriever, models.retriever_tokenizer
