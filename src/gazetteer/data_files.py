"""The data a run is given: opened and checked to the last line before anything is written.

Models and indexes are built from it afterwards, in `build.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gazetteer.collection_options import qrels_path, queries_path, searches_collections
from gazetteer.data.corpus import cached_passage_store
from gazetteer.data.examples import ExampleFiles
from gazetteer.data.jsonl import Field
from gazetteer.data.passages import PASSAGES_FOLDER, PassageStore
from gazetteer.data.templates import PassageTemplate
from gazetteer.distributed.agreement import build_alike, build_main_first, raise_together
from gazetteer.errors import OptionError
from gazetteer.flags import flat_values
from gazetteer.ir.judged_queries import JudgedQueries
from gazetteer.ir.measures import COLLECTION_MEASURES, Measure, parse_measures
from gazetteer.options import Options
from gazetteer.records import Ranks
from gazetteer.tasks import TASKS, collection
from gazetteer.tasks.base import Task

logger = logging.getLogger(__name__)

RERANKING_SCORES = Field("reranking_scores", "scores", required=True)
"""What `--rerank_target file` learns from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunData:
    """What a run reads.

    Attributes:
        task: what a line of data means.
        train: the lines of `--train_data`; None where nothing is trained.
        evaluations: the lines of each file of `--eval_data`.
        collections: instead of these, the test collections of `--eval_data`.
        corpus: the passages searched; None where nothing is searched.
    """

    task: Task
    train: ExampleFiles | None
    evaluations: tuple[ExampleFiles, ...]
    corpus: PassageStore | None
    collections: tuple[JudgedQueries, ...] = ()


def open_data(options: Options, ranks: Ranks, *, is_training: bool) -> RunData:
    """Open everything a run reads, the quick files first.

    Collective: every rank must call this.

    Raises:
        DataError: a bad line, the same error on every rank.
        OptionError: a format names a field that passages do not have; likewise.
    """
    data, has_collections = options.data, searches_collections(options)
    opened = RunData(
        task=build_task(options),
        train=build_examples(options, ranks, data.train_data, "--train_data")
        if is_training
        else None,
        evaluations=()
        if has_collections
        else tuple(
            build_examples(options, ranks, [path], "--eval_data") for path in data.eval_data
        ),
        collections=build_collections(options, ranks) if has_collections else (),
        corpus=None if data.use_file_passages else open_corpus(options, ranks),
    )
    problem = next(_format_problems(options, opened), None)
    raise_together(OptionError(problem) if problem else None, ranks)
    return opened


def _format_problems(options: Options, data: RunData) -> Iterator[str]:
    """What the first passage lacks of the formats in use; the others are seen when it is filled."""
    files = (data.train, *data.evaluations)
    stores = [data.corpus, *(lines.passages for lines in files if lines is not None)]
    formats = {}
    if data.corpus is not None:
        formats["retriever_format"] = options.reader.retriever_format
    if not options.retriever.retrieve_only:
        formats["encoder_format"] = options.reader.encoder_format
    for store in stores:
        if store is None or not store.count:
            continue
        (passage,) = store.records([0])
        for flag, text in formats.items():
            for name in PassageTemplate.parse(text).lacking(passage):
                yield (
                    f"--{flag} ({text}) names the field '{name}', "
                    f"which the first passage '{passage['id']}' does not have"
                )


def build_task(options: Options) -> Task:
    """The task, with the flags it listens to."""
    if searches_collections(options):
        return collection.Task()
    name = options.task.task
    assert name is not None, "option rules require a task"
    kind, values = TASKS[name], flat_values(options)
    return kind(**{argument: values[flag] for argument, flag in kind.flags.items()})


def build_examples(options: Options, ranks: Ranks, paths: list[str], flag: str) -> ExampleFiles:
    """Lines of data files, and where the reader wants them the passages that come along.

    Collective: every rank must call this.

    Raises:
        DataError: a bad line, the same error on every rank.
    """
    task = build_task(options)
    fields = task.training_fields if flag == "--train_data" else task.evaluation_fields
    if flag == "--train_data" and options.compressor.rerank_target == "file":
        fields = (*fields, RERANKING_SCORES)
    has_passages = options.data.use_file_passages and not options.data.closed_book

    def build() -> ExampleFiles:
        return ExampleFiles.open(
            [Path(path) for path in paths],
            fields,
            keeps=task.keeps,
            flag=flag,
            on_bad_line=options.data.on_bad_line,
            passages_folder=options.data.cache_folder if has_passages else None,
            show_progress=shows_progress(options, ranks),
        )

    files = build_main_first(build, ranks)
    if ranks.is_main and files.skipped:
        logger.warning("bad lines skipped: %d, the first: %s", len(files.skipped), files.skipped[0])
    if ranks.is_main and files.left_out:
        logger.info("%s: %d lines left out: %s", flag, files.left_out, task.left_out_reason)
    return files


def build_collections(options: Options, ranks: Ranks) -> tuple[JudgedQueries, ...]:
    """Queries and judgements of every test collection.

    Collective: every rank must call this.

    Raises:
        DataError: a bad line, the same error on every rank.
        OptionError: there is no such measure, likewise.
    """

    def build() -> tuple[JudgedQueries, ...]:
        build_measures(options)
        return tuple(
            JudgedQueries.open(Path(path), queries_path(path), qrels_path(options, path))
            for path in options.data.eval_data
        )

    return build_alike(build, ranks)


def build_measures(options: Options) -> list[Measure]:
    """What test collections are measured with.

    Raises:
        OptionError: there is no such measure.
    """
    return parse_measures(options.collections.measures or COLLECTION_MEASURES, flag="--measures")


def open_corpus(options: Options, ranks: Ranks) -> PassageStore:
    """The passages of `--passages`, else those a saved index brings along.

    Collective: every rank must call this.

    Raises:
        GazetteerError: they cannot be read, the same error on every rank.
    """

    def build() -> PassageStore:
        if not options.data.passages:
            saved = options.index.load_index_path
            assert saved is not None, "option rules require --passages or --load_index_path"
            return PassageStore(Path(saved) / PASSAGES_FOLDER)
        return cached_passage_store(
            [Path(path) for path in options.data.passages],
            options.data.cache_folder,
            max_passages=options.data.max_passages,
            on_bad_line=options.data.on_bad_line,
            show_progress=shows_progress(options, ranks),
        )

    return build_main_first(build, ranks)


def shows_progress(options: Options, ranks: Ranks) -> bool:
    """Whether this rank draws progress bars."""
    return ranks.is_main and not options.experiment.no_progress
