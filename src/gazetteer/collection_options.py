"""Flags of test collections: queries with judgements, searched by `--retrieve_only`.

A collection is a folder in BEIR's layout, or a file of queries with `--qrels`.
"""

# ruff: noqa: RUF009 - `flag` makes a dataclass field, which the linter cannot see.

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gazetteer.flags import all_flags, flag
from gazetteer.paths import path_kind

if TYPE_CHECKING:
    from gazetteer.options import Options

CORPUS_FILE, QUERIES_FILE, QRELS_FOLDER = "corpus.jsonl", "queries.jsonl", "qrels"
"""Of BEIR's layout."""
DEFAULT_DEPTH = 100
"""Documents per query where nobody says; enough for R@100."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionOptions:
    """Test collections: folders of BEIR, or queries and judgements, with --retrieve_only."""

    qrels: str | None = flag(
        None,
        "judgements of --eval_data, which then holds queries: TREC, BEIR (new)",
        metavar="FILE",
    )
    qrels_split: str = flag("test", "judgements of a BEIR folder: qrels/NAME.tsv (new)")
    measures: list[str] = flag(
        [],
        "of what is found, such as recall.1000; none = nDCG@10 MRR@10 MAP R@20 R@100 (new)",
        metavar="NAME",
    )
    keep_identical: bool = flag(
        False, "keep a document that has the id and the text of its query (new)"
    )


def searches_collections(options: Options) -> bool:
    """Whether `--eval_data` is test collections, and not examples of a task."""
    paths = options.data.eval_data
    is_folder = any(path_kind(path) == "folder" for path in paths)
    return options.retriever.retrieve_only and (is_folder or options.collections.qrels is not None)


def brings_passages(options: Options) -> bool:
    """Whether `--eval_data` is folders, which have a corpus of their own."""
    paths = options.data.eval_data
    return searches_collections(options) and any(path_kind(path) == "folder" for path in paths)


def queries_path(path: str) -> Path:
    """Where the queries of a collection are."""
    return Path(path) / QUERIES_FILE if path_kind(path) == "folder" else Path(path)


def qrels_path(options: Options, path: str) -> Path:
    """Where the judgements of a collection are."""
    if options.collections.qrels is not None:
        return Path(options.collections.qrels)
    return Path(path) / QRELS_FOLDER / f"{options.collections.qrels_split}.tsv"


def collection_rules(options: Options, *, is_training: bool) -> Iterator[str]:
    """What is wrong with the flags and folders of collections, one line each."""
    paths, qrels = options.data.eval_data, options.collections.qrels
    if qrels is not None:
        if is_training or not options.retriever.retrieve_only:
            yield f"--qrels ({qrels}) must come with evaluate.py --retrieve_only"
        elif len(paths) > 1:
            yield f"--qrels ({qrels}) must come with one --eval_data, found {len(paths)}"
        if path_kind(qrels) != "file" or not os.access(qrels, os.R_OK):
            yield f"--qrels ({qrels}) must be an existing file"
    if is_training or not searches_collections(options):
        return
    yield from _folder_rules(options)


def _folder_rules(options: Options) -> Iterator[str]:
    paths = options.data.eval_data
    folders = [path for path in paths if path_kind(path) == "folder"]
    has_passages = bool(options.data.passages) or options.index.load_index_path is not None
    if folders and len(folders) < len(paths):
        yield (
            f"--eval_data ({' '.join(paths)}) must be all folders of BEIR, or all files: they mean "
            "different things"
        )
    if len(folders) > 1 and not has_passages:
        yield (
            f"--eval_data ({' '.join(folders)}) must come with --passages, or be one folder: a run "
            "searches one corpus"
        )
    for path in folders:
        needed = [Path(path) / QUERIES_FILE]
        needed += [] if has_passages else [Path(path) / CORPUS_FILE]
        needed += [] if options.collections.qrels else [qrels_path(options, path)]
        for file in needed:
            if path_kind(str(file)) != "file":
                yield f"--eval_data ({path}) must be a folder of BEIR: found no {file}"


def collection_changes(options: Options) -> tuple[str, dict[str, Any]]:
    """What a collection implies for other flags, and the reason."""
    if not searches_collections(options):
        return "", {}
    changes: dict[str, Any] = {"task": None}
    data, folder = options.data, options.data.eval_data[0]
    has_passages = data.passages or options.index.load_index_path
    if not has_passages and brings_passages(options):
        changes["passages"] = [str(Path(folder) / CORPUS_FILE)]
    if options.reader.n_context == all_flags(type(options))["n_context"].default:
        changes["n_context"] = DEFAULT_DEPTH
    return "a test collection", changes


def collection_remarks(options: Options) -> Iterator[str]:
    """Flags of collections that have no effect."""
    if searches_collections(options):
        if options.collections.qrels is not None and options.collections.qrels_split != "test":
            yield f"qrels_split {options.collections.qrels_split}: no effect with --qrels"
        return
    flags = all_flags(type(options))
    for name in ("qrels_split", "measures", "keep_identical"):
        value = getattr(options.collections, name)
        if value != flags[name].default:
            yield f"{name} {value}: no effect without a test collection in --eval_data"
