"""Whole dense runs in a test: tiny models, and training lines with a word in common."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from gazetteer.dense.training import train
from gazetteer.options import Options, parse_options
from gazetteer.records import Ranks
from tests.support.runs import close_logs
from tests.support.tiny_data import write_jsonl
from tests.support.tiny_models import WORDS, save_tiny_retriever

TOPICS = WORDS[50:90]


def training_lines(count: int, seed: int = 0, *, negatives: int = 4) -> list[dict[str, Any]]:
    """Queries that share a word with their positives and none with their negatives."""
    generator = random.Random(seed)
    lines = []
    for number in range(count):
        topic, *others = generator.sample(TOPICS, negatives + 1)
        lines.append(
            {
                "query_id": f"q{number}",
                "query": f"what is {topic}",
                "positives": [_passage(f"p{number}", topic, generator, 9.0)],
                "negatives": [
                    _passage(f"n{number}-{place}", other, generator, float(place))
                    for place, other in enumerate(others)
                ],
            }
        )
    return lines


def _passage(name: str, topic: str, generator: random.Random, score: float) -> dict[str, Any]:
    words = generator.choices(WORDS[:50], k=generator.randint(2, 8))
    return {"id": name, "title": topic, "text": " ".join([*words, topic]), "score": score}


def write_dev_collection(folder: Path, *, queries: int = 12) -> Path:
    """A folder of BEIR: the positives of some lines answer them, among the negatives of all."""
    lines = training_lines(queries, seed=2)
    passages = [p for line in lines for p in (*line["positives"], *line["negatives"])]
    (folder / "qrels").mkdir(parents=True)
    write_jsonl(
        folder / "corpus.jsonl",
        [{"_id": p["id"], "title": p["title"], "text": p["text"]} for p in passages],
    )
    write_jsonl(
        folder / "queries.jsonl",
        [{"_id": line["query_id"], "text": line["query"]} for line in lines],
    )
    judged = [f"{line['query_id']}\t{line['positives'][0]['id']}\t1\n" for line in lines]
    text = "query-id\tcorpus-id\tscore\n" + "".join(judged)
    (folder / "qrels" / "dev.tsv").write_text(text)
    return folder


def make_dense_world(folder: Path, *, train: int = 20, dev: int = 5) -> Path:
    """A model and lines for a run; returns the folder."""
    save_tiny_retriever(folder / "retriever")
    write_jsonl(folder / "train.jsonl", training_lines(train))
    write_jsonl(folder / "dev.jsonl", training_lines(dev, seed=1))
    write_dev_collection(folder / "collection")
    return folder


def dense_options_of(world: Path, **flags: Any) -> Options:
    """Options of a small dense run; `flags` override, True switches on, None leaves out."""
    values: dict[str, Any] = {
        "task": "dense",
        "retriever_model_path": world / "retriever",
        "train_data": world / "train.jsonl",
        "checkpoint_dir": world / "experiments",
        "cache_dir": world / "cache",
        "no_progress": True,
        "dropout": 0,
        "per_gpu_batch_size": 4,
        "train_n_passages": 3,
        "lr_retriever": 1e-3,
        "total_steps": 6,
        "warmup_steps": 1,
        "log_freq": 1,
        "eval_freq": 1000,
        "save_freq": 1000,
    }
    words: list[str] = []
    for name, value in (values | flags).items():
        if value is True:
            words.append(f"--{name}")
        elif isinstance(value, list):
            words += [f"--{name}", *map(str, value)]
        elif value is not None and value is not False:
            words += [f"--{name}", str(value)]
    return parse_options(words, program="train")


def run_dense(world: Path, ranks: Ranks | None = None, **flags: Any) -> int:
    """Train in this process."""
    try:
        return train(dense_options_of(world, **flags), ranks or Ranks())
    finally:
        close_logs()
