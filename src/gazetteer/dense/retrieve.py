"""Search a saved index with a file of queries.   python -m gazetteer.dense.retrieve --help

OpenMatch's command of this name, on any number of workers, each of which holds a part of the index.
Writes a run as TREC does. An index that another model made is refused.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gazetteer.data.passages import PassageStore
from gazetteer.data.queries import QueryTokenizer
from gazetteer.data.templates import PassageTemplate
from gazetteer.dense.commands import SeedParser, positive, require_writable, run_command
from gazetteer.dense.model_flags import IDLE as IDLE_MODEL
from gazetteer.dense.text_files import (
    add_reading_flags,
    add_text_flags,
    open_texts,
    template_of,
)
from gazetteer.distributed.agreement import build_alike, main_first
from gazetteer.distributed.collectives import gather_bytes
from gazetteer.index import ShardedIndex, read_manifest
from gazetteer.index.manifest import EncoderIdentity
from gazetteer.index.searcher import load_checked_encoder, maker_of, open_passages
from gazetteer.index.shards import shard_range
from gazetteer.ir.runs import run_lines
from gazetteer.ir.whole_files import written_whole
from gazetteer.progress import progress
from gazetteer.records import Hits, PassageRecord, Ranks
from gazetteer.retriever import DualEncoder

logger = logging.getLogger(__name__)

IDLE = {
    "p_max_len": "the index says how its documents were cut",
    "doc_column_names": "the documents lie beside the index",
    "corpus_path": "the documents lie beside the index",
    "dataloader_num_workers": "texts are read and cut by all cores",
    "use_gpu": "GPUs are used where there are some, each for a part of the index",
    "faiss_starting_gpu": "the launcher says which GPUs",
    "max_inmem_docs": "each worker holds a part of the index, large ones mapped from its files",
    "use_split_search": "the index is searched in parts in any case",
    "encoded_save_path": "queries are embedded when they are searched",
    "trec_run_path": "nothing is re-ranked",
    "reranking_depth": "nothing is re-ranked",
    "fp16": "queries are embedded in the precision of the index",
    "bf16": "queries are embedded in the precision of the index",
    "pooling": "the index says how its embeddings were made",
    "normalize": "the index says how its embeddings were made",
    "encoder_only": "the index says how its embeddings were made",
    "encode_as_text_pair": "a template makes one text",
    "overwrite_output_dir": "nothing is written there",
    "logging_dir": "nothing is measured",
    "report_to": "nothing is measured",
    "seed": "nothing is drawn",
}


def build_parser() -> SeedParser:
    """The command's flags."""
    parser = SeedParser("python -m gazetteer.dense.retrieve", (__doc__ or "").partition(".")[0])
    add = parser.add_argument
    add("--output_dir", type=Path, required=True, help="the index, as build_index wrote it")
    add("--model_name_or_path", required=True, help="the model that made it: folder or hub name")
    add("--query_path", type=Path, required=True, help=".tsv, .txt or .jsonl")
    add_text_flags(parser, "query")
    add("--q_max_len", type=positive, default=32, help="tokens of a query")
    add("--trec_save_path", type=Path, required=True, help="run to be written")
    add("--retrieve_depth", type=positive, default=100, help="documents per query")
    parser.add_switch("--remove_identical", "leave out the document with the id of the query")
    parser.add_switch("--encode_query_as_passage", "embed queries as documents")
    add("--doc_template", help="of queries embedded as documents; none = that of the index")
    add("--per_device_eval_batch_size", type=positive, default=8, help="queries of one search")
    add("--trec_tag", default="gazetteer", help="last column of the run")
    parser.add_switch("--allow_stale_index", "search although another model made the index")
    add_reading_flags(parser)
    parser.add_idle(IDLE_MODEL | IDLE)
    return parser


@dataclass(frozen=True, slots=True)
class QueryEncoder:
    """Embeds queries.

    Attributes:
        retriever: on its device.
        tokenizer: cuts texts to what the tower takes.
        template: of queries, or of documents.
        is_passage: whether the passage tower embeds.
    """

    retriever: DualEncoder
    tokenizer: QueryTokenizer
    template: PassageTemplate
    is_passage: bool

    def embed(self, queries: Sequence[PassageRecord]) -> Float[Tensor, "query dim"]:
        """float32, without gradient."""
        tokens = self.tokenizer.encode([self.template.fill(query) for query in queries])
        if self.is_passage:
            return self.retriever.embed_for_index(tokens)
        return self.retriever.embed_for_search(tokens)


def retrieve(values: argparse.Namespace, ranks: Ranks) -> None:
    """Search, and write the run on rank 0.

    Collective: every rank must call this.

    Raises:
        GazetteerError: something cannot be read or written, or the index is another model's; the
            same on every rank.
    """
    folder: Path = values.output_dir
    main_first(lambda: require_writable(values.trec_save_path, "--trec_save_path"), ranks)
    manifest = build_alike(lambda: read_manifest(folder), ranks)
    passages = build_alike(lambda: open_passages(folder, manifest), ranks)
    retriever, tokenizer = build_alike(
        lambda: load_checked_encoder(
            folder,
            manifest,
            values.model_name_or_path,
            allow_stale=values.allow_stale_index,
            allowing="--allow_stale_index",
        ),
        ranks,
    )
    template = template_of(values.query_template or "<text>", values)
    queries = open_texts(values.query_path, "query", template, values, ranks)
    encoder = _encoder(
        values, retriever.to(ranks.device), tokenizer, template, manifest.identity.encoder
    )
    maker = maker_of(manifest, ranks)
    index = ShardedIndex(manifest.count, ranks, build_shard=maker)
    index.adopt(maker.load(folder, manifest))
    writes = written_whole(values.trec_save_path) if ranks.is_main else nullcontext()
    with (
        writes as file,
        progress(
            queries.count, "searching", "query", enabled=ranks.is_main and not values.no_progress
        ) as bar,
    ):
        for lines, count in _found(values, ranks, queries, encoder, index, passages):
            if file is not None:
                file.write(lines)
            bar.update(count)
    logger.info("%s: %d queries in %d documents", values.trec_save_path, queries.count, index.count)


def _encoder(
    values: argparse.Namespace,
    retriever: DualEncoder,
    tokenizer: PreTrainedTokenizerBase,
    template: PassageTemplate,
    made_by: EncoderIdentity,
) -> QueryEncoder:
    if not values.encode_query_as_passage:
        cut = QueryTokenizer(tokenizer, max_tokens=values.q_max_len)
        return QueryEncoder(retriever, cut, template, False)
    if values.doc_template is not None:
        template = template_of(values.doc_template, values)
    else:
        template = PassageTemplate.parse(made_by.template)
    cut = QueryTokenizer(tokenizer, max_tokens=made_by.max_tokens)
    return QueryEncoder(retriever, cut, template, True)


def _found(
    values: argparse.Namespace,
    ranks: Ranks,
    queries: PassageStore,
    encoder: QueryEncoder,
    index: ShardedIndex,
    passages: PassageStore,
) -> Iterator[tuple[str, int]]:
    """Lines of the run for some queries after the other, on rank 0, and how many they were.

    Collective.
    """
    step = values.per_device_eval_batch_size * ranks.world_size
    depth = values.retrieve_depth + values.remove_identical
    for first in range(0, queries.count, step):
        count = min(step, queries.count - first)
        mine = shard_range(count, ranks.rank, ranks.world_size)
        asked = queries.records(range(first + mine.start, first + mine.stop))
        hits = index.search(encoder.embed(asked), depth)
        lines = build_alike(partial(_lines, values, asked, hits, passages), ranks)
        parts = gather_bytes(lines.encode())
        yield b"".join(parts or []).decode(), count


def _lines(
    values: argparse.Namespace,
    asked: Sequence[PassageRecord],
    hits: Hits,
    passages: PassageStore,
) -> str:
    ids = iter(passages.ids(hits.rows.flatten().numpy()))
    lines = []
    for query, scores in zip(asked, hits.scores.tolist(), strict=True):
        scored: dict[str, float] = {}
        for document_id, score in zip(islice(ids, len(scores)), scores, strict=True):
            # An id that is there twice keeps its best score.
            scored.setdefault(document_id, score)
        if values.remove_identical:
            scored.pop(query["id"], None)
        lines += run_lines(query["id"], scored, values.retrieve_depth, values.trec_tag)
    return "".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(build_parser(), retrieve, arguments)


if __name__ == "__main__":
    sys.exit(main())
