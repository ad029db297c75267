"""TempLAMA's cloze questions whose answers of 2017 and 2020 have nothing in common.

Writes data/templama_data/temp_lama.{train,valid,test}.{2017,2020}.jsonl: the same questions in both
years, {question, answers, metadata}, with <extra_id_0> where the answer goes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_files import data_folder, parser_of, write_rows

from gazetteer.data.jsonl import Field, read_lines
from gazetteer.downloading import fetch
from gazetteer.errors import DataError
from gazetteer.one_line_errors import exit_code

BASE = "https://storage.googleapis.com/gresearch/templama"
SOURCES = {"train": f"{BASE}/train.json", "valid": f"{BASE}/val.json", "test": f"{BASE}/test.json"}
YEARS = ("2017", "2020")
BLANK = "_X_"
FLAG = "--output_directory"


@dataclass(frozen=True, slots=True)
class Cloze:
    """A question in one year: accepted answers, none twice, and the published line."""

    query: str
    answers: tuple[str, ...]
    line: Mapping[str, Any]


def clozes(path: Path, year: str) -> dict[str, Cloze]:
    """Questions of one year by their text, in the file's order.

    Lines of the same text, about namesakes, become one question that accepts the answers of all.
    """
    fields = (Field("query", "text", required=True), Field("date", "id", required=True))
    found: dict[str, Cloze] = {}
    for line in read_lines(path, fields, flag=FLAG):
        if str(line.value["date"]) != year:
            continue
        query, names = line.value["query"], _names(line.value.get("answer"))
        if not names or query.count(BLANK) != 1:
            expected = f"one {BLANK} in 'query', and a list of objects with 'name' in 'answer'"
            raise DataError(f"{path}:{line.number}: expected {expected} ({FLAG})")
        first = found.get(query)
        answers = (*first.answers, *names) if first else tuple(names)
        kept = first.line if first else line.value
        found[query] = Cloze(query, tuple(dict.fromkeys(answers)), kept)
    return found


def _names(answer: object) -> list[str]:
    """Names in TempLAMA's list of {wikidata_id, name}; none if it is something else."""
    if not isinstance(answer, list):
        return []
    names = [entry.get("name") for entry in answer if isinstance(entry, dict)]
    texts = [name for name in names if isinstance(name, str) and name.strip()]
    return texts if len(texts) == len(answer) else []


def changed(then: Mapping[str, Cloze], now: Mapping[str, Cloze]) -> Iterator[tuple[Cloze, Cloze]]:
    """Questions of both years that no answer fits in both."""
    for query, former in then.items():
        later = now.get(query)
        if later is not None and not set(former.answers) & set(later.answers):
            yield former, later


def rows(questions: Iterable[Cloze]) -> Iterator[dict[str, Any]]:
    """Lines for `--task qa --qa_prompt_format {question}`."""
    for cloze in questions:
        yield {
            "question": cloze.query.replace(BLANK, "<extra_id_0>"),
            "answers": list(cloze.answers),
            "metadata": {"original_instance": cloze.line},
        }


def prepare(folder: Path) -> None:
    """Fetch what is missing and write the splits below `folder`."""
    for split, url in SOURCES.items():
        path = fetch(url, folder / "downloads" / f"templama-{split}.jsonl")
        pairs = list(changed(*(clozes(path, year) for year in YEARS)))
        for place, year in enumerate(YEARS):
            target = folder / "templama_data" / f"temp_lama.{split}.{year}.jsonl"
            write_rows(target, rows(pair[place] for pair in pairs))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    options = parser_of(__doc__).parse_args(arguments)
    folder = data_folder(options.output_directory)
    return exit_code("prepare_templama", lambda: prepare(folder))


if __name__ == "__main__":
    sys.exit(main())
