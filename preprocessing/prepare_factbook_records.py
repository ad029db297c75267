"""Questions about countries as records of the compressor: each with a passage that has the answer.

    python preprocessing/prepare_factbook.py --output_directory DATA
    python preprocessing/prepare_factbook_records.py --source DATA --output_directory DATA/records

Beside it stand the passages that BM25 likes best for the question; their order is drawn. The split
is that of `prepare_factbook.py`, by country: nobody is tested on a country of the training.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factbook_fields import FIELDS

from gazetteer.compress.records import OfflineRecord, titled, write_records
from gazetteer.mining.bm25 import import_bm25s
from gazetteer.one_line_errors import exit_code

SPLITS = ("train", "dev", "test")
CANDIDATES = 20
"""Passages of BM25 among which those without the answer are taken."""


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Objects of a file of `prepare_factbook.py`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def found_by_words(documents: Sequence[str], questions: Sequence[str]) -> list[list[int]]:
    """Numbers of the documents that BM25 likes best for each question.

    Raises:
        OptionError: bm25s is not installed.
    """
    bm25s = import_bm25s("passages beside the one with the answer need bm25s")
    index = bm25s.BM25()
    index.index(bm25s.tokenize(documents, show_progress=False), show_progress=False)
    rows, _ = index.retrieve(
        bm25s.tokenize(questions, show_progress=False),
        k=min(CANDIDATES, len(documents)),
        show_progress=False,
        backend_selection="numpy",
    )
    return rows.tolist()


def records_of(
    questions: Sequence[Mapping[str, Any]],
    passages: Sequence[Mapping[str, Any]],
    *,
    documents: int,
    seed: int,
) -> list[OfflineRecord]:
    """A record for each question.

    Args:
        questions: with the id of the passage that has the answer.
        passages: of all countries.
        documents: passages of a record.
        seed: decides their order.
    """
    texts = [titled(f"{row['title']}, {row['section']}", row["text"]) for row in passages]
    place = {row["id"]: number for number, row in enumerate(passages)}
    found = found_by_words(texts, [asked["question"] for asked in questions])
    records = []
    for asked, rows in zip(questions, found, strict=True):
        gold = place[asked["gold_passage_id"]]
        others = [row for row in rows if row != gold]
        chosen = [gold, *others[: documents - 1]]
        random.Random(f"{seed}:{asked['id']}").shuffle(chosen)
        records.append(
            OfflineRecord(
                query=asked["question"],
                documents=tuple(texts[row] for row in chosen),
                answer=asked["target"],
                answers=tuple(asked["answers"]),
                document_ids=tuple(passages[row]["id"] for row in chosen),
                provenance={"documents": "gold and BM25", "answer": "gold", "seed": seed},
            )
        )
    return records


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="of prepare_factbook.py")
    parser.add_argument("--output_directory", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=3, help="passages of a record")
    parser.add_argument(
        "--fields", nargs="+", choices=[field.name for field in FIELDS], metavar="FIELD",
        help="ask about these alone; none = all",
    )  # fmt: skip
    parser.add_argument("--max_records", type=int, help="of each split; none = all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.documents < 1:
        parser.error(f"--documents ({options.documents}) must be at least 1")
    return exit_code("prepare_factbook_records", lambda: prepare(options))


def prepare(options: argparse.Namespace) -> None:
    """Write train.json, dev.json and test.json."""
    passages = read_jsonl(options.source / "passages.jsonl")
    for split in SPLITS:
        asked = read_jsonl(options.source / f"{split}.jsonl")
        if options.fields:
            asked = [line for line in asked if line["field"] in options.fields]
        random.Random(options.seed).shuffle(asked)
        records = records_of(
            asked[: options.max_records],
            passages,
            documents=options.documents,
            seed=options.seed,
        )
        write_records(options.output_directory / f"{split}.json", records)
        print(f"{split}: {len(records)} records of {options.documents} passages")


if __name__ == "__main__":
    sys.exit(main())
