r"""Cut documents of a web-size corpus into passages of 100 words, by datatrove.

    python preprocessing/prepare_web_corpus.py --input dump --format warc --output corpus --tasks 64
    python preprocessing/prepare_web_corpus.py --input dump --format warc --output corpus \
        --tasks 512 --executor slurm --slurm_partition cpu --slurm_hours 4

Reads folders of jsonl, parquet or WARC files (of which the main text is extracted); task i writes
passages.{i}.jsonl.gz, in one move. What is done is not done again: the same command goes on after
a kill. Needs `pip install gazetteer[corpus]`. datatrove pickles the job that it gives to Slurm:
keep `--output` where nobody else can write. Filters and deduplication are datatrove's own steps,
for pipelines of your own; this one keeps every document.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gazetteer.errors import DataError, OptionError
from gazetteer.one_line_errors import exit_code
from gazetteer.optional_packages import import_optional

TITLE_FIELDS = ("title", "url")
"""Of a document's metadata; the first that is there is its passages' title."""
READERS = {"jsonl": "JsonlReader", "parquet": "ParquetReader", "warc": "WarcReader"}
EXTRACTION_SECONDS = 30
"""A page that takes longer is left out; datatrove's own limit of one loses pages on busy machines.
Its numbers are in the log of the task."""
DONE = "done"
"""In the output folder: datatrove's notes of the tasks that are done, and logs."""


def cut(text: str, words: int) -> Iterator[str]:
    """Consecutive pieces of so many words each, the last one shorter; white space becomes one."""
    found = text.split()
    for start in range(0, len(found), words):
        yield " ".join(found[start : start + words])


def passages_of(document: Any, words: int) -> Iterator[dict[str, str]]:  # noqa: ANN401
    """The passages of one document of datatrove: its id, `text` and `metadata` are read."""
    given = (document.metadata.get(name) for name in TITLE_FIELDS)
    title = next((value for value in given if isinstance(value, str) and value), "")
    for number, text in enumerate(cut(document.text, words)):
        yield {"id": f"{document.id}-{number}", "title": " ".join(title.split()), "text": text}


def write_passages(
    documents: Iterable[Any] | None,
    rank: int = 0,
    world_size: int = 1,
    *,
    folder: str,
    words: int,
) -> None:
    """The last step of the pipeline: one file of passages, which appears whole; none of none.

    Args:
        documents: of this task.
        rank: of the task.
        world_size: tasks.
        folder: where the file goes.
        words: of a passage.
    """
    path = Path(folder) / f"passages.{rank:06d}.jsonl.gz"
    partial_path = path.with_name(f".{path.name}.{os.getpid()}")
    is_empty = True
    # Without a time in it, the same passages are the same bytes.
    with partial_path.open("wb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as file:
        for document in documents or ():
            for passage in passages_of(document, words):
                is_empty = False
                line = json.dumps(passage, ensure_ascii=False)
                # A lone half of a surrogate pair is no text.
                file.write(f"{line}\n".encode("utf-8", "replace"))
    if is_empty:
        partial_path.unlink()
    else:
        partial_path.replace(path)


def pipeline(arguments: argparse.Namespace) -> list[Any]:
    """What every task does: read, extract the text of web pages, cut and write."""
    readers = _datatrove("pipeline.readers")
    read = getattr(readers, READERS[arguments.format])(
        str(arguments.input), glob_pattern=arguments.glob
    )
    steps = [read]
    if arguments.format == "warc":
        extractors = _datatrove("pipeline.extractors")
        steps.append(extractors.Trafilatura(timeout=EXTRACTION_SECONDS))
    steps.append(partial(write_passages, folder=str(arguments.output), words=arguments.words))
    return steps


def _datatrove(part: str) -> Any:  # noqa: ANN401
    needed = "preparing a web corpus needs datatrove"
    return import_optional(f"datatrove.{part}", needed, install="gazetteer[corpus]")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, required=True, help="folder of files")
    parser.add_argument("--format", choices=list(READERS), required=True)
    parser.add_argument("--glob", help="files of the folder to read, as **/*.jsonl.gz [all]")
    parser.add_argument("--output", type=Path, required=True, help="folder of the passages")
    parser.add_argument("--words", type=_positive, default=100, help="of a passage [100]")
    parser.add_argument("--tasks", type=_positive, default=1, help="files to write [1]")
    parser.add_argument("--workers", type=_positive, help="tasks at a time [all cores]")
    parser.add_argument("--executor", choices=["local", "slurm"], default="local")
    parser.add_argument("--slurm_partition", help="of the job array")
    parser.add_argument("--slurm_hours", type=_positive, default=24, help="time limit [24]")
    return parser


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


def prepare(arguments: argparse.Namespace) -> None:
    """Run the tasks here, or give them to Slurm.

    Raises:
        DataError: there is nothing to read.
        OptionError: datatrove is not installed, or Slurm is not told where.
    """
    if not arguments.input.is_dir():
        raise DataError(f"{arguments.input}: no such folder (--input)")
    steps = pipeline(arguments)
    arguments.output.mkdir(mode=0o700, parents=True, exist_ok=True)
    notes = str(arguments.output / DONE)
    if arguments.executor == "slurm":
        if not arguments.slurm_partition:
            raise OptionError("--slurm_partition is needed with --executor slurm")
        _datatrove("executor").SlurmPipelineExecutor(
            steps,
            tasks=arguments.tasks,
            workers=arguments.workers or -1,
            time=f"{arguments.slurm_hours}:00:00",
            partition=arguments.slurm_partition,
            job_name="gazetteer-corpus",
            logging_dir=notes,
            slurm_logs_folder=str(arguments.output / DONE / "slurm"),
            mail_type="NONE",
            qos="",
        ).run()
        return
    workers = min(arguments.tasks, arguments.workers or os.cpu_count() or 1)
    _datatrove("executor").LocalPipelineExecutor(
        steps, tasks=arguments.tasks, workers=workers, logging_dir=notes
    ).run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run."""
    parsed = build_parser().parse_args(arguments)
    return exit_code("prepare_web_corpus.py: error", lambda: prepare(parsed))


if __name__ == "__main__":
    sys.exit(main())
