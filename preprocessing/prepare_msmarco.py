"""The corpus and the negatives of MS MARCO, out of the files RocketQA and Microsoft publish.

What `join`, `sort` and `awk` do in OpenMatch's description of MS MARCO, in bounded memory and with
every mistake named. Writes corpus.tsv (id, title, text; a passage without a title has an empty one)
in order of id, and train.negatives.tsv (query id, document ids with commas between them). Fetch
marco.tar.gz from https://rocketqa.bj.bcebos.com/corpus/ and qidpidtriples.train.full.2.tsv.gz from
https://msmarco.z22.web.core.windows.net/msmarcoranking/ first, and unpack them.
"""

from __future__ import annotations

import argparse
import mmap
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from gazetteer.errors import DataError, OptionError
from gazetteer.ir.lines import read_fields
from gazetteer.ir.whole_files import written_whole
from gazetteer.one_line_errors import exit_code
from gazetteer.progress import progress

LARGEST_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class KeyedLines:
    """Lines `id<TAB>text` of a file, in order of id; the text stays in the file.

    Attributes:
        ids: ascending.
        starts: of the text of each, in bytes.
        stops: where it ends.
        content: of the file.
    """

    ids: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    content: mmap.mmap | bytes

    def text(self, place: int) -> bytes:
        """The text at a position."""
        return self.content[self.starts[place] : self.stops[place]]


def read_keyed(path: Path, flag: str) -> KeyedLines:
    """Find the lines of a file. Holds 24 bytes for each.

    Raises:
        DataError: a line without an id that is a whole number, without a tab, or with another; or
            an id that is there twice.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            found = np.fromiter(_places(path, flag, file), dtype=(np.int64, 3))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error} ({flag})") from None
    order = np.argsort(found[:, 0], kind="stable")
    ids, starts, stops = found[order].T
    repeated = np.flatnonzero(ids[1:] == ids[:-1])
    if len(repeated):
        line = int(order[repeated[0] + 1]) + 1
        raise DataError(f"{path}:{line}: found id {ids[repeated[0]]} for the second time ({flag})")
    return KeyedLines(ids, starts, stops, content)


def _places(path: Path, flag: str, lines: Iterable[bytes]) -> Iterator[tuple[int, int, int]]:
    offset = 0
    for number, line in enumerate(lines, 1):
        key, tab, text = line.rstrip(b"\r\n").partition(b"\t")
        if not tab or b"\t" in text:
            found = line.count(b"\t") + 1
            raise DataError(f"{path}:{number}: found {found} columns, expected id, text ({flag})")
        if not key.isdigit() or int(key) > LARGEST_ID:
            raise DataError(f"{path}:{number}: found an id that is no whole number ({flag})")
        start = offset + len(key) + 1
        yield int(key), start, start + len(text)
        offset += len(line)


def joined(texts: KeyedLines, titles: KeyedLines) -> Iterator[bytes]:
    """Lines of the corpus: every text, with its title where there is one."""
    places = np.searchsorted(titles.ids, texts.ids)
    for place, (one, at) in enumerate(zip(texts.ids.tolist(), places.tolist(), strict=True)):
        has_title = at < len(titles.ids) and titles.ids[at] == one
        title = titles.text(at) if has_title else b""
        yield b"%d\t%s\t%s\n" % (one, title, texts.text(place))


def write_corpus(para: Path, para_title: Path, path: Path, *, show_progress: bool) -> None:
    """Join texts and titles."""
    texts, titles = read_keyed(para, "--para"), read_keyed(para_title, "--para_title")
    count = len(texts.ids)
    with (
        progress(count, path.name, "passage", enabled=show_progress) as bar,
        written_whole(path) as file,
    ):
        for line in joined(texts, titles):
            file.buffer.write(line)
            bar.update()
    with_title = np.isin(texts.ids, titles.ids, assume_unique=True).sum()
    print(f"{path}: {count} passages, {with_title} with a title")


def write_negatives(triples: Path, path: Path) -> None:
    """Collect the negatives of each stretch of lines of one query, each document once."""
    rows = read_fields(
        triples, lambda fields: fields, columns=(3,), flag="--triples", any_whitespace=True
    )
    queries = 0
    with written_whole(path) as file:
        for query_id, stretch in groupby(rows, key=lambda fields: fields[0]):
            ids = dict.fromkeys(fields[2] for fields in stretch)
            file.write(f"{query_id}\t{','.join(ids)}\n")
            queries += 1
    if not queries:
        raise DataError(f"{triples}: found no triples (--triples)")
    print(f"{path}: {queries} lines")


def _prepare(options: argparse.Namespace) -> None:
    if (options.para is None) != (options.para_title is None):
        raise OptionError("--para and --para_title are needed together")
    if options.para is None and options.triples is None:
        raise OptionError("--para and --para_title, or --triples, or all three are needed")
    if options.para is not None:
        write_corpus(
            options.para,
            options.para_title,
            options.output_dir / "corpus.tsv",
            show_progress=not options.no_progress,
        )
    if options.triples is not None:
        write_negatives(options.triples, options.output_dir / "train.negatives.tsv")


def build_parser() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--para", type=Path, help="RocketQA's para.txt: id, tab, text")
    parser.add_argument("--para_title", type=Path, help="its para.title.txt: id, tab, title")
    parser.add_argument("--triples", type=Path, help="qidpidtriples.train.full.2.tsv, or .tsv.gz")
    parser.add_argument("--output_dir", type=Path, required=True, help="for the files written")
    parser.add_argument("--no_progress", action="store_true", help="draw no bars")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    options = build_parser().parse_args(arguments)
    return exit_code("prepare_msmarco", lambda: _prepare(options))


if __name__ == "__main__":
    sys.exit(main())
