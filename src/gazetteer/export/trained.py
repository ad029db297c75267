"""A retriever and what is known of its training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from gazetteer.adapters import has_adapters, without_adapters
from gazetteer.errors import CheckpointError
from gazetteer.files import MANIFEST, require_intact
from gazetteer.options import OPTIONS_FILE, Options, read_options
from gazetteer.retriever import DualEncoder, EmbeddingBatch, load_retriever
from gazetteer.retriever.ways import DEFAULT_POOLING

RETRIEVER_FOLDER = "retriever"
METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A retriever that was trained.

    Attributes:
        retriever: in float32 and evaluation mode, adapters merged.
        tokenizer: its own.
        options: of the run; None where they are not known.
        step: of the run.
        metrics: of the last evaluation up to that step.
    """

    retriever: DualEncoder
    tokenizer: PreTrainedTokenizerBase
    options: Options | None
    step: int | None
    metrics: dict[str, float]


def open_trained(source: str) -> Trained:
    """Load a checkpoint's retriever, or one by its own folder or name.

    Raises:
        CheckpointError: it is damaged, or holds no retriever.
        OptionError: its options are not readable.
    """
    folder = Path(source)
    name = source
    if (folder / MANIFEST).is_file():
        require_intact(folder)
        if not (folder / RETRIEVER_FOLDER).is_dir():
            raise CheckpointError(f"{folder}: no retriever in this checkpoint")
        name = str(folder / RETRIEVER_FOLDER)
    elif (folder.resolve().parent / MANIFEST).is_file() and folder.name == RETRIEVER_FOLDER:
        folder = folder.parent
    retriever, tokenizer = load_retriever(
        name,
        pooling=DEFAULT_POOLING,
        normalize=False,
        dropout=0.0,
        dtype=torch.float32,
        batch=EmbeddingBatch(),
    )
    for tower in {id(t): t for t in (retriever.query_tower, retriever.passage_tower)}.values():
        if has_adapters(tower.model):
            tower.model = without_adapters(tower.model)
    options = None
    if (folder / OPTIONS_FILE).is_file():
        options = read_options(folder / OPTIONS_FILE)
    suffix = folder.resolve().name.removeprefix("step-")
    step = int(suffix) if suffix.isdecimal() else None
    return Trained(
        retriever=retriever.eval(),
        tokenizer=tokenizer,
        options=options,
        step=step,
        metrics={} if step is None else _last_metrics(folder.resolve().parents[1] / METRICS, step),
    )


def _last_metrics(path: Path, step: int) -> dict[str, float]:
    """Numbers of the last evaluation at or before a step; none where nothing is readable."""
    found: dict[str, float] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record.get("kind") == "eval" and record.get("step", step + 1) <= step:
                found = {
                    name: float(value)
                    for name, value in record.items()
                    if "/" in name and isinstance(value, int | float)
                }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
    return found
