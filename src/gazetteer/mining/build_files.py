"""Build training files of queries, judgements, a corpus and a file of candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gazetteer.data.corpus import cached_passage_store
from gazetteer.data.passage_rows import SourceFormat
from gazetteer.data.passage_workers import usable_processes
from gazetteer.data.passages import PassageStore
from gazetteer.errors import DataError
from gazetteer.ir.records import Candidate, Qrels
from gazetteer.mining.candidate_files import FLAGS
from gazetteer.mining.filter_settings import FilterSettings
from gazetteer.mining.filters import Asked
from gazetteer.mining.grouped_lines import GroupedLines
from gazetteer.mining.line_builder import LineSettings, Work
from gazetteer.mining.line_processes import build_here, build_in_processes
from gazetteer.mining.report import ASKED, UNJUDGED, UNKNOWN
from gazetteer.mining.shards import ShardWriter
from gazetteer.progress import progress

COLLECTION_COLUMNS = ("text_id", "title", "text")
COLLECTION = SourceFormat("--collection", COLLECTION_COLUMNS, ("text_id", "_id", "id"))
WORTH_PROCESSES = 5_000
"""Queries: fewer are done before other processes have started."""


@dataclass(frozen=True, slots=True)
class Output:
    """What was written.

    Attributes:
        shards: in order.
        counts: of queries and candidates, under the names of `report.py`.
        lines: in all shards.
    """

    shards: Sequence[Path]
    counts: Counter[str]
    lines: int


def open_collection(path: Path, cache_dir: Path, *, show_progress: bool) -> PassageStore:
    """The corpus of `--collection`: three columns without a header, or jsonl.

    Raises:
        DataError: it cannot be read.
    """
    return cached_passage_store([path], cache_dir, show_progress=show_progress, form=COLLECTION)


def positives_of(qrels: Qrels) -> dict[str, tuple[str, ...]]:
    """Ids of the documents judged relevant for each query that has some; grades from 1 count."""
    relevant = {
        query_id: tuple(document_id for document_id, grade in judged.items() if grade > 0)
        for query_id, judged in qrels.items()
    }
    return {query_id: ids for query_id, ids in relevant.items() if ids}


def plan_work(
    candidates: GroupedLines,
    positives: Mapping[str, Sequence[str]],
    queries: Mapping[str, str],
) -> tuple[list[tuple[int, str]], Counter[str]]:
    """The queries to be built, as positions and ids in the file of candidates, and counts."""
    counts: Counter[str] = Counter({ASKED: 0, UNJUDGED: 0, UNKNOWN: 0})
    wanted = []
    for group, query_id in enumerate(candidates.query_ids):
        counts[ASKED] += 1
        if query_id not in positives:
            counts[UNJUDGED] += 1
        elif query_id not in queries:
            counts[UNKNOWN] += 1
        else:
            wanted.append((group, query_id))
    if not wanted:
        raise DataError(
            f"{candidates.path}: found none of its {counts[ASKED]} queries both in --qrels "
            f"({counts[UNJUDGED]} are not there) and in --queries ({candidates.flag})"
        )
    return wanted, counts


def build_files(
    settings: LineSettings,
    filters: FilterSettings,
    *,
    positives: Mapping[str, Sequence[str]],
    queries: Mapping[str, str],
    answers: Mapping[str, tuple[str, ...]],
    writer: ShardWriter,
    queries_per_part: int,
    processes: int | None,
    show_progress: bool,
) -> Output:
    """Build every line and write it.

    What is written does not depend on the number of processes, nor on `queries_per_part`.

    Args:
        settings: of lines.
        filters: of candidates.
        positives: ids of the relevant documents of each query.
        queries: texts by id.
        answers: by query id; {} without `--answers`.
        writer: takes the lines.
        queries_per_part: `--mp_chunk_size`.
        processes: that build; None = one per core, or this one alone for few queries.
        show_progress: draw bars.

    Raises:
        GazetteerError: something cannot be read; nothing is written then.
    """
    flag = FLAGS[settings.kind]
    candidates = GroupedLines(settings.candidates, flag, show_progress=show_progress)
    wanted, counts = plan_work(candidates, positives, queries)
    if processes is None:
        processes = usable_processes() if len(wanted) >= WORTH_PROCESSES else 1
    # A cross-encoder would be loaded by every process, onto the same device.
    processes = 1 if filters.cross_encoder is not None else processes

    def works() -> Iterator[Work]:
        for group, query_id in wanted:
            relevant = (Candidate(one, None, None, "qrels") for one in positives[query_id])
            asked = Asked(query_id, queries[query_id], tuple(relevant), answers.get(query_id, ()))
            yield Work(asked, tuple(candidates.stretches(group)))

    parts = _parts(works(), queries_per_part)
    built = (
        build_here(parts, settings, filters)
        if processes < 2
        else build_in_processes(parts, settings, filters, processes)
    )
    with progress(len(wanted), "building", "query", enabled=show_progress) as bar, writer:
        done = 0
        for lines, counted in built:
            writer.write(lines)
            counts += counted
            step = min(queries_per_part, len(wanted) - done)
            done += step
            bar.update(step)
    return Output(writer.shards, counts, writer.lines)


def _parts(works: Iterator[Work], size: int) -> Iterator[list[Work]]:
    while part := list(islice(works, size)):
        yield part
