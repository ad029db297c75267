"""Search a corpus by words.   python -m gazetteer.dense.bm25 --help

Writes a run as TREC does: a baseline, and candidates for `preprocessing/build_hn.py`. One process;
searching uses all its cores.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from gazetteer.data.corpus import cached_passage_store
from gazetteer.data.passage_rows import SourceFormat
from gazetteer.dense.commands import SeedParser, names, positive, require_writable, run_command
from gazetteer.errors import LaunchError, OptionError
from gazetteer.ir.collections import read_queries
from gazetteer.ir.runs import run_lines
from gazetteer.ir.whole_files import written_whole
from gazetteer.mining.bm25 import K1, B, Bm25, Bm25Settings
from gazetteer.paths import default_cache_folder
from gazetteer.progress import progress
from gazetteer.records import Ranks

logger = logging.getLogger(__name__)

QUERIES_PER_SEARCH = 256


def build_parser() -> SeedParser:
    """The command's flags."""
    parser = SeedParser("python -m gazetteer.dense.bm25", (__doc__ or "").partition(".")[0])
    add = parser.add_argument
    add("--corpus", type=Path, nargs="+", required=True, help="passages, as --passages of train.py")
    add("--doc_column_names", type=names, help="of a .tsv or .txt; none = its header or its looks")
    add("--queries", type=Path, required=True, help="jsonl, or query id, tab, text")
    add("--output", type=Path, required=True, help="run to be written")
    add("--retrieve_depth", type=positive, default=100, help="documents per query")
    add("--k1", type=float, default=K1, help="how soon a repeated word stops counting")
    add("--b", type=float, default=B, help="how much long documents are marked down")
    add("--stemmer", default="english", help="language of Snowball, or none")
    add("--stopwords", choices=["english", "none"], default="english", help="words left out")
    add("--trec_tag", default="bm25", help="last column of the run")
    add("--data_cache_dir", type=Path, help="for prepared texts")
    add("--no_progress", action="store_true", help="draw no bars")
    return parser


def search(values: argparse.Namespace, ranks: Ranks) -> None:
    """Search for every query and write the run.

    Raises:
        GazetteerError: something cannot be read or written, or a flag's value makes no sense.
    """
    if ranks.world_size > 1:
        raise LaunchError("gazetteer.dense.bm25 is for one process: start it without torchrun")
    if not 0 <= values.b <= 1 or not 0 <= values.k1 < float("inf"):
        raise OptionError(f"--k1 ({values.k1}) must be at least 0, --b ({values.b}) from 0 to 1")
    queries = read_queries(values.queries, flag="--queries")
    require_writable(values.output, "--output")
    corpus = cached_passage_store(
        values.corpus,
        values.data_cache_dir or default_cache_folder(),
        form=SourceFormat("--corpus", values.doc_column_names or ()),
        show_progress=not values.no_progress,
    )
    index = Bm25(
        corpus,
        Bm25Settings(
            k1=values.k1,
            b=values.b,
            stemmer=None if values.stemmer == "none" else values.stemmer,
            stopwords=None if values.stopwords == "none" else values.stopwords,
        ),
        show_progress=not values.no_progress,
    )
    with (
        written_whole(values.output) as file,
        progress(len(queries), "searching", "query", enabled=not values.no_progress) as bar,
    ):
        for first in range(0, len(queries), QUERIES_PER_SEARCH):
            some = queries[first : first + QUERIES_PER_SEARCH]
            found = index.search([query.text for query in some], values.retrieve_depth)
            for query, hits in zip(some, found, strict=True):
                ids = corpus.ids([row for row, _ in hits])
                scores = dict(zip(ids, (score for _, score in hits), strict=True))
                file.writelines(run_lines(query.id, scores, values.retrieve_depth, values.trec_tag))
            bar.update(len(some))
    logger.info("%s: %d queries in %d documents", values.output, len(queries), corpus.count)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(build_parser(), search, arguments)


if __name__ == "__main__":
    sys.exit(main())
