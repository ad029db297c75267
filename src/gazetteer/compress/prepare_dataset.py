"""Training data for a compressor.   python -m gazetteer.compress.prepare_dataset --help

Finds passages for each query, reranks them, has a teacher answer, and writes one JSON list of
records. The flags are those of ScaleDown's guide. A run that was killed goes on where it stopped.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gazetteer.compress.corpus import Chunking, built_in_corpus, open_corpus
from gazetteer.compress.merging import merge, shard_file
from gazetteer.compress.model_names import config_of, model_identity
from gazetteer.compress.pipeline import Pipeline, Steps, fingerprint
from gazetteer.compress.prepare_flags import build_parser, check
from gazetteer.compress.queries import (
    Question,
    download_ms_marco,
    read_queries_file,
    synthetic_queries,
    warn_of_ms_marco,
)
from gazetteer.compress.reranker import FLAG as RERANKER_FLAG
from gazetteer.compress.reranker import Reranker
from gazetteer.compress.retrieval import DEFAULT_MODELS, Retriever, build_retriever, device_of
from gazetteer.compress.splade import FLAG as RETRIEVER_FLAG
from gazetteer.compress.teacher import Teacher
from gazetteer.compress.teacher_cache import TeacherCache
from gazetteer.compress.teacher_models import TeacherSettings
from gazetteer.compress.work_folder import WorkFolder
from gazetteer.data.passages import PassageStore
from gazetteer.dense.commands import require_writable
from gazetteer.errors import OptionError
from gazetteer.one_line_errors import exit_code, quiet_libraries, require_one_process
from gazetteer.paths import default_cache_folder

logger = logging.getLogger(__name__)


def questions_of(values: argparse.Namespace) -> list[Question]:
    """The queries of the flags.

    Raises:
        GazetteerError: they cannot be read or fetched.
    """
    if values.num_synthetic_queries:
        return synthetic_queries(values.num_synthetic_queries)
    if values.download_ms_marco:
        warn_of_ms_marco()
        return download_ms_marco(values.output_file.parent)
    if values.queries_file.name in ("queries.dev.small.tsv", "ms_marco_queries.txt"):
        warn_of_ms_marco()
    return read_queries_file(values.queries_file, flag="--queries_file")


def _corpus(values: argparse.Namespace) -> PassageStore:
    if values.corpus_path is None:
        return built_in_corpus(cache_of(values), values.num_synthetic_queries)
    tokenizer = None
    if values.passage_tokens:
        tokenizer = values.passage_tokenizer or retriever_model(values)
    return open_corpus(
        values.corpus_path,
        cache_of(values),
        max_documents=values.max_corpus_size,
        chunking=Chunking(
            words=values.passage_words, tokens=values.passage_tokens or 0, tokenizer=tokenizer
        ),
        show_progress=not values.no_progress,
    )


def teacher_of(values: argparse.Namespace) -> Teacher | None:
    """The teacher of the flags; its weights are not loaded yet.

    Raises:
        GazetteerError: there is none under that name, or it cannot do what is asked for.
    """
    if values.teacher_model.lower() == "none":
        return None
    settings = TeacherSettings(
        name=values.teacher_model,
        backend=values.teacher_backend,
        is_8bit=values.teacher_8bit,
        max_new_tokens=values.teacher_max_new_tokens,
        max_prompt_tokens=values.teacher_max_prompt_tokens,
        device=device_of(values.device),
    )
    return Teacher(settings, TeacherCache(cache_of(values) / "teacher_answers.sqlite"))


def prepare(values: argparse.Namespace) -> None:
    """Make the data set that the flags describe.

    Raises:
        GazetteerError: in one line.
    """
    if values.merge:
        return merge(values.merge, values.output_file)
    require_one_process(os.environ, "start one command for each --shard i/n, without a launcher")
    check(values)
    require_writable(values.output_file, "--output_file")
    # What can be wrong is looked at before hours are spent.
    teacher = teacher_of(values)
    provenance = _provenance(values)
    questions = questions_of(values)
    unanswered = sum(not each.answers for each in questions) if teacher is None else 0
    if unanswered:
        logger.warning("%d queries have no gold answer, and no teacher answers", unanswered)
    corpus = _corpus(values)
    steps = Steps(
        top_k=min(values.top_k_retrieval, corpus.count),
        kept=values.top_k_reranking,
        writes_scores=values.enable_reranking,
        reranker=partial(_reranker, values) if reranks(values) else None,
        teacher=teacher,
        provenance=provenance,
    )
    pipeline = Pipeline(
        corpus, partial(_retriever, values, corpus), steps, batch_size=values.batch_size
    )
    mine = pipeline.share(len(questions), *values.shard)
    if not mine:
        part, parts = values.shard
        raise OptionError(
            f"--shard {part}/{parts}: nothing is left to do, there are {len(questions)} queries in "
            f"batches of {values.batch_size}"
        )
    settings = _settings(values) | {
        "the queries": fingerprint(questions),
        "the corpus (--corpus_path and how it is cut)": corpus.fingerprint,
        "the models": provenance,
        "--teacher_model": None if teacher is None else teacher.provenance,
    }
    output = shard_file(values.output_file, *values.shard)
    with WorkFolder.opened(output.with_name(f"{output.stem}.work"), settings) as work:
        count = pipeline.run(
            questions[mine.start : mine.stop], work, output, show_progress=not values.no_progress
        )
    logger.info("%s: %d records", output, count)


def _retriever(values: argparse.Namespace, corpus: PassageStore) -> Retriever:
    return build_retriever(
        values.retriever,
        retriever_model(values),
        corpus,
        cache_of(values) / "compress-blocks",
        device=device_of(values.device),
        text_batch=values.document_batch_size,
        query_batch=values.batch_size,
        part=values.shard,
        show_progress=not values.no_progress,
    )


def _reranker(values: argparse.Namespace) -> Reranker:
    return Reranker(
        values.reranker_model, device=device_of(values.device), scores=values.reranking_scores
    )


def reranks(values: argparse.Namespace) -> bool:
    """Whether a cross-encoder is asked: for its scores, or to keep the best."""
    return bool(values.top_k_reranking or values.enable_reranking)


def retriever_model(values: argparse.Namespace) -> str:
    """Name of the retriever; "" where it has none."""
    return values.retriever_model or DEFAULT_MODELS[values.retriever]


def cache_of(values: argparse.Namespace) -> Path:
    """Where prepared corpora, encoded passages and answers are kept."""
    return values.cache_dir or default_cache_folder()


def _settings(values: argparse.Namespace) -> dict[str, Any]:
    names = (
        "retriever", "top_k_retrieval", "top_k_reranking", "enable_reranking",
        "reranking_scores", "batch_size", "shard",
    )  # fmt: skip
    return {f"--{name}": getattr(values, name) for name in names}


def _provenance(values: argparse.Namespace) -> dict[str, Any]:
    """Who found and ranked the passages of a record.

    Raises:
        CheckpointError: a model cannot be found.
    """
    model = retriever_model(values)
    identity = model_identity(model, RETRIEVER_FLAG) if model else None
    found: dict[str, Any] = {
        "retriever": {
            "kind": values.retriever,
            "model": model or None,
            "identity": identity,
            "top_k": values.top_k_retrieval,
        }
    }
    if reranks(values):
        config_of(values.reranker_model, RERANKER_FLAG)
        found["reranker"] = {
            "model": values.reranker_model,
            "identity": model_identity(values.reranker_model, RERANKER_FLAG),
            "scores": values.reranking_scores,
            "top_k": values.top_k_reranking,
        }
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    values = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    quiet_libraries()
    return exit_code("prepare_dataset", lambda: prepare(values))


if __name__ == "__main__":
    sys.exit(main())
