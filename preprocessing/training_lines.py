"""What build_train.py and build_hn.py share: their flags, and what they do with them."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from gazetteer.errors import OptionError
from gazetteer.files import replace_json
from gazetteer.ir.collections import read_queries
from gazetteer.ir.judgements import read_qrels
from gazetteer.mining.build_files import build_files, open_collection, positives_of
from gazetteer.mining.candidate_files import CandidateKind
from gazetteer.mining.filter_settings import FilterSettings, read_answers
from gazetteer.mining.filters import CONFIDENT_NEGATIVE, PERCENT_OF_POSITIVE
from gazetteer.mining.line_builder import LineSettings
from gazetteer.mining.report import report_of, shown
from gazetteer.mining.shards import ShardWriter, merge, require_room, split
from gazetteer.paths import default_cache_folder

SUFFIXES: dict[CandidateKind, str] = {"negatives": "", "run": ".hn"}


def parser_of(program: str, description: str) -> argparse.ArgumentParser:
    """The flags both programs have."""
    parser = argparse.ArgumentParser(prog=program, description=description, allow_abbrev=False)
    add = parser.add_argument
    add("--tokenizer_name", required=True, help="name or folder of the tokenizer")
    add("--qrels", type=Path, required=True, help="judgements; grades from 1 are positives")
    add("--queries", type=Path, required=True, help="query id, tab, text; or jsonl")
    add("--collection", type=Path, required=True, help="id, title, text, set apart by tabs")
    add("--save_to", type=Path, required=True, help="folder for the files, created")
    add("--doc_template", help='as "Title: <title> Text: <text>"; none = title, separator, text')
    add("--query_template", help='as "<text>"; none = the text')
    add("--truncate", type=positive, default=128, help="tokens of a document; a query's are 32")
    add("--n_sample", type=positive, default=30, help="negatives per query")
    add("--mp_chunk_size", type=positive, default=500, help="queries that a process is given")
    add("--shard_size", type=positive, default=45_000, help="lines per file")
    _add_own(parser)
    _add_filters(parser)
    return parser


def _add_own(parser: argparse.ArgumentParser) -> None:
    own = parser.add_argument_group("beyond OpenMatch")
    own.add_argument("--seed", type=int, default=0, help="of the draw of negatives")
    own.add_argument("--processes", type=positive, help="that build; none = one for each core")
    own.add_argument("--merge", action="store_true", help="also all lines in train[.hn].jsonl")
    own.add_argument(
        "--validation_size",
        type=positive,
        help="also the last so many lines in val[.hn].jsonl, the rest in train.new[.hn].jsonl",
    )
    own.add_argument(
        "--form",
        choices=["openmatch", "reference"],
        default="openmatch",
        help="token ids, or texts of queries and ids of passages (see --passages of train.py)",
    )
    own.add_argument("--cache_dir", type=Path, help="for prepared passages")
    own.add_argument("--no_progress", action="store_true", help="draw no bars")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "false negatives",
        "Judged positives are always dropped. These drop more candidates, and count them.",
    )
    group.add_argument(
        "--filter_duplicates",
        action="store_true",
        help="with the text of a positive or of an earlier negative",
    )
    group.add_argument(
        "--answers",
        type=Path,
        help="that hold an answer; a file of query id, question, list; or jsonl",
    )
    group.add_argument(
        "--cross_encoder", help="that a cross-encoder of sentence-transformers finds relevant"
    )
    group.add_argument(
        "--cross_encoder_scores", type=Path, help="the same by a file of scores, in a run's format"
    )
    group.add_argument(
        "--cross_encoder_threshold",
        type=float,
        default=CONFIDENT_NEGATIVE,
        help="score from which a candidate is dropped (default: %(default)s, as in RocketQA)",
    )


def add_margin(parser: argparse.ArgumentParser) -> None:
    """The filter that needs scores of a run."""
    parser.add_argument(
        "--positive_margin",
        type=float,
        nargs="?",
        const=PERCENT_OF_POSITIVE,
        help="drop what scores above (1 - this) of the best positive's score in the run "
        f"({PERCENT_OF_POSITIVE} if no number follows)",
    )


def run(options: argparse.Namespace, kind: CandidateKind, candidates: Path) -> None:
    """Build the files, print the report, and keep it beside them."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    filters = _filters(options, kind)
    shows = not options.no_progress
    cache = options.cache_dir or default_cache_folder()
    answers = read_answers(options.answers) if options.answers else {}
    positives = positives_of(read_qrels(options.qrels, flag="--qrels"))
    queries = {query.id: query.text for query in read_queries(options.queries, flag="--queries")}
    corpus = open_collection(options.collection, cache, show_progress=shows)
    require_room(options.save_to, "--save_to")
    suffix = SUFFIXES[kind]
    output = build_files(
        LineSettings(
            corpus_folder=corpus.folder,
            qrels=options.qrels,
            candidates=candidates,
            kind=kind,
            depth=options.depth if kind == "run" else None,
            n_sample=options.n_sample,
            seed=options.seed,
            form=options.form,
            tokenizer=options.tokenizer_name,
            doc_template=options.doc_template,
            query_template=options.query_template,
            truncate=options.truncate,
        ),
        filters,
        positives=positives,
        queries=queries,
        answers=answers,
        writer=ShardWriter(options.save_to, suffix, options.shard_size),
        queries_per_part=options.mp_chunk_size,
        processes=options.processes,
        show_progress=shows,
    )
    report = report_of(output.counts)
    replace_json(options.save_to / f"report{suffix}.json", report)
    print(*shown(report), sep="\n")
    if options.merge:
        merge(output.shards, options.save_to / f"train{suffix}.jsonl")
    if options.validation_size is not None:
        train, held = (options.save_to / f"{name}{suffix}.jsonl" for name in ("train.new", "val"))
        split(output.shards, output.lines, options.validation_size, train, held)


def _filters(options: argparse.Namespace, kind: CandidateKind) -> FilterSettings:
    margin = options.positive_margin if kind == "run" else None
    if margin is not None and not 0 <= margin < 1:
        raise OptionError(f"--positive_margin ({margin}) must be at least 0 and below 1")
    if options.cross_encoder is not None and options.cross_encoder_scores is not None:
        raise OptionError("--cross_encoder and --cross_encoder_scores exclude each other")
    return FilterSettings(
        margin=margin,
        drops_duplicates=options.filter_duplicates,
        drops_answers=options.answers is not None,
        cross_encoder=options.cross_encoder,
        scores=options.cross_encoder_scores,
        threshold=options.cross_encoder_threshold,
    )


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
