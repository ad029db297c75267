"""Contestants of the scoreboard: ways to answer the same questions from the same passages.

Each is a call of `evaluate.py`: a checkpoint, and what it is given to read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gazetteer.compress.records import OfflineRecord
from gazetteer.errors import OptionError
from gazetteer.files import replace_json
from gazetteer.mining.bm25 import import_bm25s
from gazetteer.options import OPTIONS_FILE, Options, options_to_dict, parse_options, read_options

CLOSED, WHOLE, FIRST, BM25 = "closed book", "uncompressed", "first passage", "BM25's first passage"
NO_COMPRESSOR = {
    "compressor": "none",
    "distill_kl_weight": 0.0,
    "rerank_target": "none",
    "rerank_by_compressor": 0,
}
"""Flags with which a reader reads whole passages, whatever it was trained with."""
LEFT_OUT = frozenset(
    {"config", "train_data", "eval_data", "passages", "load_index_path", "save_index_path"}
)
"""Flags of a training run that say nothing about how its models answer."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One row of the scoreboard.

    Attributes:
        name: of the row.
        options: of an evaluation.
    """

    name: str
    options: Options


def contestant(name: str, checkpoint: Path, folder: Path, flags: Mapping[str, Any]) -> Contestant:
    """A checkpoint as a contestant.

    Args:
        name: of the row.
        checkpoint: of this project, with the options it was trained with.
        folder: where evaluations are kept.
        flags: of the evaluation, before which those of the training give way.

    Raises:
        OptionError: the checkpoint's options, or what is asked of it, cannot be.
    """
    path = checkpoint / OPTIONS_FILE
    if not path.is_file():
        raise OptionError(f"{checkpoint}: no checkpoint of gazetteer ({OPTIONS_FILE} is missing)")
    trained = options_to_dict(read_options(path))
    values = {key: value for key, value in trained.items() if key not in LEFT_OUT}
    values |= {"model_path": str(checkpoint.resolve()), "checkpoint_dir": str(folder), **flags}
    values["name"] = slug(name)
    config = folder / f"{slug(name)}.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    replace_json(config, values)
    return Contestant(name, parse_options(["--config", str(config)], program="evaluate"))


def slug(name: str) -> str:
    """A name as a folder may be called."""
    kept = (character if character.isalnum() else "-" for character in name.lower())
    return "-".join(part for part in "".join(kept).split("-") if part)


def ways_to_read(
    whole: Path,
    closed: Path,
    compressed: Mapping[str, Path],
    *,
    folder: Path,
    lines: Mapping[str, Path],
    flags: Mapping[str, Any],
) -> list[Contestant]:
    """All rows: four that compress nothing, and one for each compressor.

    Args:
        whole: checkpoint whose reader reads whole passages; its compressor, if any, is left out.
        closed: checkpoint whose reader answers with the book closed.
        compressed: checkpoints with a compressor, by the name of the row.
        folder: where evaluations are kept.
        lines: "given" passages in their order, and "bm25" ordered by their words.
        flags: of all evaluations.

    Raises:
        OptionError: see `contestant`.
    """
    given = {**flags, "eval_data": [str(lines["given"])], "use_file_passages": True}
    plain = {**given, **NO_COMPRESSOR}
    by_words = {**plain, "eval_data": [str(lines["bm25"])], "n_context": 1}
    rows = [
        contestant(CLOSED, closed, folder, {**plain, "closed_book": True}),
        contestant(WHOLE, whole, folder, plain),
        contestant(FIRST, whole, folder, {**plain, "n_context": 1}),
        contestant(BM25, whole, folder, by_words),
    ]
    return rows + [contestant(name, path, folder, given) for name, path in compressed.items()]


def best_by_words(records: Sequence[OfflineRecord]) -> list[OfflineRecord]:
    """Records with their documents in the order of BM25, its statistics those of all documents.

    Raises:
        OptionError: bm25s is not installed.
    """
    bm25s = import_bm25s("the row of BM25's first passage needs bm25s")
    documents = list(dict.fromkeys(text for record in records for text in record.documents))
    place = {text: number for number, text in enumerate(documents)}
    index = bm25s.BM25()
    index.index(bm25s.tokenize(documents, show_progress=False), show_progress=False)
    ordered = []
    for record in records:
        words = bm25s.tokenize(record.query, return_ids=False, show_progress=False)[0]
        known = [word for word in words if word in index.vocab_dict]
        scores = index.get_scores(known) if known else [0.0] * len(documents)
        by_score = sorted(record.documents, key=lambda text: -scores[place[text]])
        # Scores and ids of the old order say nothing about the new one.
        ordered.append(
            replace(record, documents=tuple(by_score), reranking_scores=None, document_ids=())
        )
    return ordered


def read_names(words: Sequence[str], flag: str) -> dict[str, Path]:
    """NAME=FOLDER, or a folder whose own name serves.

    Raises:
        OptionError: two rows of one name.
    """
    found: dict[str, Path] = {}
    for word in words:
        name, is_named, folder = word.partition("=")
        path = Path(folder if is_named else word)
        label = name if is_named else path.resolve().name
        if label in found or label in (CLOSED, WHOLE, FIRST, BM25):
            raise OptionError(
                f"{flag} ({word}): another row is called {label!r}; write NAME=FOLDER"
            )
        found[label] = path
    return found


def dump(value: object) -> str:
    """JSON for people, without NaN."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
