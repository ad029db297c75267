"""Examples that teach a small reader to find a value under its label and to copy it.

Facts, names and passages are those of the training countries; names and values are exchanged
between countries, so that remembering does not pay and copying does. The models and the files are
in `prepare_demo_reader.py`.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factbook_fields import FIELDS, QuestionField
from prepare_factbook import label_of

LABEL_QUESTIONS = (
    "what is the {label} of {country}?",
    "{label} of {country}?",
    "what is {label} in {country}?",
    "tell me the {label} of {country}",
    "which {label} does {country} have?",
)
LONGEST_ANSWER_WORDS = 8
LONGEST_VALUE_WORDS = 14
Key = tuple[str, str]
"""Section and label."""


@dataclass(frozen=True, slots=True)
class LookupShape:
    """What the examples of the first stage look like.

    Attributes:
        max_lines: a passage has one to so many lines.
        invented_names: share of countries that get an invented name.
        cut_values: share of values that are any words of the text instead.
        natural: share of questions in the demo's own words, where a field has them.
    """

    max_lines: int = 3
    invented_names: float = 0.5
    cut_values: float = 0.3
    natural: float = 0.4


@dataclass(frozen=True, slots=True)
class ReadingShape:
    """What the examples of the later stages look like.

    Attributes:
        n_context: passages of an example, the gold one among them.
        cut_passages: share of passages cut to a few lines.
        invented_names: share of countries that get an invented name.
    """

    n_context: int
    cut_passages: float
    invented_names: float = 0.3


class ExampleMaker:
    """Makes examples from the passages and questions of the training countries.

    Args:
        passages: lines of passages.jsonl, of the training countries alone.
        questions: lines of train.jsonl.
        seed: the same seed gives the same examples in the same order.
    """

    def __init__(
        self,
        passages: Sequence[Mapping[str, str]],
        questions: Sequence[Mapping[str, Any]],
        seed: int,
    ) -> None:
        self._random = random.Random(seed)
        self._questions = questions
        self._names = sorted({passage["title"] for passage in passages})
        self._by_id = {passage["id"]: passage for passage in passages}
        self._by_country = _grouped(passages, "title")
        self._by_field = _grouped(questions, "field")
        self._values = _values(passages)
        self._texts = [value for values in self._values.values() for value in values]
        self._words = sorted(
            {word for text in self._texts for word in re.findall(r"\b[A-Z][a-z'-]{2,}\b", text)}
        )
        self._keys = sorted(key for key, values in self._values.items() if len(values) >= 5)
        self._by_section = _grouped_keys(self._keys)
        self._fields = defaultdict(list)
        for field in FIELDS:
            self._fields[field.path[0], label_of(field)].append(field)
        self._asked = sorted(key for key in self._fields if key in self._values)
        self._field = {field.name: field for field in FIELDS}

    def lookup(self, shape: LookupShape) -> dict[str, Any]:
        """One short passage of unrelated facts under one name, and a question about one of them."""
        rng = self._random
        while True:
            name = self._name(shape.invented_names)
            is_natural = bool(self._asked) and rng.random() < shape.natural
            key = rng.choice(self._asked if is_natural else self._keys)
            is_cut = not is_natural and rng.random() < shape.cut_values
            value = self._cut_value() if is_cut else rng.choice(self._values[key])
            asked = (
                self._natural(key, name, value) if is_natural else _by_label(rng, key, name, value)
            )
            if asked is not None and len(value.split()) <= LONGEST_VALUE_WORDS:
                break
        others = [other for other in self._by_section[key[0]] if other != key]
        beside = rng.sample(others, min(rng.randint(0, shape.max_lines - 1), len(others)))
        lines = [f"{other[1]}: {self._other_value(other, shape)}" for other in beside]
        lines.insert(rng.randint(0, len(lines)), f"{key[1]}: {value}")
        question, answers = asked
        return _example(question, answers, [_passage(name, key[0], lines)])

    def reading(self, shape: ReadingShape) -> dict[str, Any]:
        """A question of the demo with its passage among others, as retrieval would mix them.

        Half of the others show the same field of another country, three in ten are about the
        same country, the rest are of the same section.
        """
        rng = self._random
        line = rng.choice(self._questions)
        gold = self._by_id[line["gold_passage_id"]]
        renamed = _Renaming(self, shape.invented_names)
        label = label_of(self._field[line["field"]])
        shown = [self._show(gold, label, renamed, shape)]
        used = {gold["id"]}
        while len(shown) < shape.n_context:
            other, sought = self._distractor(line, gold, label)
            if other["id"] not in used:
                used.add(other["id"])
                shown.append(self._show(other, sought, renamed, shape))
        rng.shuffle(shown)
        country, name = line["country"], renamed.of(line["country"])
        answers = [answer.replace(country, name) for answer in line["answers"]]
        return _example(line["question"].replace(country, name), answers, shown)

    def _distractor(
        self, line: Mapping[str, Any], gold: Mapping[str, str], label: str
    ) -> tuple[Mapping[str, str], str]:
        rng = self._random
        draw = rng.random()
        if draw < 0.5:
            other = rng.choice(self._by_field[line["field"]])
            return self._by_id[other["gold_passage_id"]], label
        if draw < 0.8:
            return rng.choice(self._by_country[gold["title"]]), ""
        return rng.choice(self._by_country[rng.choice(self._names)]), ""

    def _show(
        self, passage: Mapping[str, str], label: str, renamed: _Renaming, shape: ReadingShape
    ) -> dict[str, str]:
        """A passage under its new name, perhaps cut to a few lines around the label."""
        lines = passage["text"].split("\n")
        if self._random.random() < shape.cut_passages:
            lines = self._cut_lines(lines, label)
        name = renamed.of(passage["title"])
        lines = [line.replace(passage["title"], name) for line in lines]
        return {"id": passage["id"], **_passage(name, passage["section"], lines)}

    def _cut_lines(self, lines: Sequence[str], label: str) -> list[str]:
        rng = self._random
        count = rng.randint(2, 5)
        places = [i for i, line in enumerate(lines) if label and line.startswith(f"{label}: ")]
        if places:
            start = max(0, places[0] - rng.randint(0, count - 1))
        else:
            start = rng.randrange(max(1, len(lines) - count + 1))
        return list(lines[start : start + count])

    def _natural(self, key: Key, name: str, value: str) -> tuple[str, list[str]] | None:
        field: QuestionField = self._random.choice(self._fields[key])
        answers = field.answers(value)
        question = self._random.choice(field.phrasings).format(country=name)
        return (question, list(answers)) if answers else None

    def _name(self, invented: float) -> str:
        if self._random.random() < invented:
            return self.invented_name()
        return self._random.choice(self._names)

    def invented_name(self) -> str:
        """One to three capitalised words of the text."""
        count = self._random.choice((1, 1, 1, 2, 2, 3))
        return " ".join(self._random.choice(self._words) for _ in range(count))

    def draws(self, share: float) -> bool:
        """True with this probability."""
        return self._random.random() < share

    def _cut_value(self) -> str:
        words = self._random.choice(self._texts).split()
        count = self._random.randint(1, 6)
        start = self._random.randrange(max(1, len(words) - count + 1))
        return " ".join(words[start : start + count])

    def _other_value(self, key: Key, shape: LookupShape) -> str:
        if self._random.random() < shape.cut_values:
            return self._cut_value()
        return " ".join(self._random.choice(self._values[key]).split()[:10])


class _Renaming:
    """The names that countries go by within one example."""

    def __init__(self, maker: ExampleMaker, invented: float) -> None:
        self._maker = maker
        self._invented = invented
        self._names: dict[str, str] = {}

    def of(self, country: str) -> str:
        if country not in self._names:
            is_new = self._maker.draws(self._invented)
            self._names[country] = self._maker.invented_name() if is_new else country
        return self._names[country]


def _by_label(rng: random.Random, key: Key, name: str, value: str) -> tuple[str, list[str]] | None:
    if len(value.split()) > LONGEST_ANSWER_WORDS:
        return None
    label = key[1].lower().replace(" - ", " ")
    return rng.choice(LABEL_QUESTIONS).format(label=label, country=name), [value]


def _values(passages: Iterable[Mapping[str, str]]) -> dict[Key, list[str]]:
    """Every value of every label, read back from the lines of the passages."""
    values: dict[Key, list[str]] = defaultdict(list)
    for passage in passages:
        for line in passage["text"].split("\n"):
            label, colon, value = line.partition(": ")
            if colon and value:
                values[passage["section"], label].append(value)
    return dict(values)


def _grouped(records: Iterable[Mapping[str, Any]], key: str) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        groups[record[key]].append(record)
    return dict(groups)


def _grouped_keys(keys: Iterable[Key]) -> dict[str, list[Key]]:
    groups: dict[str, list[Key]] = defaultdict(list)
    for key in keys:
        groups[key[0]].append(key)
    return dict(groups)


def _passage(title: str, section: str, lines: Sequence[str]) -> dict[str, str]:
    return {"title": title, "section": section, "text": "\n".join(lines)}


def _example(
    question: str, answers: Sequence[str], passages: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    return {
        "question": question,
        "answers": list(answers),
        "target": answers[0],
        "passages": [dict(passage) for passage in passages],
    }
