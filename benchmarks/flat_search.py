"""Exact search of one shard against faiss `IndexFlatIP`, stock and tuned; one thread, wall time.

Tuned: OpenBLAS with a kernel for new processors, and BLAS for every batch of 8 queries or more
(below that faiss's own scan is faster). Stock, beside it: as `import faiss` leaves it. Both must
return the same rows. Also printed: the share of the machine's int8 product rate, and the memory
that a search of 256 queries needs beyond the index.

    python -m benchmarks.flat_search [--rows 100000 1000000] [--dims 384 768]
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import math
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

# Before numpy and faiss: the OpenBLAS that faiss brings does not know processors newer than
# itself, and would choose a kernel fifteen years old.
os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")

import faiss
import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Timing, interleave, report
from gazetteer.compute import use_fast_float32_matmul
from gazetteer.index import FlatShard

STOCK_THRESHOLD = faiss.cvar.distance_compute_blas_threshold
TUNED_FROM = 8


def unit_vectors(count: int, dim: int, seed: int) -> Tensor:
    """Seeded random directions."""
    vectors = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return vectors.div_(vectors.norm(dim=1, keepdim=True))


def faiss_search(index: faiss.Index, queries: np.ndarray, top_k: int, threshold: int) -> np.ndarray:
    """Row numbers, with this threshold for BLAS."""
    faiss.cvar.distance_compute_blas_threshold = threshold
    return index.search(queries, top_k)[1]


def compare(
    shard: FlatShard, peer: faiss.Index, asked: int, top_k: int, repetitions: int
) -> dict[str, Timing]:
    """Time one cell of the grid, having checked that both find the same."""
    queries = unit_vectors(asked, shard.vectors.shape[1], asked)
    array = queries.numpy()
    tuned = 1 if asked >= TUNED_FROM else STOCK_THRESHOLD
    expected = np.sort(faiss_search(peer, array, top_k, tuned), axis=1)
    found = np.sort(shard.search(queries, top_k)[1].numpy(), axis=1)
    same = (expected == found).mean()
    assert same > 0.9999, f"faiss agrees on {same:.5f} of the rows only"
    return interleave(
        {
            "faiss, tuned": lambda: faiss_search(peer, array, top_k, tuned),
            "faiss, stock": lambda: faiss_search(peer, array, top_k, STOCK_THRESHOLD),
            "Gazetteer": lambda: shard.search(queries, top_k),
        },
        repetitions,
        time.perf_counter,
        warm_up=0,
    )


def int8_rate(dim: int) -> float:
    """Operations per second of the int8 product, on a tile that stays in cache."""
    codes = torch.randint(-127, 128, (4096, dim), dtype=torch.int8)
    queries = torch.randint(-127, 128, (256, dim), dtype=torch.int8)
    timing = interleave({"": lambda: torch._int_mm(codes, queries.T)}, 9, time.perf_counter)
    return 2 * codes.numel() * 256 / timing[""].median


def extra_memory(work: Callable[[], object]) -> int:
    """Most resident bytes above those at the start, sampled every millisecond."""
    # What earlier searches freed goes back first, or it would not count.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    done, start, most = threading.Event(), _resident(), [0]

    def watch() -> None:
        while not done.wait(0.001):
            most[0] = max(most[0], _resident() - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return most[0]


def _resident() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def measure(rows: int, dim: int, repetitions: int) -> dict[str, float]:
    """Speed over tuned faiss of one size of index, by cell of the grid."""
    peak = int8_rate(dim)
    shard = FlatShard(unit_vectors(rows, dim, 0))
    peer = faiss.IndexFlatIP(dim)
    peer.add(shard.vectors.numpy())
    ratios = {}
    for asked, top_k in itertools.product((1, 16, 64, 256), (10, 100)):
        timings = compare(shard, peer, asked, top_k, repetitions)
        ours = timings["Gazetteer"].median
        facts = {"share of the int8 rate": f"{2 * rows * dim * asked / ours / peak:.2f}"}
        if asked == 256:
            used = extra_memory(partial(shard.search, unit_vectors(asked, dim, 7), top_k))
            facts["memory beyond the index"] = f"{used / 2**20:.0f} MiB"
        name = f"{rows} x {dim}, {asked} queries, {top_k} hits"
        slug = f"flat_search_{rows}_{dim}_{asked}_{top_k}"
        report(slug, name, timings, "faiss, tuned", facts)
        ratios[name] = timings["faiss, tuned"].median / ours
    return ratios


def main() -> None:
    """Measure the grid and print its geometric mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    use_fast_float32_matmul()
    ratios: dict[str, float] = {}
    for dim in options.dims:
        for rows in options.rows:
            ratios |= measure(rows, dim, options.repetitions)
    many = [ratio for name, ratio in ratios.items() if ", 1 queries" not in name]
    mean = math.exp(sum(map(math.log, many)) / len(many))
    slowest = min(ratios, key=ratios.__getitem__)
    print(f"\n16 queries or more: {mean:.2f} x as fast as tuned faiss (geometric mean)")
    print(f"least favourable: {ratios[slowest]:.2f} x at {slowest}")


if __name__ == "__main__":
    main()
