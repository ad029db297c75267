"""A small real data set to train a compressor on.   python prepare_small_real_dataset.py --help

Examples of SQuAD, Natural Questions, TriviaQA or HotpotQA with their own passages, a tenth of them
held out: OUTPUT and OUTPUT_eval. Through `datasets` where the hub can be reached, or from a file.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from gazetteer.compress.pipeline import taught
from gazetteer.compress.prepare_dataset import teacher_of
from gazetteer.compress.prepare_flags import add_teacher_flags
from gazetteer.compress.qa_examples import Example, examples_of
from gazetteer.compress.records import OfflineRecord, write_records
from gazetteer.compress.splitting import split
from gazetteer.compress.teacher import Teacher
from gazetteer.data.jsonl import BadLineError, parse_line
from gazetteer.dense.commands import SeedParser, positive, require_writable
from gazetteer.errors import DataError, OptionError
from gazetteer.ir.fields import Object, as_object, list_of
from gazetteer.ir.lines import read_objects
from gazetteer.one_line_errors import exit_code, quiet_libraries, require_one_process
from gazetteer.optional_packages import import_optional
from gazetteer.progress import progress

logger = logging.getLogger(__name__)

FLAG = "--input_file"


@dataclass(frozen=True, slots=True)
class HubSet:
    """Where the hub has a set.

    Attributes:
        path: name of the repository.
        config: of the set.
        split: the part used; None = what `--split` says.
        reads_all: its rows are in order of article, so that the first ones would be of a few.
    """

    path: str
    config: str | None
    split: str | None
    reads_all: bool = False


HUB = {
    "squad": HubSet("rajpurkar/squad", None, None, reads_all=True),
    "natural_questions": HubSet("google-research-datasets/natural_questions", None, "train"),
    "trivia_qa": HubSet("mandarjoshi/trivia_qa", "unfiltered", "train"),
    "hotpot_qa": HubSet("hotpotqa/hotpot_qa", "distractor", "train"),
}
POOL = 4
"""Examples looked at for each that is wanted, of sets too large to be read whole."""


def build_parser() -> SeedParser:
    """The program's flags."""
    parser = SeedParser("prepare_small_real_dataset.py", (__doc__ or "").partition(".")[0])
    add = parser.add_argument
    add("--dataset", choices=[*HUB, "all"], default="squad", help="all = a quarter of each")
    add("--num_examples", type=positive, default=500, help="nine in ten of them to learn from")
    add("--output_file", type=Path, default=Path("small_real_dataset.json"), help="a JSON list")
    add("--split", choices=("train", "validation", "test"), default="validation", help="of SQuAD")
    add(
        "--input_file",
        nargs="+",
        default=[],
        help="a file in place of the hub; with --dataset all NAME=FILE for each set (new)",
    )
    add("--seed", type=int, default=0, help="of every choice (new)")
    add_teacher_flags(parser, "none")
    return parser


def prepare(values: argparse.Namespace) -> None:
    """Choose, split, have a teacher answer if asked, and write both files.

    Raises:
        GazetteerError: in one line.
    """
    require_one_process(os.environ, "start it once, without a launcher")
    output, held_out = values.output_file, evaluation_file(values.output_file)
    require_writable(output, "--output_file")
    if values.num_examples < 2:
        raise OptionError(f"--num_examples ({values.num_examples}) must be at least 2")
    teacher = teacher_of(values)
    names = list(HUB) if values.dataset == "all" else [values.dataset]
    wanted = {
        name: values.num_examples // len(names) + (place < values.num_examples % len(names))
        for place, name in enumerate(names)
    }
    files = input_files(values.input_file, values.dataset)
    pools = {
        name: _pool(name, files.get(name), count, values.split) for name, count in wanted.items()
    }
    for name, count in wanted.items():
        if len(pools[name]) < count:
            logger.warning("%s: found %d examples of %d", name, len(pools[name]), count)
    parts = split(pools, wanted, values.seed)
    show_progress = not values.no_progress
    count = 0
    for path, part in zip((output, held_out), parts, strict=True):
        records = [_record(name, example, values) for name, example in part]
        if teacher is not None:
            records = _answered(records, teacher, values.batch_size, show_progress=show_progress)
        count += len(records)
        logger.info("%s: %d records", path, write_records(path, records))
    if count < values.num_examples:
        logger.warning("%d examples instead of %d", count, values.num_examples)


def evaluation_file(output: Path) -> Path:
    """Where the part held out goes: NAME_eval, with the same ending."""
    return output.with_name(f"{output.stem}_eval{output.suffix}")


def input_files(given: Sequence[str], dataset: str) -> dict[str, Path]:
    """File of each set.

    Raises:
        OptionError: not one file for each set, or for none.
    """
    if dataset != "all":
        if len(given) > 1:
            raise OptionError(f"{FLAG}: found {len(given)} files, expected one for {dataset}")
        return {dataset: Path(given[0])} if given else {}
    pairs = [each.partition("=") for each in given]
    files = {name: Path(path) for name, _, path in pairs if path}
    if given and (sorted(files) != sorted(HUB) or len(pairs) != len(HUB)):
        raise OptionError(
            f"{FLAG} with --dataset all: expected {' '.join(f'{name}=FILE' for name in HUB)}"
        )
    return files


def _pool(name: str, path: Path | None, count: int, split_name: str) -> list[Example]:
    """Examples to choose from."""
    if path is not None:
        return list(_from_file(path, name))
    where = HUB[name]
    found = _from_hub(where, name, where.split or split_name)
    return list(found if where.reads_all else islice(found, POOL * count))


def _from_file(path: Path, dataset: str) -> Iterator[Example]:
    """Examples of SQuAD's own JSON, of a JSON list, of jsonl or of parquet.

    Raises:
        DataError: a bad row; or no example at all.
    """
    articles = _squad_articles(path)
    if articles is None:
        rows = read_objects(path, lambda row: examples_of(row, dataset), flag=FLAG)
    else:
        rows = _examples_of_articles(path, articles)
    count = 0
    for example in chain.from_iterable(rows):
        count += 1
        yield example
    if not count:
        raise DataError(f"{path}: found no question with answers and passages ({FLAG})")


def _squad_articles(path: Path) -> list[Object] | None:
    """Articles, if the file is one object with `data`; None for anything else."""
    try:
        if path.suffix.lower() != ".json":
            return None
        value = parse_line(path.read_bytes(), is_first=True)
        found = None if value is None else value.get("data")
        return (
            None
            if found is None
            else [as_object(each, "data") for each in list_of(value or {}, "data")]
        )
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error} ({FLAG})") from None
    except BadLineError:
        return None


def _examples_of_articles(path: Path, articles: Sequence[Object]) -> Iterator[list[Example]]:
    for number, article in enumerate(articles, 1):
        try:
            yield examples_of(article, "squad")
        except BadLineError as error:
            raise DataError(f"{path}: entry {number} of 'data': {error} ({FLAG})") from None


def _from_hub(where: HubSet, name: str, split_name: str) -> Iterator[Example]:
    """Examples through `datasets`, row by row.

    Raises:
        OptionError: the package is not installed.
        DataError: the hub cannot be reached, or has something else.
    """
    needed = f"{name} comes through datasets, unless a file is given with {FLAG}"
    datasets = import_optional("datasets", needed, "datasets")
    try:
        rows: Iterable[Object] = datasets.load_dataset(
            where.path, where.config, split=split_name, streaming=True
        )
        for row in rows:
            yield from examples_of(row, name)
    except (OSError, ValueError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"{where.path}, {split_name}: {lines[0]} (without the hub, give a file with {FLAG})"
        ) from None


def _record(name: str, example: Example, values: argparse.Namespace) -> OfflineRecord:
    source = {"dataset": name, "seed": values.seed}
    if name == "squad" and not values.input_file:
        source["split"] = values.split
    return OfflineRecord(
        query=example.query,
        documents=example.documents,
        answer=example.answers[0],
        answers=example.answers,
        provenance=source,
    )


def _answered(
    records: Sequence[OfflineRecord], teacher: Teacher, batch_size: int, *, show_progress: bool
) -> list[OfflineRecord]:
    """Records with a teacher's answers; what it has answered before is in its cache."""
    found: list[OfflineRecord] = []
    with progress(len(records), "answering", "query", enabled=show_progress) as bar:
        for first in range(0, len(records), batch_size):
            some = records[first : first + batch_size]
            lessons = teacher.teach([r.query for r in some], [r.documents for r in some])
            found += [
                taught(record, lesson, teacher.provenance)
                for record, lesson in zip(some, lessons, strict=True)
                if lesson is not None and lesson.answer
            ]
            bar.update(len(some))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    values = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    quiet_libraries()
    return exit_code("prepare_small_real_dataset", lambda: prepare(values))


if __name__ == "__main__":
    sys.exit(main())
