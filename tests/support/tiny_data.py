"""A small made-up world in the formats of the programs: passages and questions about them."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.tiny_models import WORDS


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def passages(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Passages of 5 to 20 words; every third has a section."""
    generator = random.Random(seed)
    rows = []
    for number in range(count):
        words = generator.choices(WORDS, k=generator.randint(5, 20))
        row = {"id": f"p{number}", "title": generator.choice(WORDS), "text": " ".join(words)}
        if number % 3 == 0:
            row["section"] = generator.choice(WORDS)
        rows.append(row)
    return rows


def questions(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Questions with one to three short answers."""
    generator = random.Random(seed)
    return [
        {
            "id": f"q{number}",
            "question": "what is the " + " ".join(generator.choices(WORDS, k=4)),
            "answers": [
                " ".join(generator.choices(WORDS, k=generator.randint(1, 3)))
                for _ in range(generator.randint(1, 3))
            ],
        }
        for number in range(count)
    ]


def claims(count: int, seed: int = 3) -> list[dict[str, Any]]:
    """Claims with the three labels of FEVER in turn."""
    generator = random.Random(seed)
    labels = ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO")
    return [
        {
            "id": number,
            "claim": " ".join(generator.choices(WORDS, k=5)),
            "label": labels[number % 3],
        }
        for number in range(count)
    ]


def choices(count: int, options: int = 4, seed: int = 4) -> list[dict[str, Any]]:
    """Multiple-choice questions in the format of MMLU."""
    generator = random.Random(seed)
    letters = string.ascii_uppercase[:options]
    return [
        {
            "question": "which " + " ".join(generator.choices(WORDS, k=4)),
            "options": {letter: " ".join(generator.choices(WORDS, k=2)) for letter in letters},
            "answer": generator.choice(letters),
            "dataset": generator.choice(("anatomy_test", "virology_test", "world_religions_test")),
        }
        for _ in range(count)
    ]


def write_collection(folder: Path, *, documents: int, queries: int) -> Path:
    """A BEIR folder: query qN is judged with document pN (2) and p(N+1) (1), the last not at all.

    The first document is empty; the first query is a document, the second has only the id of one.
    """
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": p["id"], "title": p["title"], "text": p["text"]} for p in passages(documents)]
    rows[0] |= {"title": "", "text": "", "metadata": {"url": "u"}}
    asked = [{"_id": f"q{n}", "text": q["question"]} for n, q in enumerate(questions(queries))]
    asked[0]["_id"], asked[1]["_id"] = "p1", "p3"
    rows[1]["text"] = f" {asked[0]['text'].replace(' ', '  ')}"
    write_jsonl(folder / "corpus.jsonl", rows)
    write_jsonl(folder / "queries.jsonl", [*asked, {"_id": "unjudged", "text": "what"}])
    judged = [
        (q["_id"], f"p{n + further}", 2 - further)
        for n, q in enumerate(asked)
        for further in (0, 1)
    ]
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in judged)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder
