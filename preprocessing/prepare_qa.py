"""Natural Questions and TriviaQA, open-domain: train, train.64-shot, dev and test.

Writes {question, answers} to data/nq_data and {question, answers, target} to data/triviaqa_data.
Training questions are split into train and dev by the lists of Fusion-in-Decoder, as in the
literature; the test sets are the published development sets. Which 64 make `train.64-shot.jsonl`
is drawn by --seed: results are comparable with each other, not line by line with Atlas's choice.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from archives import members
from data_files import data_folder, few, parser_of, write_rows

from gazetteer.data.jsonl import Field, read_lines
from gazetteer.downloading import fetch
from gazetteer.errors import DataError
from gazetteer.one_line_errors import exit_code

NQ = "https://raw.githubusercontent.com/google-research-datasets/natural-questions/master/nq_open"
SOURCES = {
    "NQ-open.train.jsonl": f"{NQ}/NQ-open.train.jsonl",
    "NQ-open.dev.jsonl": f"{NQ}/NQ-open.dev.jsonl",
    "dataindex.tar.gz": "https://dl.fbaipublicfiles.com/FiD/data/dataindex.tar.gz",
    "triviaqa-unfiltered.tar.gz": (
        "https://nlp.cs.washington.edu/triviaqa/data/triviaqa-unfiltered.tar.gz"
    ),
}
FLAG = "--output_directory"

Rows = list[dict[str, Any]]
Splits = Mapping[str, Sequence[int]]


def split_lists(archive: Path) -> dict[str, Splits]:
    """For NQ and TQA the row numbers of train and dev in the published training file, from 0."""
    lists: dict[str, dict[str, Sequence[int]]] = {"NQ": {}, "TQA": {}}
    for member in members(archive):
        name = re.search(r"(?:^|/)(NQ|TQA)\.(train|dev)\.[^/]*json$", member.name)
        if name is not None:
            lists[name[1]][name[2]] = _numbers(archive, member.name, member.read())
    for name, splits in lists.items():
        missing = {"train", "dev"} - set(splits)
        if missing:
            raise DataError(f"{archive}: found no list {name}.{min(missing)}.*json ({FLAG})")
        if both := set(splits["train"]) & set(splits["dev"]):
            raise DataError(f"{archive}: row {min(both)} of {name} is in train and dev ({FLAG})")
    return dict(lists)


def _numbers(archive: Path, name: str, content: bytes) -> list[int]:
    found = _parsed(archive, name, content)
    if isinstance(found, list):
        numbers = [int(n) for n in found if type(n) is int or (type(n) is str and n.isdecimal())]
        if len(numbers) == len(found) and min(numbers, default=0) >= 0:
            return numbers
    raise DataError(f"{archive}: {name}: expected a list of line numbers ({FLAG})")


def selected(rows: Rows, numbers: Sequence[int], what: str) -> Rows:
    """Rows by number.

    Raises:
        DataError: there is no such row.
    """
    if max(numbers, default=-1) >= len(rows):
        raise DataError(f"{what}: row {max(numbers)} is asked for, there are {len(rows)} ({FLAG})")
    return [rows[number] for number in numbers]


def nq_rows(path: Path) -> Rows:
    """Lines of NQ-open, {question, answer: [...]}, as {question, answers}."""
    fields = (Field("question", "text", required=True), Field("answer", "texts", required=True))
    lines = read_lines(path, fields, flag=FLAG)
    return [{"question": line.value["question"], "answers": line.value["answer"]} for line in lines]


def triviaqa_rows(archive: Path) -> dict[str, Rows]:
    """The labelled files of the unfiltered TriviaQA: "train" and "dev"."""
    found = {}
    for member in members(archive):
        name = re.search(r"(?:^|/)unfiltered-web-(train|dev)\.json$", member.name)
        if name is not None:
            document = _parsed(archive, member.name, member.read())
            found[name[1]] = list(_trivia(f"{archive}: {member.name}", document))
    for split in ("train", "dev"):
        if split not in found:
            raise DataError(f"{archive}: found no unfiltered-web-{split}.json ({FLAG})")
    return found


def _trivia(where: str, document: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - any JSON
    entries = document.get("Data") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{where}: field 'Data': expected a list ({FLAG})")
    for place, entry in enumerate(entries, 1):
        row = _trivia_row(entry)
        if row is None:
            expected = "Question, Answer.Value and a list Answer.Aliases, all text"
            raise DataError(f"{where}: entry {place} of 'Data': expected {expected} ({FLAG})")
        yield row


def _trivia_row(entry: Any) -> dict[str, Any] | None:  # noqa: ANN401 - any JSON
    """One question of TriviaQA; None if it is something else."""
    try:
        question, answer = entry["Question"], entry["Answer"]
        target, answers = answer["Value"], answer["Aliases"]
    except (KeyError, TypeError):
        return None
    if not isinstance(answers, list) or not answers:
        return None
    texts = (question, target, *answers)
    if not all(isinstance(text, str) and is_unicode(text) for text in texts):
        return None
    # Shouted answers are the publisher's; said as names, they look like the rest.
    shown = target.title() if target.isupper() else target
    return {"question": question, "answers": answers, "target": shown}


def is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON can spell halves of characters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _parsed(archive: Path, name: str, content: bytes) -> Any:  # noqa: ANN401 - any JSON
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{archive}: {name}: no JSON: {error} ({FLAG})") from None


def prepare(folder: Path, seed: int) -> None:
    """Fetch what is missing and write both data sets below `folder`."""
    downloads = {name: fetch(url, folder / "downloads" / name) for name, url in SOURCES.items()}
    lists = split_lists(downloads["dataindex.tar.gz"])
    nq = nq_rows(downloads["NQ-open.train.jsonl"])
    _write(folder / "nq_data", nq, nq_rows(downloads["NQ-open.dev.jsonl"]), lists["NQ"], seed)
    trivia = triviaqa_rows(downloads["triviaqa-unfiltered.tar.gz"])
    _write(folder / "triviaqa_data", trivia["train"], trivia["dev"], lists["TQA"], seed)


def _write(folder: Path, labelled: Rows, held_out: Rows, lists: Splits, seed: int) -> None:
    train = selected(labelled, lists["train"], f"{folder.name} train")
    write_rows(folder / "train.jsonl", train)
    write_rows(folder / "train.64-shot.jsonl", few(train, seed))
    write_rows(folder / "dev.jsonl", selected(labelled, lists["dev"], f"{folder.name} dev"))
    write_rows(folder / "test.jsonl", held_out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    options = parser_of(__doc__).parse_args(arguments)
    folder = data_folder(options.output_directory)
    return exit_code("prepare_qa", lambda: prepare(folder, options.seed))


if __name__ == "__main__":
    sys.exit(main())
