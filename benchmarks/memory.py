"""What `--dry_run` says a run needs, beside what the run then takes.

Each configuration is trained for two updates in a process of its own, which has trained it for one
before: libraries keep what they compile for each shape. Counted is how much the process's largest
resident size has grown since, with glibc told to give memory back (MALLOC_MMAP_THRESHOLD_): so it
counts tensors, as torch counts those of a GPU. As it comes, glibc keeps what was freed for later.

    python -m benchmarks.memory
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from benchmarks.measure import RESULTS
from gazetteer.dry_run import run_memory
from gazetteer.index.flat import FlatShard
from gazetteer.memory_estimate import flat_index
from gazetteer.options import Options, parse_options
from gazetteer.records import Ranks
from gazetteer.step_on_meta import QUERY_TOKENS
from gazetteer.training.loop import train
from tests.support.runs import make_world, words_of
from tests.support.tiny_data import write_jsonl
from tests.support.tiny_models import (
    WORDS,
    reader_tokenizer,
    retriever_tokenizer,
)

MIB = 2**20
LENGTH, TARGET_TOKENS = 128, 16
WIDE = {"d_model": 384, "d_ff": 1536, "num_layers": 6, "d_kv": 32, "num_heads": 8}
DEEP = {"d_model": 192, "d_ff": 768, "num_layers": 3, "d_kv": 32, "num_heads": 6}
READING = {"n_context": 6, "retriever_n_context": 6, "train_retriever": True}
CONFIGURATIONS: dict[str, tuple[dict[str, int], dict[str, Any]]] = {
    "activations of 2 x 6 passages": (DEEP, READING | {"gold_score_mode": "pdist"}),
    "the same, checkpointing": (
        DEEP,
        READING
        | {"use_gradient_checkpoint_reader": True, "use_gradient_checkpoint_retriever": True},
    ),
    "weights and optimiser, fp32": (WIDE, {"n_context": 1, "per_gpu_batch_size": 1}),
    "weights and optimiser, bf16": (
        WIDE,
        {"n_context": 1, "per_gpu_batch_size": 1, "precision": "bf16"},
    ),
}
"""Sizes of the reader, and flags."""
INDEX_ROWS, INDEX_DIM = 60_000, 512
INDEX = "index, fp32, 60,000 x 512"


def make_models(folder: Path, reader: dict[str, int]) -> Path:
    """A world with a reader of this size, and passages that fill every place."""
    world = make_world(folder)
    vocabulary = len(reader_tokenizer())
    config = T5Config(vocab_size=vocabulary, decoder_start_token_id=0, **reader)
    T5ForConditionalGeneration(config).save_pretrained(world / "reader")
    hidden = {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768}
    BertModel(
        BertConfig(vocab_size=len(retriever_tokenizer()), num_hidden_layers=3, **hidden),
        add_pooling_layer=False,
    ).save_pretrained(world / "retriever")
    text = " ".join(WORDS[number % len(WORDS)] for number in range(2 * LENGTH))
    lines = [{"id": str(number), "title": "a", "text": text} for number in range(40)]
    write_jsonl(world / "passages.jsonl", lines)
    # As long as the estimate takes them to be.
    question = " ".join(WORDS[number % len(WORDS)] for number in range(QUERY_TOKENS - 2))
    answer = " ".join(WORDS[: TARGET_TOKENS - 1])
    asked = [{"question": question, "answers": [answer]}] * 24
    write_jsonl(world / "train.jsonl", asked)
    return world


def options_of(world: Path, flags: dict[str, Any]) -> Options:
    """Two updates without dropout."""
    values = {
        "text_maxlength": LENGTH,
        "target_maxlength": TARGET_TOKENS,
        "total_steps": 2,
        "name": "memory",
    }
    return parse_options(words_of(world, "train", **(values | flags)), program="train")


def resident(field: str) -> int:
    """Bytes, as the kernel counts them: VmRSS now, VmHWM the largest since it was cleared."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def measure(name: str, folder: Path) -> None:
    """In a process of its own: print estimate and growth as JSON."""
    torch.set_num_threads(1)
    if name == INDEX:
        FlatShard(torch.randn(8192, INDEX_DIM)).search(torch.randn(16, INDEX_DIM), 10)
        before = _restart()
        vectors = torch.randn(INDEX_ROWS, INDEX_DIM)
        shard = FlatShard(vectors)
        shard.search(vectors[:16].clone(), 10)
        expected = flat_index(INDEX_ROWS, INDEX_DIM, "fp32", has_first_pass=True, is_mapped=False)
    else:
        reader, flags = CONFIGURATIONS[name]
        world = make_models(folder / "world", reader)
        options = options_of(world, flags)
        expected = run_memory(options, Ranks()).peak
        first = _restart()
        train(options_of(world, flags | {"name": "before", "total_steps": 1}), Ranks())
        before = _restart()
        sys.stderr.write(f"kept by libraries: {(before - first) / MIB:.0f} MiB\n")
        train(options, Ranks())
    grown = resident("VmHWM") - before
    sys.stdout.write(json.dumps({"estimate": expected, "measured": grown}) + "\n")


def _restart() -> int:
    """Give back what is free, and have the kernel forget the largest size so far."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def measured(name: str) -> dict[str, int]:
    """Start that process."""
    environment = dict(os.environ)
    environment |= {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    with tempfile.TemporaryDirectory() as scratch:
        words = [sys.executable, "-m", "benchmarks.memory", "--measure", name, "--folder", scratch]
        found = subprocess.run(
            words, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
    return json.loads(found.stdout.splitlines()[-1])


def main() -> None:
    """Measure every configuration and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    names = [*CONFIGURATIONS, INDEX]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    asked = parser.parse_args()
    if asked.measure:
        measure(asked.measure, asked.folder)
        return
    print(f"{'MiB':34}  estimate  measured  estimate / measured", flush=True)
    rows: dict[str, dict[str, float]] = {}
    for name in asked.only:
        found = measured(name)
        ratio = found["estimate"] / found["measured"]
        rows[name] = {**found, "ratio": ratio}
        sizes = [found["estimate"] / MIB, found["measured"] / MIB]
        print(f"{name:34}  {sizes[0]:8.0f}  {sizes[1]:8.0f}  {ratio:19.2f}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "memory.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
