"""The runs that `benchmarks.memory` measures: worlds, flags, and how much a process grows."""

from __future__ import annotations

import ctypes
import gc
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from gazetteer.dense.step_on_meta import measure_training
from gazetteer.dense.training import train as train_dense
from gazetteer.dry_run import run_memory
from gazetteer.index.flat import FlatShard
from gazetteer.memory_estimate import flat_index
from gazetteer.options import Options, parse_options
from gazetteer.records import Ranks
from gazetteer.step_on_meta import QUERY_TOKENS
from gazetteer.task_names import DENSE
from gazetteer.training.loop import train
from tests.support.ranks import run_on_ranks
from tests.support.runs import close_logs, make_world, words_of
from tests.support.tiny_data import write_jsonl
from tests.support.tiny_models import WORDS, reader_tokenizer, retriever_tokenizer

LENGTH, TARGET_TOKENS = 128, 16
TOPICS, PASSAGES = 4, 40
WIDE = {"d_model": 384, "d_ff": 1536, "num_layers": 6, "d_kv": 32, "num_heads": 8}
DEEP = {"d_model": 192, "d_ff": 768, "num_layers": 3, "d_kv": 32, "num_heads": 6}
READS = {"n_context": 6, "retriever_n_context": 6}
LEARNS = READS | {"train_retriever": True}
COMPRESSES = READS | {"compressor": "n_layers", "compressor_layers": 2, "num_memory_tokens": 8}
ONE = {"n_context": 1, "per_gpu_batch_size": 1}
RANKS = {"task": DENSE, "per_gpu_batch_size": 8, "train_n_passages": 4, "p_max_len": LENGTH}
CHUNKED = {"grad_cache": True, "gc_q_chunk_size": 2, "gc_p_chunk_size": 8}


@dataclass(frozen=True, slots=True)
class Configuration:
    """One row.

    Attributes:
        flags: of train.py.
        reader: its sizes.
        workers: processes on this machine.
    """

    flags: Mapping[str, Any]
    reader: Mapping[str, int] = field(default_factory=lambda: DEEP)
    workers: int = 1


CONFIGURATIONS = {
    "activations of 2 x 6 passages": Configuration(LEARNS | {"gold_score_mode": "pdist"}),
    "the same, checkpointing": Configuration(
        LEARNS | {"use_gradient_checkpoint_reader": True, "use_gradient_checkpoint_retriever": True}
    ),
    "compressor of 2 layers": Configuration(COMPRESSES),
    "the same, learning from whole passages": Configuration(
        COMPRESSES | {"distill_kl_weight": 1.0}
    ),
    "dense, 8 x 4 passages": Configuration(RANKS),
    "the same, --grad_cache": Configuration(RANKS | CHUNKED),
    "dense, layers of a teacher": Configuration(
        RANKS | {"teacher": "retriever", "distill_layer_num": 2}
    ),
    "weights and optimiser, fp32": Configuration(ONE, WIDE),
    "weights and optimiser, bf16": Configuration(ONE | {"precision": "bf16"}, WIDE),
    "2 workers, fp32": Configuration(ONE, WIDE, 2),
    "2 workers, --shard_optim": Configuration(ONE | {"shard_optim": True}, WIDE, 2),
    "2 workers, --shard_optim --shard_grads": Configuration(
        ONE | {"shard_optim": True, "shard_grads": True}, WIDE, 2
    ),
    "2 workers, fsdp2, --shard_params": Configuration(
        ONE | {"shard_params": True, "shard_backend": "fsdp2"}, WIDE, 2
    ),
}
INDEX_ROWS, INDEX_DIM = 60_000, 512
INDEX = "index, fp32, 60,000 x 512"


def measure(name: str, folder: Path) -> tuple[int, int]:
    """Estimate and growth of one row, in bytes; of several workers, that of the one that grew most.

    In a process of its own: libraries keep what they once loaded.
    """
    torch.set_num_threads(1)
    if name == INDEX:
        return _measure_index()
    configuration = CONFIGURATIONS[name]
    world = make_models(folder, configuration.reader)
    if configuration.workers == 1:
        return measure_run(Ranks(), world, configuration.flags)
    found = run_on_ranks(
        measure_run, configuration.workers, world, configuration.flags, timeout_seconds=400
    )
    return found[0][0], max(grown for _, grown in found)


def measure_run(ranks: Ranks, world: Path, flags: Mapping[str, Any]) -> tuple[int, int]:
    """Estimate of a run, and how much this process grows in it.

    Collective: every rank must call this. One update is made before, for what libraries compile.
    """
    job = train_dense if flags.get("task") == DENSE else train
    options = options_of(world, flags)
    expected = run_memory(options, ranks, measure_training).peak
    job(options_of(world, {**flags, "name": "before", "total_steps": 1}), ranks)
    close_logs()
    before = _restart()
    job(options, ranks)
    close_logs()
    return expected, resident("VmHWM") - before


def _measure_index() -> tuple[int, int]:
    FlatShard(torch.randn(8192, INDEX_DIM)).search(torch.randn(16, INDEX_DIM), 10)
    before = _restart()
    vectors = torch.randn(INDEX_ROWS, INDEX_DIM)
    shard = FlatShard(vectors)
    shard.search(vectors[:16].clone(), 10)
    expected = flat_index(INDEX_ROWS, INDEX_DIM, "fp32", has_first_pass=True, is_mapped=False)
    return expected, resident("VmHWM") - before


def make_models(folder: Path, reader: Mapping[str, int]) -> Path:
    """A world with a reader of this size, and texts that fill every place.

    A topic has words of its own, so that questions one after the other find other passages.
    """
    world = make_world(folder)
    sizes: dict[str, Any] = {"vocab_size": len(reader_tokenizer()), "decoder_start_token_id": 0}
    T5ForConditionalGeneration(T5Config(**sizes, **reader)).save_pretrained(world / "reader")
    hidden = {"hidden_size": 192, "num_attention_heads": 6, "intermediate_size": 768}
    BertModel(
        BertConfig(vocab_size=len(retriever_tokenizer()), num_hidden_layers=3, **hidden),
        add_pooling_layer=False,
    ).save_pretrained(world / "retriever")
    drawing = random.Random(0)

    def text(number: int, words: int) -> str:
        return " ".join(drawing.choices(WORDS[number % TOPICS :: TOPICS], k=words))

    def passage(number: int) -> dict[str, str]:
        return {"id": str(number), "title": "", "text": text(number, 2 * LENGTH)}

    # As long as the estimate takes them to be.
    questions = [text(number, QUERY_TOKENS - 2) for number in range(24)]
    answer = " ".join(WORDS[: TARGET_TOKENS - 1])
    write_jsonl(world / "passages.jsonl", [passage(number) for number in range(PASSAGES)])
    write_jsonl(
        world / "train.jsonl", [{"question": asked, "answers": [answer]} for asked in questions]
    )
    write_jsonl(
        world / "pairs.jsonl",
        [
            {
                "query": asked,
                "positives": [passage(number)],
                "negatives": [passage(number + place) for place in range(1, 8)],
            }
            for number, asked in enumerate(questions)
        ],
    )
    return world


def options_of(world: Path, flags: Mapping[str, Any]) -> Options:
    """Two updates without dropout."""
    values: dict[str, Any] = {
        "text_maxlength": LENGTH,
        "target_maxlength": TARGET_TOKENS,
        "total_steps": 2,
        "name": "memory",
    }
    if flags.get("task") == DENSE:
        read = ("passages", "eval_data", "reader_model_type", "n_context", "retriever_n_context",
                "text_maxlength", "target_maxlength", "generation_max_length")  # fmt: skip
        values |= dict.fromkeys(read) | {"train_data": world / "pairs.jsonl"}
    values |= flags
    if values.get("teacher") is not None:
        values["teacher"] = world / values["teacher"]
    return parse_options(words_of(world, "train", **values), program="train")


def resident(field_name: str) -> int:
    """Bytes, as the kernel counts them: VmRSS now, VmHWM the largest since it was cleared."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field_name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field_name} in /proc/self/status")


def _restart() -> int:
    """Give back what is free, and have the kernel forget the largest size so far."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")
