"""Which options cannot work, and why: every rule, all violations reported at once.

Nothing is changed here (`option_overrides.py` does), and of the machine only files are asked for.
Bounds of single numbers are in `option_bounds.py`.
"""

from __future__ import annotations

import math
import os
import string
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gazetteer.collection_options import (
    brings_passages,
    collection_rules,
    searches_collections,
)
from gazetteer.compressor_options import compressor_rules
from gazetteer.dense_options import dense_rules
from gazetteer.errors import OptionError
from gazetteer.flags import flat_values
from gazetteer.launch_options import launch_rules
from gazetteer.lead_options import lead_rules
from gazetteer.mining_options import mining_rules
from gazetteer.option_bounds import BOUNDS
from gazetteer.paths import can_be_written, path_kind
from gazetteer.reader_names import READER_CHOICES
from gazetteer.refresh_schedule import parse_refresh_schedule
from gazetteer.sharding_options import sharding_rules
from gazetteer.task_names import CHOICES, DENSE
from gazetteer.tower_options import tower_rules

if TYPE_CHECKING:
    from gazetteer.options import Options

Program = Literal["train", "evaluate"]

CLOSED_TASKS = ("fever", "multiple_choice")
"""Tasks whose answers are a closed set."""
TOKENIZING_TASKS = ("mlm",)
"""Tasks whose examples are made with the reader's tokenizer, whether anything is read or not."""
MAX_OPTIONS_IN_ALL_ORDERS = 6
"""720 examples of one line; with one option more, 5,040."""

_EXACT_FIELDS = {
    "qa_prompt_format": "question",
    "decoder_format": "target",
    "decoder_prompt_format": "query",
}


def check(options: Options, program: Program) -> None:
    """Refuse options that cannot work.

    Raises:
        OptionError: all violations at once, one line each, in the form
            `--flag (value) must ...`.
    """
    problems = [problem for rule in _RULES for problem in rule(options, program)]
    if problems:
        raise OptionError("\n".join(problems))


def listed_files(values: Sequence[str]) -> list[str]:
    """Take apart several paths that were quoted into one argument, as the Atlas README does.

    Only where the whole is no file, and every part of it is one.
    """
    files: list[str] = []
    for value in values:
        parts = value.split()
        is_list = parts and all(path_kind(part) == "file" for part in parts)
        files += parts if is_list and path_kind(value) == "nothing" else [value]
    return files


def _number_rules(options: Options, _: Program) -> Iterator[str]:
    return number_problems(options)


def number_problems(options: Options) -> Iterator[str]:
    """Numbers that a flag cannot be; also for programs with some of these options alone."""
    for name, found in flat_values(options).items():
        if name not in BOUNDS or found is None:
            continue
        for value in found if isinstance(found, list) else [found]:
            if not math.isfinite(value):
                yield _must(name, value, "be a finite number")
            elif value not in BOUNDS[name]:
                yield _must(name, value, f"be {BOUNDS[name].rule}")


def _order_rules(options: Options, program: Program) -> Iterator[str]:
    task, generation, retriever = options.task, options.generation, options.retriever
    shortest, longest = generation.generation_min_length, generation.generation_max_length
    if shortest is not None and shortest > longest:
        yield _at_most("generation_min_length", shortest, "generation_max_length", longest)
    probed, lists = options.index.faiss_nprobe, options.index.faiss_nlist
    if probed is not None and lists is not None and probed > lists:
        yield _at_most("faiss_nprobe", probed, "faiss_nlist", lists)
    low, high = task.min_lm_context_ratio, task.max_lm_context_ratio
    if low > high:
        yield _at_most("min_lm_context_ratio", low, "max_lm_context_ratio", high)
    kept = {"n_context": options.reader.n_context}
    if program == "train" and retriever.train_retriever:
        kept["retriever_n_context"] = retriever.retriever_n_context
    reranked = retriever.n_to_rerank_with_retrieve_with_rerank
    for name, count in kept.items():
        if retriever.retrieve_with_rerank and reranked < count:
            rule = f"be at least --{name} ({count}), which are kept of them"
            yield _must("n_to_rerank_with_retrieve_with_rerank", reranked, rule)


def _task_rules(options: Options, _: Program) -> Iterator[str]:
    task = options.task.task
    if task is None and not searches_collections(options):
        yield f"--task is required: {' or '.join(CHOICES)}"
    if options.task.rank_candidates and task not in CLOSED_TASKS:
        yield f"--rank_candidates must come with --task {' or '.join(CLOSED_TASKS)}"
    count = options.task.multiple_choice_num_options
    if task != "multiple_choice" or count <= MAX_OPTIONS_IN_ALL_ORDERS:
        return
    for name in ("multiple_choice_train_permutations", "multiple_choice_eval_permutations"):
        if getattr(options.task, name) == "all":
            most = f"--multiple_choice_num_options of at most {MAX_OPTIONS_IN_ALL_ORDERS}"
            yield _must(name, "all", f"come with {most} ({count} have too many orders)")


def _source_rules(options: Options, program: Program) -> Iterator[str]:
    data = options.data
    if program == "train" and not data.train_data:
        yield "--train_data is required: jsonl files to train on"
    if program == "evaluate" and not data.eval_data:
        yield "--eval_data is required: jsonl files to evaluate on"
    has_passages = data.passages or options.index.load_index_path or brings_passages(options)
    if _retrieves(options) and options.task.task != DENSE and not has_passages:
        yield (
            "--passages or --load_index_path is required: what to retrieve from"
            " (neither is with --use_file_passages or --closed_book)"
        )


def _staleness_rules(options: Options, _: Program) -> Iterator[str]:
    index = options.index
    if index.refresh_below_overlap and not index.staleness_sample:
        yield _must(
            "refresh_below_overlap", index.refresh_below_overlap, "come with --staleness_sample"
        )


def _dedicated_rules(options: Options, program: Program) -> Iterator[str]:
    """Processes set aside for nothing are a mistake."""
    index, retriever = options.index, options.retriever
    if program != "train" or index.refresh_mode != "dedicated" or options.task.task == DENSE:
        return
    can_age = retriever.train_retriever and not retriever.query_side_retriever_training
    if not can_age or not _retrieves(options):
        rule = (
            "come with --train_retriever, and without --query_side_retriever_training,"
            " --use_file_passages and --closed_book: otherwise no index can age"
        )
        yield _must("refresh_mode", index.refresh_mode, rule)
    elif index.refresh_index.strip() == "-1" and not index.refresh_below_overlap:
        rule = "come with --refresh_index or --refresh_below_overlap, which say when to refresh"
        yield _must("refresh_mode", index.refresh_mode, rule)


def _reader_rules(options: Options, program: Program) -> Iterator[str]:
    reader = options.reader.reader_model_type
    if options.retriever.retrieve_only:
        if program == "train":
            yield "--retrieve_only is for evaluate.py: without a reader nothing can be trained"
        for name in ("closed_book", "use_file_passages"):
            if getattr(options.data, name):
                yield f"--retrieve_only must not be given with --{name}, which retrieves nothing"
        task, has_model = options.task.task, options.experiment.model_path != "none"
        tokenizes = task in TOKENIZING_TASKS and not searches_collections(options)
        if tokenizes and reader is None and not has_model:
            yield f"--reader_model_type is required with --task {task}, which uses its tokenizer"
    elif options.task.task == DENSE:
        return
    elif reader is None and options.experiment.model_path == "none":
        yield (
            "--reader_model_type is required: the reader's name, such as google/t5-base-lm-adapt"
            " (not with --model_path or --retrieve_only)"
        )
    if reader is not None and reader not in READER_CHOICES:
        shown = ", ".join(READER_CHOICES)
        yield _must(
            "reader_model_type",
            reader,
            f"be a hub name, a folder, a .gguf file, or one of: {shown}",
        )


def _format_rules(options: Options, _: Program) -> Iterator[str]:
    read = {
        "encoder_format": options.reader.encoder_format,
        "compressor_format": options.compressor.compressor_format or "",
    }
    for name, template in read.items():
        if problem := _format_fields(template)[1]:
            yield _must(name, template, f"be a format string: {problem}")
    yield from retriever_format_problems(options.reader.retriever_format)
    values = flat_values(options)
    for name, only in _EXACT_FIELDS.items():
        if values[name] is None:
            continue
        fields, problem = _format_fields(values[name])
        if problem:
            yield _must(name, values[name], f"be a format string: {problem}")
        elif fields != {only}:
            yield _must(name, values[name], f"use the field {{{only}}}, and no other")


def retriever_format_problems(template: str) -> Iterator[str]:
    """Why passages cannot be embedded in a format; also for programs without these options."""
    fields, problem = _format_fields(template)
    if problem:
        yield _must("retriever_format", template, f"be a format string: {problem}")
    elif "query" in fields:
        rule = "not use {query}: passages are embedded without a query"
        yield _must("retriever_format", template, rule)


def _refresh_rules(options: Options, _: Program) -> Iterator[str]:
    try:
        parse_refresh_schedule(options.index.refresh_index)
    except ValueError as error:
        rule = "be -1, a number of steps, or start-end:rate,start-end:rate"
        yield _must("refresh_index", options.index.refresh_index, f"{rule}; {error}")


def _file_rules(options: Options, program: Program) -> Iterator[str]:
    data = options.data
    lists = {"eval_data": data.eval_data}
    if program == "train":
        lists["train_data"] = data.train_data
    if _retrieves(options):
        lists["passages"] = data.passages or []
    for name, values in lists.items():
        for path in listed_files(values):
            is_collection = name == "eval_data" and searches_collections(options)
            if path_kind(path) != "file" and not (is_collection and path_kind(path) == "folder"):
                yield _must(name, path, "be an existing file")
            elif not os.access(path, os.R_OK):
                yield _must(name, path, "be a file this user can read")


def _results_rules(options: Options, _: Program) -> Iterator[str]:
    """Each file's results are named after it: of two alike the second would replace the first."""
    first: dict[str, str] = {}
    for path in listed_files(options.data.eval_data):
        stem = Path(path).stem
        if stem in first:
            rule = f"not be named like {first[stem]}: results go to {stem}-step-N.jsonl"
            yield _must("eval_data", path, rule)
        first.setdefault(stem, path)


def _folder_rules(options: Options, _: Program) -> Iterator[str]:
    experiment, index = options.experiment, options.index
    if not experiment.name:
        yield _must("name", experiment.name, "not be empty")
    if experiment.model_path != "none" and path_kind(experiment.model_path) != "folder":
        yield _must("model_path", experiment.model_path, "be 'none' or an existing folder")
    loaded = index.load_index_path
    if loaded is not None and path_kind(loaded) != "folder":
        yield _must("load_index_path", loaded, "be an existing folder")
    loaded_models = {
        "retriever_model_path": options.retriever.retriever_model_path,
        "teacher": options.lead.teacher,
        "compressor_model_path": options.compressor.compressor_model_path,
    }
    for name, model in loaded_models.items():
        is_path = model is not None and (model.startswith((".", "/", "~")) or not model)
        if model is not None and is_path and path_kind(model) != "folder":
            yield _must(name, model, "be a hub name or an existing folder")
    written = {
        "checkpoint_dir": experiment.checkpoint_dir,
        "save_index_path": index.save_index_path,
        "cache_dir": options.data.cache_dir,
    }
    for name, path in written.items():
        if path == "" or (path is not None and path_kind(path) == "file"):
            yield _must(name, path, "be a folder, or a name that is free for one")
        elif path is not None and not can_be_written(path):
            yield _must(name, path, "be a folder this user can write to, or can create")


_RULES: tuple[Callable[[Options, Program], Iterator[str]], ...] = (
    _task_rules,
    _source_rules,
    _reader_rules,
    _number_rules,
    _order_rules,
    _format_rules,
    _refresh_rules,
    _staleness_rules,
    _dedicated_rules,
    lambda options, _: tower_rules(options),
    dense_rules,
    mining_rules,
    lambda options, program: collection_rules(options, is_training=program == "train"),
    lead_rules,
    lambda options, _: compressor_rules(options),
    lambda options, _: launch_rules(options),
    lambda options, _: sharding_rules(options),
    _file_rules,
    _results_rules,
    _folder_rules,
)


def _retrieves(options: Options) -> bool:
    return not (options.data.closed_book or options.data.use_file_passages)


def _format_fields(template: str) -> tuple[set[str], str]:
    """Return the fields of a format string, and what is wrong with it ("" if nothing is)."""
    try:
        parsed = [(name, spec) for _, name, spec, _ in string.Formatter().parse(template)]
    except ValueError as error:
        return set(), str(error)
    fields = {name for name, _ in parsed if name is not None}
    wrong = next((name for name in sorted(fields) if not name.isidentifier()), None)
    if wrong is not None:
        return fields, f"{{{wrong}}} is not a field's name"
    nested = any("{" in spec for _, spec in parsed if spec)
    return fields, "a field inside a field" if nested else ""


def _must(name: str, value: object, rule: str) -> str:
    shown = repr(value) if value == "" else value
    return f"--{name} ({shown}) must {rule}"


def _at_most(low_name: str, low: float, high_name: str, high: float) -> str:
    return _must(low_name, low, f"be at most --{high_name} ({high})")
