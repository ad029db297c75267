"""Options -> evaluations, one per data file; and the program `evaluate.py` runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gazetteer import build
from gazetteer.build_search import Retrieving, build_retrieving
from gazetteer.compute import seed_everything, use_fast_float32_matmul
from gazetteer.data.examples import ExampleFiles
from gazetteer.data.passages import PassageStore
from gazetteer.data_files import build_measures, build_task, open_data, shows_progress
from gazetteer.distributed.agreement import build_alike, main_first
from gazetteer.evaluation.closed_answers import ClosedAnswers
from gazetteer.evaluation.collections import CollectionEvaluator, Found, write_collection
from gazetteer.evaluation.loop import Evaluator, ReadingStage
from gazetteer.ir.judged_queries import JudgedQueries
from gazetteer.options import Options
from gazetteer.records import Ranks
from gazetteer.reporting import Reporter, start_experiment, start_log
from gazetteer.tasks.base import Task
from gazetteer.tasks.batches import BatchBuilder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One data file to evaluate.

    Attributes:
        name: the file's name, as logged.
        batches: its examples.
        evaluator: how they are answered and judged.
        passages: text of the hits; None with the book closed.
    """

    name: str
    batches: BatchBuilder
    evaluator: Evaluator
    passages: PassageStore | None


def build_evaluation(
    options: Options,
    ranks: Ranks,
    models: build.Models,
    retrieving: Retrieving | None,
    task: Task,
    files: ExampleFiles,
) -> Evaluation:
    """Everything needed to evaluate one file of `--eval_data`.

    Collective: every rank must call this.
    """
    passages = retrieving.corpus if retrieving else files.passages
    evaluator = Evaluator(
        source=build.build_source(models, retrieving),
        reading=_reading(options, ranks, models, passages, task),
        task=task,
        n_context=options.reader.n_context,
        batch_size=options.data.per_gpu_batch_size,
        ranks=ranks,
        show_progress=shows_progress(options, ranks),
        write_passages=not options.data.dont_write_passages,
    )
    return Evaluation(
        name=files.paths[0].name,
        batches=build.build_batches(options, ranks, models, files, task, is_training=False),
        evaluator=evaluator,
        passages=passages,
    )


def _reading(
    options: Options,
    ranks: Ranks,
    models: build.Models,
    passages: PassageStore | None,
    task: Task,
) -> ReadingStage | None:
    if models.reader is None or models.reader_tokenizer is None:
        return None
    return ReadingStage(
        reader=models.reader,
        tokenizer=models.reader_tokenizer,
        inputs=build.build_reader_inputs(options, ranks, models, passages),
        generation=build.build_generation(options),
        compressor=models.compressor,
        candidates=options.compressor.rerank_by_compressor,
        closed=build_alike(lambda: _closed_answers(options, models, task), ranks),
    )


def _closed_answers(options: Options, models: build.Models, task: Task) -> ClosedAnswers | None:
    compares = options.task.rank_candidates
    tokenizer = build.build_target_tokenizer(options, models)
    if tokenizer is None or not (task.debiases or compares):
        return None
    return ClosedAnswers(task.candidates, tokenizer, debiases=task.debiases, compares=compares)


def evaluate_all(
    evaluations: Sequence[Evaluation],
    folder: Path,
    step: int,
    reporter: Reporter,
    *,
    write_results: bool,
) -> None:
    """Evaluate every file and report it.

    Collective: every rank must call this.

    Results go to `{folder}/{file without extension}-step-{step}.jsonl`, as in Atlas.
    """
    for evaluation in evaluations:
        name = f"{Path(evaluation.name).stem}-step-{step}.jsonl"
        measured = evaluation.evaluator.evaluate(
            evaluation.batches,
            evaluation.passages,
            folder / name if write_results else None,
            evaluation.name,
        )
        reporter.evaluation(step, evaluation.name, measured.averages, measured.intervals)
        for line in evaluation.evaluator.remarks(measured):
            logger.warning("%s: %s", evaluation.name, line)


def evaluate_collections(
    options: Options,
    ranks: Ranks,
    models: build.Models,
    retrieving: Retrieving,
    collections: Sequence[JudgedQueries],
    reporter: Reporter,
) -> None:
    """Search every test collection of `--eval_data`, report, and write what was found.

    Collective: every rank must call this.

    Results go to `{collection}-step-0.trec` and `.tsv`, and with `--write_results` to `.jsonl`.
    """
    evaluator = CollectionEvaluator(
        source=build.build_source(models, retrieving),
        passages=retrieving.corpus,
        measures=build_measures(options),
        depth=options.reader.n_context,
        batch_size=options.data.per_gpu_batch_size,
        ranks=ranks,
        keeps_identical=options.collections.keep_identical,
        show_progress=shows_progress(options, ranks),
    )
    task = build_task(options)
    for collection in collections:
        batches = build.build_batches(options, ranks, models, collection, task, is_training=False)
        found = evaluator.evaluate(collection, batches)
        stem = options.experiment.folder / f"{collection.name}-step-0"
        has_records = options.data.write_results
        main_first(
            partial(write_collection, found, stem, retrieving.corpus if has_records else None),
            ranks,
        )
        _report(collection, found, retrieving.corpus, reporter, ranks)


def _report(
    collection: JudgedQueries,
    found: Found,
    passages: PassageStore,
    reporter: Reporter,
    ranks: Ranks,
) -> None:
    measured = found.measured
    if ranks.is_main:
        for line in collection.remarks(passages.all_ids()):
            logger.warning("%s: %s", collection.name, line)
        for line in measured.counts.lines():
            logger.info("%s: %s", collection.name, line)
    reporter.evaluation(0, collection.name, measured.averages, measured.intervals, digits=4)


def evaluate(options: Options, ranks: Ranks) -> int:
    """Evaluate a checkpoint, or untrained models, on every file of `--eval_data`.

    Collective: every rank must call this.

    Returns:
        Exit code 0.
    """
    start_log(ranks)
    data = open_data(options, ranks, is_training=False)
    folder = start_experiment(options.experiment.folder, options, ranks)
    use_fast_float32_matmul()
    seed_everything(options.experiment.seed + ranks.rank)
    checkpoint = build_alike(lambda: build.model_folder(options), ranks)
    models = build.build_models(options, ranks, checkpoint)
    retrieving = build_retrieving(
        options,
        ranks,
        models.retriever,
        models.retriever_tokenizer,
        data.corpus,
        filters=data.task.filters,
    )
    evaluations = [
        build_evaluation(options, ranks, models, retrieving, data.task, files)
        for files in data.evaluations
    ]
    if retrieving is not None:
        retrieving.keeper.fill()
    with Reporter(folder, ranks) as reporter:
        evaluate_all(evaluations, folder, 0, reporter, write_results=options.data.write_results)
        if data.collections:
            assert retrieving is not None, "option rules require --retrieve_only"
            evaluate_collections(options, ranks, models, retrieving, data.collections, reporter)
    return 0
