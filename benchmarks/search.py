"""A search of two workers against pickled passages, and against a well-tuned faiss.

100,000 vectors of 384 numbers, 64 queries in all, 100 hits each. The first peer gathers pickled
passage texts, as Atlas does; the second is faiss's exact `IndexFlatIP` in one process with all the
machine's threads, its BLAS chosen for new processors and used for every batch size. Wall time,
since processes wait for each other; hits must be the same.

    python -m benchmarks.search
"""

from __future__ import annotations

import argparse
import os
import pickle
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# Before numpy and faiss: the OpenBLAS that faiss brings does not know processors newer than
# itself, and would choose a kernel fifteen years old.
os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from benchmarks.measure import Timing, interleave, report
from gazetteer.compute import use_fast_float32_matmul
from gazetteer.data.passages import PassageStore, write_passages
from gazetteer.distributed.launch import process_group
from gazetteer.index import ShardedIndex
from gazetteer.records import Ranks

ROWS, DIM, QUERIES, TOP_K, WORKERS = 100_000, 384, 64, 100, 2
WORDS_PER_PASSAGE = 100


def make_vectors() -> tuple[Tensor, Tensor]:
    """Seeded vectors of length one: passages, then queries."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(ROWS + QUERIES, DIM, generator=generator)
    vectors /= vectors.norm(dim=1, keepdim=True)
    return vectors[:ROWS], vectors[ROWS:]


def make_store(folder: Path) -> PassageStore:
    """Passages of made-up words."""
    words = np.array([f"word{i}" for i in range(5000)])
    generator = np.random.default_rng(0)
    return write_passages(
        (
            {"id": str(row), "title": f"title {row}", "text": " ".join(chosen)}
            for row in range(ROWS)
            for chosen in [words[generator.integers(0, 5000, WORDS_PER_PASSAGE)]]
        ),
        folder,
    )


def pickled_search(
    shard: Tensor, passages: list[dict], queries: Tensor, as_tensor: Callable[[bytes], Tensor]
) -> list[tuple[list[float], list[dict]]]:
    """Atlas's way: whole score matrix, passages pickled and gathered, merged at home."""
    world, rank = dist.get_world_size(), dist.get_rank()
    everyone = [torch.empty_like(queries) for _ in range(world)]
    dist.all_gather(everyone, queries)
    scores, rows = (torch.cat(everyone) @ shard.T).topk(TOP_K, dim=1)
    found = [[passages[row] for row in line] for line in rows.tolist()]
    merged: list[tuple[list[float], list[dict]]] = []
    per_rank = len(queries)
    for home in range(world):
        mine = slice(home * per_rank, (home + 1) * per_rank)
        blob = as_tensor(pickle.dumps((scores[mine].tolist(), found[mine])))
        size = torch.tensor([len(blob)])
        sizes = [torch.empty_like(size) for _ in range(world)]
        dist.all_gather(sizes, size)
        longest = int(max(sizes))
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(blob)] = blob
        parts = [torch.empty_like(padded) for _ in range(world)] if rank == home else None
        dist.gather(padded, parts, dst=home)
        if parts is not None:
            answers = [
                pickle.loads(part[: int(n)].numpy().tobytes())  # noqa: S301 - what we measure
                for part, n in zip(parts, sizes, strict=True)
            ]
            for line in range(per_rank):
                best = [pair for s, f in answers for pair in zip(s[line], f[line], strict=True)]
                best.sort(key=lambda pair: -pair[0])
                merged.append(([s for s, _ in best[:TOP_K]], [p for _, p in best[:TOP_K]]))
    return merged


def by_list(blob: bytes) -> Tensor:
    """How Atlas makes a tensor of bytes."""
    return torch.tensor(list(blob), dtype=torch.uint8)


def by_buffer(blob: bytes) -> Tensor:
    """The same without a Python object per byte."""
    return torch.from_numpy(np.frombuffer(blob, dtype=np.uint8).copy())


def worker(rank: int, port: int, folder: Path, repetitions: int, results: mp.Queue) -> None:
    """One of two workers; rank 0 sends its timings and hits back."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORKERS), MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), LOCAL_WORLD_SIZE=str(WORKERS),
    )  # fmt: skip
    torch.set_num_threads(1)
    use_fast_float32_matmul()
    with process_group() as ranks:
        measured = _measure(ranks, folder, repetitions)
        results.put(measured if ranks.is_main else None)


def _measure(ranks: Ranks, folder: Path, repetitions: int) -> tuple[dict[str, list[float]], list]:
    vectors, queries = make_vectors()
    store = PassageStore(folder)
    index = ShardedIndex(ROWS, ranks)
    shard = vectors[index.rows.start : index.rows.stop].clone()
    index.replace(shard)
    passages = store.records(range(index.rows.start, index.rows.stop))
    mine = queries[ranks.rank :: ranks.world_size].contiguous()

    def ours() -> list:
        found = store.records(index.search(mine, TOP_K).rows.numpy().ravel())
        return [found[start : start + TOP_K] for start in range(0, len(found), TOP_K)]

    def without_text() -> object:
        return index.search(mine, TOP_K)

    def pickled(as_tensor: Callable[[bytes], Tensor]) -> list:
        return pickled_search(shard, passages, mine, as_tensor)

    expected = [[p["id"] for p in found] for _, found in pickled(by_buffer)]
    assert [[p["id"] for p in found] for found in ours()] == expected, "different hits"
    contestants = {
        "pickled passages": lambda: pickled(by_list),
        "pickled passages, no Python list": lambda: pickled(by_buffer),
        "Gazetteer, with texts": ours,
        "Gazetteer, hits alone": without_text,
    }
    timings = interleave(contestants, repetitions, time.perf_counter)
    rows = index.search(mine, TOP_K).rows.tolist()
    return {name: timing.seconds for name, timing in timings.items()}, rows


def faiss_search(threads: int, repetitions: int) -> tuple[Timing, np.ndarray]:
    """Faiss's exact index, tuned: BLAS at every size, a kernel for this machine, all threads."""
    import faiss

    faiss.omp_set_num_threads(threads)
    faiss.cvar.distance_compute_blas_threshold = 1
    vectors, queries = make_vectors()
    index = faiss.IndexFlatIP(DIM)
    index.add(vectors.numpy())
    asked = queries.numpy()
    timing = interleave(
        {"faiss": lambda: index.search(asked, TOP_K)}, repetitions, time.perf_counter
    )
    return timing["faiss"], index.search(asked, TOP_K)[1]


def main() -> None:
    """Measure both claims, in rounds, so that both sides see the same machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "passages"
        make_store(folder)
        for _ in range(options.rounds):
            for name, values in _one_round(folder, options.repetitions).items():
                seconds.setdefault(name, []).extend(values)
    timings = {name: Timing(values) for name, values in seconds.items()}
    facts = {"rows": ROWS, "dim": DIM, "queries": QUERIES, "hits": TOP_K, "workers": WORKERS}
    pickles = {n: t for n, t in timings.items() if not n.startswith("faiss")}
    report(
        "search_pickled",
        "Search and fetch, two workers (wall time)",
        pickles,
        "pickled passages",
        facts,
    )
    peers = {n: timings[n] for n in ("faiss IndexFlatIP, tuned", "Gazetteer, hits alone")}
    title = "Search alone: two workers of one thread, faiss with all threads (wall time)"
    report("search_faiss", title, peers, "faiss IndexFlatIP, tuned", facts)


def _one_round(folder: Path, repetitions: int) -> dict[str, list[float]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=worker, args=(rank, port, folder, repetitions, results))
        for rank in range(WORKERS)
    ]
    for process in processes:
        process.start()
    answers = [results.get() for _ in processes]
    for process in processes:
        process.join()
        if process.exitcode:
            sys.exit(f"a worker failed with exit code {process.exitcode}")
    seconds, rows = next(answer for answer in answers if answer is not None)
    faiss_timing, faiss_rows = faiss_search(os.cpu_count() or 1, repetitions)
    same = (np.sort(faiss_rows[0::WORKERS], axis=1) == np.sort(np.array(rows), axis=1)).mean()
    assert same > 0.999, f"faiss agrees on {same:.4f} of the hits only"
    return {**seconds, "faiss IndexFlatIP, tuned": faiss_timing.seconds}


if __name__ == "__main__":
    main()
