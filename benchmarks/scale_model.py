"""How a training step grows with workers and passages: a small simulator and its tables.

    python -m benchmarks.scale_model                     the tables of docs/scaling.md
    python -m benchmarks.scale_model --check             real runs of 1 to 4 workers beside it
    python -m benchmarks.scale_model --collect           constants anew from benchmarks/results

Constants of a core are what our own benchmarks measured (train_step, embedding, flat_search), kept
in scale_constants.json. Constants of a GPU are assumptions, each with its source in the table.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS
from benchmarks.scale_arithmetic import (
    Hardware,
    Transformer,
    Workload,
    collective_seconds,
    index_bytes,
    payloads,
    refresh_seconds,
    search_seconds,
    sent,
    state_bytes,
    step_operations,
)

CONSTANTS = Path(__file__).with_name("scale_constants.json")
CHECK = Path(__file__).with_name("scale_check.json")
GIB, MIB = 2**30, 2**20
WORKERS = (8, 64, 512, 4096)
PASSAGES = (10**6, 10**7, 10**8, 10**9)
REFRESH_EVERY = 1_000
CODE_BYTES = 0.125
"""Of a compressed index for each number: one byte for eight (`--faiss_code_size`)."""

BERT_BASE = Transformer(layers=12, width=768, inner=3072, heads_width=768)
MINILM = Transformer(layers=6, width=384, inner=1536, heads_width=384)
T5_SMALL = Workload(
    name="T5-small, one query of 20 passages, pdist",
    encoder=Transformer(layers=6, width=512, inner=2048, heads_width=512),
    decoder=Transformer(layers=6, width=512, inner=2048, heads_width=512, has_cross_attention=True),
    vocabulary=32_128,
    retriever=MINILM,
    retriever_table=30_522 * 384 + 512 * 384,
    dim=384,
    queries=1,
    passages=20,
    hits=20,
    reader_tokens=3258 / 20,
    passage_tokens=91,
    target_tokens=16,
)
"""What `benchmarks.train_step` measures; the passages of `benchmarks.embedding`."""
T5_LARGE = Workload(
    name="T5-large (v1.1) and BERT-base, 4 queries of 20 passages, pdist, bf16, checkpointing",
    encoder=Transformer(layers=24, width=1024, inner=2816, heads_width=1024, inner_matrices=3),
    decoder=Transformer(
        layers=24,
        width=1024,
        inner=2816,
        heads_width=1024,
        inner_matrices=3,
        has_cross_attention=True,
    ),
    vocabulary=32_128,
    retriever=BERT_BASE,
    retriever_table=30_522 * 768 + 512 * 768,
    dim=768,
    queries=4,
    passages=20,
    hits=20,
    reader_tokens=166,
    passage_tokens=133,
    target_tokens=16,
    checkpointing=True,
)
"""166 and 133 tokens: a passage of 100 words in T5's pieces, with its query, and in BERT's."""
H200 = Hardware(
    name="H200 and InfiniBand (ASSUMED)",
    train=0.4 * 790e12,
    embed=0.45 * 790e12,
    scan=2 / 4.3e12,
    score=2 / (0.5 * 790e12),
    bandwidth=0.8 * 50e9,
    latency=10e-6,
    memory=141e9,
    source="790 TFLOP/s bf16 and 4.3 TB/s measured on one H200; 40 % (training), 45 % (embedding)"
    " and 50 % (search) of it, 80 % of one 400 Gbit/s port per GPU and 10 us a message assumed",
)


def collect() -> dict[str, Any]:
    """What the benchmarks measured, as rates."""

    def median(name: str, contestant: str) -> float:
        document = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        return statistics.median(document["seconds"][contestant])

    embedded = MINILM.forward(91.0, 91.0) * 256
    rows, dim = 10**6, 768
    few, many = (
        median(f"flat_search_{rows}_{dim}_{queries}_100", "Gazetteer") for queries in (16, 64)
    )
    score = (many - few) / (48 * rows * dim)
    return {
        "train": step_operations(T5_SMALL) / median("train_step", "Gazetteer, bf16"),
        "embed": embedded / median("embedding", "Gazetteer, bf16"),
        "scan": few / (rows * dim) - 16 * score,
        "score": score,
    }


def core() -> Hardware:
    """One core, as measured; between cores the loopback device."""
    constants = json.loads(CONSTANTS.read_text(encoding="utf-8"))
    return Hardware(
        name="one core of an AMD EPYC server (measured)",
        bandwidth=1e9,
        latency=1e-4,
        memory=8e9,
        source="benchmarks.train_step, .embedding, .flat_search; network assumed: 1 GB/s, 100 us",
        **constants,
    )


def step_table(hardware: Hardware, load: Workload) -> list[str]:
    """A row for each number of workers and passages."""
    lines = [
        "| workers | passages | compute s | search s | network s | step s | refresh s | share |",
        "|---|---|---|---|---|---|---|---|",
    ]
    compute = step_operations(load) / hardware.train
    for workers in WORKERS:
        for rows in PASSAGES:
            search = search_seconds(hardware, load, workers, rows)
            network = collective_seconds(hardware, load, workers, rows)
            step = compute + search + network
            refresh = refresh_seconds(hardware, load, workers, rows)
            share = refresh / (refresh + REFRESH_EVERY * step)
            lines.append(
                f"| {workers:,} | {rows:.0e} | {compute:.3f} | {search:.4f} | {network:.3f} | "
                f"{step:.3f} | {refresh:,.0f} | {share:.0%} |"
            )
    return lines


def memory_table(hardware: Hardware, load: Workload) -> list[str]:
    """Index and state of one worker."""
    lines = [
        "| workers | passages | fp32 + int8 | bf16 codes | int8 codes | compressed | fits |",
        "|---|---|---|---|---|---|---|",
    ]
    state = state_bytes(load, 1, optimiser=False, all_of_it=False)
    kinds = {"fp32": 5.0, "bf16": 2.0, "int8": 1.0, "compressed": CODE_BYTES}
    for workers in WORKERS:
        for rows in PASSAGES:
            sizes = {n: index_bytes(load, workers, rows, b) for n, b in kinds.items()}
            # Half of the memory for activations and a second version of the index.
            room = hardware.memory / 2 - state
            fitting = [name for name, size in sizes.items() if size <= room]
            shown = " | ".join(f"{size / GIB:,.2f}" for size in sizes.values())
            lines.append(
                f"| {workers:,} | {rows:.0e} | {shown} | {fitting[0] if fitting else 'none'} |"
            )
    return lines


def traffic_table(load: Workload) -> list[str]:
    """Bytes that leave one worker in a step, and what sharding leaves it to hold."""
    lines = [
        "| workers | queries MB | hits MB | gradients MB | state GiB | --shard_optim | all of it |",
        "|---|---|---|---|---|---|---|",
    ]
    gradients = load.weight_bytes * (load.reader_weights + load.retriever_weights)
    for workers in WORKERS:
        given = payloads(load, workers, 10**9, gradients)
        moved = {name: sent(name, size, workers) / 1e6 for name, size in given.items()}
        held = [
            state_bytes(load, workers, optimiser=optimiser, all_of_it=everything) / GIB
            for optimiser, everything in ((False, False), (True, False), (True, True))
        ]
        shown = " | ".join(f"{size:.2f}" for size in held)
        lines.append(
            f"| {workers:,} | {moved['queries']:.2f} | {moved['hits']:.2f} | "
            f"{moved['gradients']:,.0f} | {shown} |"
        )
    return lines


def check_table(found: dict[str, Any]) -> list[str]:
    """Predicted beside measured: bytes of every collective, and times relative to one worker."""
    load = replace(T5_SMALL, **found["workload"])
    lines = ["| workers | collective | predicted bytes | counted bytes |", "|---|---|---|---|"]
    runs = {int(workers): run for workers, run in found["runs"].items()}
    for workers, run in runs.items():
        predicted = payloads(load, workers, found["rows"], found["gradients"])
        for name in sorted({*predicted, *run["bytes"]}):
            expected, counted = predicted.get(name, 0), run["bytes"].get(name, 0)
            lines.append(f"| {workers} | {name} | {expected:,} | {counted:,} |")
    lines += [
        "",
        "| workers | step, CPU s | predicted | error | refresh, CPU s | predicted | error |",
        "|---|---|---|---|---|---|---|",
    ]
    # A worker's own arithmetic is that of one worker; averaging gradients is fitted to two.
    alone, pair = runs[1], runs[2]
    per_byte = (pair["step"] - alone["step"]) / sent("gradients", found["gradients"], 2)
    for workers, run in runs.items():
        step = alone["step"]
        if workers > 1:
            step += per_byte * sent("gradients", found["gradients"], workers)
        refresh = alone["refresh"] / workers
        fitted = " (fitted)" if workers < 3 else ""
        errors = [step / run["step"] - 1, refresh / run["refresh"] - 1]
        lines.append(
            f"| {workers} | {run['step']:.4f} | {step:.4f} | {errors[0]:+.0%}{fitted} | "
            f"{run['refresh']:.3f} | {refresh:.3f} | {errors[1]:+.0%} |"
        )
    return lines


def main() -> None:
    """Print tables, or measure what they rest on."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="run 1 to 4 workers, and keep that")
    parser.add_argument("--collect", action="store_true", help="read benchmarks/results anew")
    asked = parser.parse_args()
    if asked.collect:
        CONSTANTS.write_text(json.dumps(collect(), indent=1) + "\n", encoding="utf-8")
    if asked.check:
        from benchmarks.scale_runs import measure

        CHECK.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    for hardware, load in ((H200, T5_LARGE), (core(), T5_SMALL)):
        print(f"\n### {hardware.name}\n\n{load.name}. {hardware.source}.\n")
        print("\n".join(step_table(hardware, load)))
    print(f"\n### Index, GiB per worker of {H200.memory / 1e9:.0f} GB\n")
    print("\n".join(memory_table(H200, T5_LARGE)))
    print("\n### Sent by one worker in a step, and held by it\n")
    print("\n".join(traffic_table(T5_LARGE)))
    if CHECK.is_file():
        print("\n### Predicted and measured\n")
        print("\n".join(check_table(json.loads(CHECK.read_text(encoding="utf-8")))))


if __name__ == "__main__":
    main()
