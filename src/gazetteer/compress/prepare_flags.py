"""Flags of `prepare_dataset`, and which of them go together."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from gazetteer.compress.reranker import DEFAULT_RERANKER
from gazetteer.compress.retrieval import DEFAULT_MODELS, KINDS
from gazetteer.compress.teacher import DEFAULT_TEACHER
from gazetteer.dense.commands import SeedParser, positive
from gazetteer.errors import OptionError

SOURCES = ("queries_file", "num_synthetic_queries", "download_ms_marco")


def build_parser() -> SeedParser:
    """The command's flags."""
    parser = SeedParser(
        "python -m gazetteer.compress.prepare_dataset", "Training data for a compressor"
    )
    _add_sources(parser)
    _add_retrieval(parser)
    _add_reranking(parser)
    add_teacher_flags(parser, DEFAULT_TEACHER)
    _add_work(parser)
    return parser


def _add_sources(parser: SeedParser) -> None:
    add = parser.add_argument
    add("--queries_file", type=Path, help="one query per line; .jsonl and .tsv as well")
    add("--num_synthetic_queries", type=positive, help="made queries, to try the pipeline")
    add("--download_ms_marco", action="store_true", help="the 6,980 queries of MS MARCO dev")
    add("--corpus_path", type=Path, help="KILT's knowledge source, or passages")
    add("--max_corpus_size", type=positive, help="read only so many lines of it")
    add("--passage_words", type=positive, default=100, help="of a piece of KILT's pages (new)")
    add("--passage_tokens", type=positive, help="cut pages by tokens instead, such as 128 (new)")
    add("--passage_tokenizer", help="counts them; none = that of the retriever (new)")


def _add_retrieval(parser: SeedParser) -> None:
    add = parser.add_argument
    add("--retriever", choices=KINDS, default="splade", help="how passages are found (new)")
    add("--retriever_model", help=f"hub name or folder; none = {DEFAULT_MODELS['splade']}")
    add("--top_k_retrieval", type=positive, default=20, help="documents per query")
    add("--document_batch_size", type=positive, default=32, help="texts encoded together (new)")


def _add_reranking(parser: SeedParser) -> None:
    add = parser.add_argument
    add("--top_k_reranking", type=positive, help="rerank and keep the best so many")
    add("--enable_reranking", action="store_true", help="write reranking_scores")
    add("--reranker_model", default=DEFAULT_RERANKER, help="cross-encoder: hub name or folder")
    add(
        "--reranking_scores",
        choices=("logits", "probabilities"),
        default="logits",
        help="what the cross-encoder gives, or its sigmoid (new)",
    )


def add_teacher_flags(parser: SeedParser, default: str) -> None:
    """Who answers, and how."""
    add = parser.add_argument
    add(
        "--teacher_model",
        default=default,
        help="hub name, folder or GGUF file; none = keep gold answers where there are some",
    )
    add("--teacher_8bit", action="store_true", help="load it in 8 bits, on a GPU")
    add("--teacher_backend", choices=("transformers", "vllm"), default="transformers", help="(new)")
    add("--teacher_max_new_tokens", type=positive, default=128, help="of an answer (new)")
    add("--teacher_max_prompt_tokens", type=positive, help="none = up to 4096 (new)")
    add("--batch_size", type=positive, default=8, help="queries answered together (new)")
    add(
        "--device", choices=("auto", "gpu", "cpu"), default="auto", help="auto: a GPU, if any (new)"
    )
    add("--cache_dir", type=Path, help="for prepared corpora and the teacher's answers (new)")
    add("--no_progress", action="store_true", help="draw no bars (new)")


def _add_work(parser: SeedParser) -> None:
    add = parser.add_argument
    add("--output_file", type=Path, default=Path("train_data.json"), help="a JSON list")
    add(
        "--shard",
        type=shard,
        default=(0, 1),
        help="i/n: do part i of n, from 0, and write OUTPUT.shard-i-of-n.json (new)",
    )
    add("--merge", type=Path, nargs="+", help="only join these outputs into --output_file (new)")


def shard(text: str) -> tuple[int, int]:
    """Part and number of parts, written as 0/4."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise argparse.ArgumentTypeError(f"expected i/n with i from 0 to n - 1, got {text!r}")
    return int(match[1]), int(match[2])


def check(values: argparse.Namespace) -> None:
    """Refuse flags that contradict each other, before anything is read.

    Raises:
        OptionError: in one line.
    """
    given = [name for name in SOURCES if getattr(values, name)]
    if len(given) != 1:
        found = " and ".join(f"--{name}" for name in given) or "none"
        raise OptionError(
            f"expected one of {', '.join(f'--{name}' for name in SOURCES)}, found {found}"
        )
    if values.corpus_path is None and not values.num_synthetic_queries:
        raise OptionError("--corpus_path is needed: kilt_knowledgesource.json, or passages")
    if values.top_k_reranking and values.top_k_reranking > values.top_k_retrieval:
        raise OptionError(
            f"--top_k_reranking ({values.top_k_reranking}) must be <= --top_k_retrieval "
            f"({values.top_k_retrieval})"
        )
    if values.retriever == "bm25" and values.retriever_model:
        raise OptionError("--retriever_model is given, but --retriever bm25 has no model")
    if values.passage_tokens and values.retriever == "bm25" and not values.passage_tokenizer:
        raise OptionError("--passage_tokens with --retriever bm25 needs --passage_tokenizer")
