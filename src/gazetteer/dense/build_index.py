"""Embed a corpus and save it as an index.   python -m gazetteer.dense.build_index --help

OpenMatch's command of this name, on any number of workers. What it writes is an index as any other
of this project's; one that is there already, made of the same, is left as it is.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from gazetteer.data.marked_templates import MarkedTemplate
from gazetteer.data.passages import PASSAGES_FOLDER, PassageStore
from gazetteer.data.tokens import PassageTokens
from gazetteer.dense.commands import SeedParser, positive, run_command
from gazetteer.dense.model_flags import add_model_flags, load_towers
from gazetteer.dense.text_files import (
    add_reading_flags,
    add_text_flags,
    open_texts,
    template_of,
)
from gazetteer.distributed.agreement import build_alike, build_main_first
from gazetteer.errors import IndexFileError, OptionError
from gazetteer.index import ShardedIndex, identity_mismatches, read_manifest
from gazetteer.index.making import FlatMaker
from gazetteer.indexing import IndexFiles, IndexKeeper, RefreshPlan
from gazetteer.indexing.identity import identity_of
from gazetteer.mining.line_builder import separator_of
from gazetteer.paths import default_cache_folder
from gazetteer.records import Ranks
from gazetteer.retriever import DualEncoder

logger = logging.getLogger(__name__)

UNFINISHED_FOLDER = "unfinished"
"""In the output folder: what is embedded of an index that is not whole yet."""
IDLE = {
    "q_max_len": "queries are embedded by retrieve",
    "dataloader_num_workers": "texts are read and cut by all cores",
    "max_inmem_docs": "each worker holds the vectors of its own documents",
    "encoded_save_path": "the index is saved in --output_dir",
    "query_path": "queries are embedded by retrieve",
    "query_template": "queries are embedded by retrieve",
    "query_column_names": "queries are embedded by retrieve",
    "use_gpu": "GPUs are used where there are some",
    "overwrite_output_dir": "an index of something else in --output_dir is replaced in any case",
    "encode_as_text_pair": "a template makes one text",
    "logging_dir": "nothing is measured",
    "report_to": "nothing is measured",
    "seed": "nothing is drawn",
}


def build_parser() -> SeedParser:
    """The command's flags."""
    parser = SeedParser("python -m gazetteer.dense.build_index", (__doc__ or "").partition(".")[0])
    parser.add_argument("--output_dir", type=Path, required=True, help="of the index")
    parser.add_argument("--corpus_path", type=Path, required=True, help=".tsv, .txt or .jsonl")
    add_text_flags(parser, "doc")
    parser.add_argument("--p_max_len", type=positive, default=128, help="tokens of a document")
    add_model_flags(parser)
    add_reading_flags(parser)
    parser.add_argument(
        "--save_index_n_shards", type=positive, default=8, help="files of vectors, at least"
    )
    parser.add_idle(IDLE)
    return parser


def build_index(values: argparse.Namespace, ranks: Ranks) -> None:
    """Embed what is not embedded yet.

    Collective: every rank must call this.

    Raises:
        GazetteerError: something cannot be read or written; the same on every rank.
    """
    retriever, tokenizer = build_alike(lambda: load_towers(values, ranks), ranks)
    template = (
        MarkedTemplate.titled(separator_of(tokenizer))
        if values.doc_template is None
        else template_of(values.doc_template, values)
    )
    corpus = open_texts(values.corpus_path, "doc", template, values, ranks)
    tokens = _tokens(values, ranks, corpus, tokenizer, template)
    folder: Path = values.output_dir
    if _is_there(folder, retriever, corpus, tokens):
        logger.info("%s: this index is there already", folder)
        return
    keeper = _keeper(values, ranks, retriever, tokenizer, corpus, tokens)
    with torch.no_grad():
        keeper.fill()
    keeper.forget_unfinished()
    logger.info("%s: %d documents", folder, corpus.count)


def _tokens(
    values: argparse.Namespace,
    ranks: Ranks,
    corpus: PassageStore,
    tokenizer: PreTrainedTokenizerBase,
    template: MarkedTemplate,
) -> PassageTokens:
    def build() -> PassageTokens:
        special = tokenizer.num_special_tokens_to_add()
        if values.p_max_len <= special:
            raise OptionError(
                f"--p_max_len ({values.p_max_len}) must be above {special}, the number of the "
                "model's special tokens"
            )
        return PassageTokens(
            corpus,
            tokenizer,
            template,
            max_tokens=values.p_max_len,
            cache_dir=values.data_cache_dir or default_cache_folder(),
            show_progress=ranks.is_main and not values.no_progress,
        )

    return build_main_first(build, ranks)


def _is_there(
    folder: Path, retriever: DualEncoder, corpus: PassageStore, tokens: PassageTokens
) -> bool:
    """Whether the folder holds the index that is asked for, with its passages."""
    try:
        found = read_manifest(folder)
        passages = PassageStore(folder / PASSAGES_FOLDER)
    except (IndexFileError, OSError):
        return False
    expected = identity_of(retriever.passage_tower, corpus, tokens)
    is_same = not identity_mismatches(found.identity, expected)
    return is_same and passages.fingerprint == corpus.fingerprint


def _keeper(
    values: argparse.Namespace,
    ranks: Ranks,
    retriever: DualEncoder,
    tokenizer: PreTrainedTokenizerBase,
    corpus: PassageStore,
    tokens: PassageTokens,
) -> IndexKeeper:
    folder: Path = values.output_dir
    maker = FlatMaker(
        "fp32", count=corpus.count, dim=retriever.embedding_dim, ranks=ranks, folder=folder
    )
    return IndexKeeper(
        index=ShardedIndex(corpus.count, ranks, build_shard=maker),
        retriever=retriever,
        tokenizer=tokenizer,
        corpus=corpus,
        tokens=tokens,
        files=IndexFiles(
            save_folder=folder,
            files=values.save_index_n_shards,
            refresh_folder=folder / UNFINISHED_FOLDER,
        ),
        refresh=RefreshPlan(),
        maker=maker,
        ranks=ranks,
        show_progress=ranks.is_main and not values.no_progress,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(build_parser(), build_index, arguments)


if __name__ == "__main__":
    sys.exit(main())
