"""What flags imply for each other: every value that gives way to another is noted, never silent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gazetteer.causal_options import causal_remarks
from gazetteer.collection_options import collection_changes, collection_remarks
from gazetteer.compressor_options import compressor_remarks
from gazetteer.dense_options import dense_overrides, dense_remarks
from gazetteer.flags import all_flags, flat_values, with_values
from gazetteer.lead_options import lead_remarks
from gazetteer.mining_options import mining_remarks
from gazetteer.option_rules import listed_files
from gazetteer.reader_names import full_reader_name
from gazetteer.refresh_schedule import first_gap, parse_refresh_schedule
from gazetteer.sharding_options import sharding_remarks
from gazetteer.task_names import DENSE
from gazetteer.tower_options import tower_overrides, tower_remarks

if TYPE_CHECKING:
    from gazetteer.options import Options

GOLD_SCORE_ALIASES = {"pdist": "ppmean", "adist": "evalnormsum"}
"""The paper's names, and Atlas's own."""
POOLING_ALIASES = {"first": "cls"}
"""OpenMatch's name, and ours."""


def resolve(options: Options) -> tuple[Options, list[str]]:
    """Settle what flags imply for each other.

    Returns:
        The options with every implied value in place, and one note per value changed, such as
        `closed_book: n_context 40 -> 1`, and per flag that does less than its name says.

    Source:
        Atlas makes the overrides of `--closed_book` and `--use_file_passages`, and maps the
        paper's names, without a word.
    """
    notes: list[str] = []
    for override in _OVERRIDES:
        reason, changes = override(options)
        values = flat_values(options)
        changed = {name: new for name, new in changes.items() if values[name] != new}
        notes += [f"{reason}: {name} {values[name]} -> {new}" for name, new in changed.items()]
        options = with_values(options, changed)
    return options, notes + list(_remarks(options))


def _full_names(options: Options) -> tuple[str, dict[str, Any]]:
    mode, reader = options.retriever.gold_score_mode, options.reader.reader_model_type
    pooling = options.retriever.retriever_pooling
    return "the same by another name", {
        "gold_score_mode": GOLD_SCORE_ALIASES.get(mode, mode),
        "retriever_pooling": POOLING_ALIASES.get(pooling, pooling),
        "reader_model_type": full_reader_name(reader) if reader else reader,
    }


def _file_lists(options: Options) -> tuple[str, dict[str, Any]]:
    data = options.data
    return "several files in one argument", {
        "train_data": listed_files(data.train_data),
        "eval_data": listed_files(data.eval_data),
        "passages": None if data.passages is None else listed_files(data.passages),
    }


def _closed_book(options: Options) -> tuple[str, dict[str, Any]]:
    implied = {
        "n_context": 1,
        "retriever_n_context": 1,
        "encoder_format": "{query}",
        "use_file_passages": True,
    }
    return "closed_book", implied if options.data.closed_book else {}


def _file_passages(options: Options) -> tuple[str, dict[str, Any]]:
    implied = {
        "train_retriever": False,
        "query_side_retriever_training": False,
        "use_gradient_checkpoint_retriever": False,
    }
    return "use_file_passages", implied if options.data.use_file_passages else {}


_OVERRIDES = (
    _full_names,
    _file_lists,
    _closed_book,
    _file_passages,
    collection_changes,
    dense_overrides,
    tower_overrides,
)


def _remarks(options: Options) -> Iterator[str]:
    yield from _batch_remarks(options)
    yield from _retriever_remarks(options)
    yield from tower_remarks(options)
    yield from _schedule_remarks(options)
    yield from _refresh_remarks(options)
    yield from dense_remarks(options)
    yield from mining_remarks(options)
    yield from lead_remarks(options)
    yield from causal_remarks(options)
    yield from compressor_remarks(options)
    index = options.index
    yield from sharding_remarks(options)
    if options.reader.target_maxlength == -1:
        yield "target_maxlength -1: targets are not cut"
    count = index.save_index_n_shards
    is_set = count != all_flags(type(options))["save_index_n_shards"].default
    if index.load_index_path is not None and index.save_index_path is None and is_set:
        yield f"save_index_n_shards {count}: no effect on loading; a saved index names its files"
    workers = index.refresh_workers
    is_set = workers != all_flags(type(options))["refresh_workers"].default
    if is_set and index.refresh_mode != "dedicated":
        yield f"refresh_workers {workers}: no effect without --refresh_mode dedicated"
    yield from _faiss_remarks(options)
    yield from collection_remarks(options)


def _batch_remarks(options: Options) -> Iterator[str]:
    size, at_once = options.data.global_batch_size, options.data.per_gpu_batch_size
    if size is not None and not options.data.train_data:
        yield f"global_batch_size {size}: no effect without train_data"
    elif size is not None and options.task.task == DENSE and at_once > 1:
        yield (
            f"per_gpu_batch_size {at_once}: no effect with --global_batch_size and --task dense,"
            " whose steps are read at once; --grad_cache saves memory"
        )


def _faiss_remarks(options: Options) -> Iterator[str]:
    index, flags = options.index, all_flags(type(options))
    is_faiss, kind = index.index_mode == "faiss", index.faiss_index_type
    has_lists = is_faiss and kind.startswith("ivf")
    has_codes = is_faiss and not kind.endswith("flat")
    lists, codes = "an ivf kind of --faiss_index_type", "an sq or pq kind of --faiss_index_type"
    matters = {
        "faiss_index_type": (is_faiss, "--index_mode faiss"),
        "faiss_code_size": (has_codes, codes if is_faiss else "--index_mode faiss"),
        "faiss_nlist": (has_lists, lists if is_faiss else "--index_mode faiss"),
        "faiss_nprobe": (has_lists, lists if is_faiss else "--index_mode faiss"),
        "rescore": (is_faiss, "--index_mode faiss"),
    }
    for name, (has_effect, needed) in matters.items():
        value = getattr(index, name)
        if not has_effect and value != flags[name].default:
            yield f"{name} {value}: no effect without {needed}"


def _retriever_remarks(options: Options) -> Iterator[str]:
    retriever, n_context = options.retriever, options.reader.n_context
    learned = retriever.retriever_n_context
    if retriever.train_retriever and n_context > learned:
        yield (
            f"n_context {n_context} > retriever_n_context {learned}: {n_context} passages are"
            f" retrieved; the reader reads all, the retriever learns from the first {learned}"
        )
    for name in ("query_side_retriever_training", "reuse_reader_encodings"):
        if getattr(retriever, name) and not retriever.train_retriever:
            yield f"{name}: no effect without train_retriever"
    if retriever.untie_retriever and retriever.query_side_retriever_training:
        yield (
            "untie_retriever: query_side_retriever_training separates the towers already,"
            " and keeps the passage tower frozen"
        )


def _refresh_remarks(options: Options) -> Iterator[str]:
    total, retriever = options.optimisation.total_steps, options.retriever
    if not (options.data.train_data and retriever.train_retriever):
        return
    if retriever.query_side_retriever_training:
        return  # The passage tower never changes.
    schedule = parse_refresh_schedule(options.index.refresh_index)
    gap = first_gap(schedule, max(retriever.freeze_retriever_steps, 0), total)
    if gap is not None:
        yield (
            f"refresh_index {options.index.refresh_index}: says nothing about steps"
            f" {gap.start}-{gap.stop} of {total} (end excluded): no refresh there"
        )


def _schedule_remarks(options: Options) -> Iterator[str]:
    optimisation = options.optimisation
    if optimisation.alpha != 1.0:
        yield f"alpha {optimisation.alpha}: no effect, as in Atlas"
    if optimisation.scheduler_steps is not None:
        yield f"scheduler_steps {optimisation.scheduler_steps}: honoured; Atlas ignored it"
    length = optimisation.scheduler_steps or optimisation.total_steps
    if options.data.train_data and optimisation.warmup_steps > length:
        yield (
            f"warmup_steps {optimisation.warmup_steps} > {length} steps of schedule:"
            " the learning rate never reaches its peak"
        )
