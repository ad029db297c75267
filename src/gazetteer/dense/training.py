"""`train.py --task dense`: options -> a run of the loop that trains readers, too."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from gazetteer import build
from gazetteer.build_search import (
    build_passage_tokens,
    retriever_max_tokens,
    retriever_template,
)
from gazetteer.compute import use_fast_float32_matmul
from gazetteer.data.marked_templates import MarkedTemplate
from gazetteer.data.passages import PassageStore
from gazetteer.data.queries import QueryTokenizer
from gazetteer.data.tokens import PassageTokens, SpecialTokens
from gazetteer.data_files import open_corpus, shows_progress
from gazetteer.dense.batches import DenseBatches
from gazetteer.dense.build_mining import build_mining
from gazetteer.dense.dev_retrieval import DevCollection, DevRetrieval
from gazetteer.dense.evaluation import Measurement, ValidationLoss, report_all
from gazetteer.dense.grad_cache import ChunkSizes
from gazetteer.dense.line_files import LineTexts, cached_lines
from gazetteer.dense.line_store import LineStore
from gazetteer.dense.picking import Picker
from gazetteer.dense.step import DenseLesson, DenseStep
from gazetteer.dense.towers import Towers
from gazetteer.dense_options import dev_files
from gazetteer.distributed.agreement import (
    build_alike,
    build_main_first,
    main_first,
    raise_together,
)
from gazetteer.distributed.replicas import replicate, unwrapped
from gazetteer.errors import DataError, GazetteerError, OptionError
from gazetteer.options import Options
from gazetteer.records import Ranks
from gazetteer.refresh_schedule import parse_refresh_schedule
from gazetteer.reporting import start_experiment, start_log
from gazetteer.retriever import DualEncoder, save_retriever
from gazetteer.training.loop import carry_out
from gazetteer.training.plan import StepPlan
from gazetteer.training.run import Beginning, TrainingRun, begin, start, step_plan, train_state

RETRIEVER = "retriever"
"""Name of the only model that learns, for the state and the log."""


@dataclass(frozen=True, slots=True)
class DenseData:
    """What a dense run reads.

    Attributes:
        train: lines of `--train_data`.
        evaluations: name and lines of each file of `--eval_data`.
        passages: of `--passages`; None without.
        corpus: their tokens.
        dev: what `--dev_queries` are searched in; None without.
    """

    train: LineStore
    evaluations: tuple[tuple[str, LineStore], ...]
    passages: PassageStore | None
    corpus: PassageTokens | None
    dev: DevCollection | None


def train(options: Options, ranks: Ranks) -> int:
    """Train a retriever until the end of the plan, or until asked to stop.

    Collective: every rank must call this.

    Returns:
        Exit code: 0, or 75 when a signal ended the run early; the state is saved either way.
    """
    start_log(ranks)
    beginning = begin(options, ranks)
    models = build.build_models(options, ranks, beginning.models)
    data = open_data(options, ranks, models)
    start_experiment(options.experiment.folder, options, ranks)
    use_fast_float32_matmul()
    run = build_training(options, ranks, beginning, models, data)
    logs = options.dense.logging_dir
    code = carry_out(run, Path(logs) if logs else None)
    if code == 0 and options.dense.export_path is not None:
        export = Path(options.dense.export_path)
        retriever, tokenizer = _retriever_of(models)
        main_first(lambda: save_retriever(retriever, tokenizer, export), ranks)
    return code


def open_data(options: Options, ranks: Ranks, models: build.Models) -> DenseData:
    """Open everything a run reads, and check it to the last line.

    Collective: every rank must call this.

    Raises:
        GazetteerError: a bad line, or one that the flags cannot use; the same on every rank.
    """
    retriever, tokenizer = _retriever_of(models)
    has_passages = bool(options.data.passages or options.mining.mine_negatives)
    store = open_corpus(options, ranks) if has_passages else None
    limit = retriever_max_tokens(options)
    corpus = None
    if store is not None:
        template = retriever_template(options)
        corpus = build_passage_tokens(options, ranks, store, tokenizer, template, limit)
    texts = LineTexts(
        tokenizer=tokenizer,
        query_template=MarkedTemplate.parse_marked(options.dense.query_template),
        passage_template=retriever_template(options),
        query_tokens=options.dense.q_max_len,
        passage_tokens=limit,
    )
    train = _lines(options, ranks, texts, store, options.data.train_data, "--train_data")
    evaluations = tuple(
        (Path(path).name, _lines(options, ranks, texts, store, [path], "--eval_data"))
        for path in options.data.eval_data
    )
    named = [("--train_data", train), *(("--eval_data", lines) for _, lines in evaluations)]
    problem = next(filter(None, (_unusable(options, lines, flag) for flag, lines in named)), None)
    raise_together(problem or _unfit(options, retriever, tokenizer), ranks)
    return DenseData(train, evaluations, store, corpus, _dev_collection(options, ranks, store))


def _dev_collection(
    options: Options, ranks: Ranks, corpus: PassageStore | None
) -> DevCollection | None:
    dense, seed = options.dense, options.experiment.seed
    if dense.dev_queries is None:
        return None
    assert corpus is not None, "option rules require --passages"
    queries, qrels = dev_files(dense)
    return build_alike(
        lambda: DevCollection.open(queries, qrels, corpus, sample=dense.dev_passages, seed=seed),
        ranks,
    )


def _lines(
    options: Options,
    ranks: Ranks,
    texts: LineTexts,
    corpus: PassageStore | None,
    paths: Sequence[str],
    flag: str,
) -> LineStore:
    def build_lines() -> LineStore:
        return cached_lines(
            [Path(path) for path in paths],
            texts,
            corpus,
            options.data.cache_folder,
            flag=flag,
            show_progress=shows_progress(options, ranks),
        )

    return build_main_first(build_lines, ranks)


def _unusable(options: Options, lines: LineStore, flag: str) -> GazetteerError | None:
    """What these lines lack."""
    dense = options.dense
    number = lines.first_line_with_fewer(min(dense.train_n_passages - 1, 1))
    is_mined = options.mining.mine_negatives > 0 and flag == "--train_data"
    if number is not None and not is_mined:
        return DataError(
            f"{flag}: example {number + 1} has no negatives; with --train_n_passages "
            f"({dense.train_n_passages}) above 1 each example needs one"
        )
    number = lines.first_line_without_scores() if _is_scored(options) else None
    if number is not None:
        return DataError(
            f"{flag}: example {number + 1} has a passage without a score, which --dense_loss "
            f"{dense.dense_loss} needs"
        )
    return None


def _unfit(
    options: Options, retriever: DualEncoder, tokenizer: PreTrainedTokenizerBase
) -> GazetteerError | None:
    """What the model has no room for."""
    dense, special = options.dense, SpecialTokens.of(tokenizer).count
    for name in ("q_max_len", "p_max_len"):
        limit = getattr(dense, name)
        if limit <= special:
            rule = f"be above {special}, the number of the model's special tokens"
            return OptionError(f"--{name} ({limit}) must {rule}")
    for dim in dense.matryoshka_dims:
        if dim > retriever.embedding_dim:
            rule = f"be at most {retriever.embedding_dim}, the length of the model's embeddings"
            return OptionError(f"--matryoshka_dims ({dim}) must {rule}")
    return None


def build_training(
    options: Options, ranks: Ranks, beginning: Beginning, models: build.Models, data: DenseData
) -> TrainingRun:
    """Build a run, and bring it to where it left off.

    Collective: every rank must call this.
    """
    retriever, tokenizer = _retriever_of(models)
    lesson = build_lesson(options, retriever)
    towers = replicate(Towers(retriever).to(ranks.device), ranks)
    special, peak_rates = (
        SpecialTokens.of(tokenizer),
        {RETRIEVER: options.optimisation.lr_retriever},
    )
    measurements: list[Measurement] = [
        ValidationLoss(
            name=name,
            batches=build_batches(options, lines, data.corpus, special, is_training=False),
            step=DenseStep(unwrapped(towers), lesson, None),
            batch_size=options.data.per_gpu_batch_size,
            ranks=ranks,
        )
        for name, lines in data.evaluations
    ]
    if data.dev is not None:
        measurements.append(_dev_retrieval(options, ranks, data, retriever, tokenizer))
    batches = build_batches(options, data.train, data.corpus, special, is_training=True)
    retrieving, miner = build_mining(options, ranks, models, data.passages, batches)
    export = options.dense.export_path
    run = TrainingRun(
        options=options,
        ranks=ranks,
        folder=options.experiment.folder,
        plan=dense_plan(options, ranks, data.train.count),
        models=models,
        step=DenseStep(towers, lesson, build_chunks(options)),
        retrieving=retrieving,
        refreshes=parse_refresh_schedule(options.index.refresh_index) if retrieving else (),
        batches=batches,
        evaluate=partial(report_all, measurements),
        state=train_state(options, {RETRIEVER: retriever}, peak_rates),
        peak_rates=peak_rates,
        checkpoints=beginning.checkpoints,
        export=partial(link_checkpoint, Path(export)) if export else None,
        miner=miner,
    )
    start(run, beginning)
    done = run.state.position
    return replace(
        run, plan=dense_plan(options, ranks, data.train.count, done.micro_batches, done.examples)
    )


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
        scored=_is_scored(options),
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
    plan, dense = step_plan(options), options.dense
    if dense.num_train_epochs is not None:
        # Not one example more for what 0.1 + 0.2 is in binary.
        wanted = math.ceil(round(dense.num_train_epochs * count, 6))
        at_once = options.data.per_gpu_batch_size * ranks.world_size
        total = micro_batches + max(0, -(-(wanted - examples) // at_once))
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


def _is_scored(options: Options) -> bool:
    return options.dense.dense_loss != "infonce"


def _retriever_of(models: build.Models) -> tuple[DualEncoder, PreTrainedTokenizerBase]:
    assert models.retriever is not None and models.retriever_tokenizer is not None
    return models.retriever, models.retriever_tokenizer
