"""Write everything the demo's reader is pre-trained with: tokenizer, initial weights, stage files.

Only countries that train.jsonl names are used; `prepare_factbook.py` keeps the others out of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo_reader_examples import LABEL_QUESTIONS, ExampleMaker, LookupShape, ReadingShape
from demo_reader_model import build_tokenizer, copying_model, reader_config
from factbook_fields import FIELDS

from gazetteer.compress.records import titled

PROMPT = "question: answer: title: context: a b | c d"
PROMPT_REPEATS = 3_000
NAME_REPEATS = 20
Make = Callable[[ExampleMaker], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Stage:
    """One file of the curriculum.

    Attributes:
        name: of the file, without `.jsonl`.
        examples: lines in it; training reads each once.
        make: gives one example.
    """

    name: str
    examples: int
    make: Make


STAGES = (
    Stage("stage1", 38_400, lambda maker: maker.lookup(LookupShape())),
    Stage("stage2", 16_000, lambda maker: maker.reading(ReadingShape(2, cut_passages=0.8))),
    Stage("stage3", 12_000, lambda maker: maker.reading(ReadingShape(4, cut_passages=0.3))),
    Stage("stage4", 8_000, lambda maker: maker.reading(ReadingShape(5, cut_passages=0.0))),
)
"""Short single facts first; then the demo's questions over more and longer passages."""


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a jsonl file."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def training_passages(
    passages: Iterable[Mapping[str, Any]], questions: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The passages of countries that the questions are about."""
    countries = {question["country"] for question in questions}
    return [passage for passage in passages if passage["title"] in countries]


def tokenizer_texts(passages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the tokenizer learns its pieces from: passages, names, questions, prompts."""
    names = sorted({passage["title"] for passage in passages})
    for passage in passages:
        yield passage["text"]
    for name in names:
        yield from [name] * NAME_REPEATS
    phrasings = [phrasing for field in FIELDS for phrasing in field.phrasings]
    for name in names[:NAME_REPEATS]:
        yield from (phrasing.format(country=name) for phrasing in phrasings)
        yield from (text.format(label="", country=name) for text in LABEL_QUESTIONS)
    yield from [PROMPT] * PROMPT_REPEATS


def write_stage(
    stage: Stage, maker: ExampleMaker, directory: Path, *, titles_in_text: bool = False
) -> Path:
    """Write one stage; every example and passage gets an id.

    Args:
        stage: what to make, and how many.
        maker: makes it.
        directory: to write to.
        titles_in_text: title and section stand before the text, as in a compressor's records.
    """
    path = directory / f"{stage.name}.jsonl"
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for number in range(stage.examples):
            example = {"id": f"{stage.name}-{number}", **stage.make(maker)}
            for place, passage in enumerate(example["passages"]):
                passage.setdefault("id", f"{stage.name}-{number}-{place}")
            if titles_in_text:
                example["passages"] = [in_one_text(passage) for passage in example["passages"]]
            file.write(json.dumps(example, ensure_ascii=False) + "\n")
    return path


def in_one_text(passage: Mapping[str, Any]) -> dict[str, Any]:
    """A passage as a record of `prepare_factbook_records.py` has it."""
    text = titled(f"{passage['title']}, {passage['section']}", passage["text"])
    return {"id": passage["id"], "title": "", "text": text}


def write_reader(
    passages: Sequence[Mapping[str, Any]], vocabulary: int, seed: int, to: Path
) -> int:
    """Write tokenizer, config and initial weights; returns the number of weights."""
    tokenizer = build_tokenizer(tokenizer_texts(passages), vocabulary)
    model = copying_model(reader_config(len(tokenizer)), seed)
    tokenizer.save_pretrained(to)
    model.save_pretrained(to)
    return sum(parameter.numel() for parameter in model.parameters())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--factbook_directory", type=Path, required=True, help="written by prepare_factbook.py"
    )
    parser.add_argument("--output_directory", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=3_072, help="tokens of the reader")
    parser.add_argument("--scale", type=float, default=1.0, help="examples, times this")
    parser.add_argument(
        "--titles_in_text", action="store_true", help="as in prepare_factbook_records.py"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        questions = read_jsonl(options.factbook_directory / "train.jsonl")
        passages = read_jsonl(options.factbook_directory / "passages.jsonl")
    except FileNotFoundError as error:
        print(
            f"prepare_demo_reader: {error.filename} is missing; write it with "
            "preprocessing/prepare_factbook.py (--factbook_directory)",
            file=sys.stderr,
        )
        return 2
    known = training_passages(passages, questions)
    options.output_directory.mkdir(parents=True, exist_ok=True)
    weights = write_reader(
        known, options.vocabulary, options.seed, options.output_directory / "reader"
    )
    print(f"reader: {weights:,} weights; {len(known)} passages of training countries")
    for number, stage in enumerate(STAGES):
        maker = ExampleMaker(known, questions, options.seed + number)
        scaled = Stage(stage.name, max(1, round(stage.examples * options.scale)), stage.make)
        path = write_stage(
            scaled, maker, options.output_directory, titles_in_text=options.titles_in_text
        )
        print(f"{path}: {scaled.examples} examples")
    return 0


if __name__ == "__main__":
    sys.exit(main())
