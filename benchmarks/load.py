"""Loading a saved index: ours, a memory map, against Atlas's way, torch.load of shards and concat.

Made-up vectors, saved in 128 files each; files are in the page cache, as those of an index that was
just made. Every measurement happens in a fresh process. Ours are float32 and searched exactly,
Atlas's float16, which few CPUs multiply well. Times are wall times: until the index is there, and
until a first search of 64 queries has its answers. Memory is what the process holds more than
before: its own, and all that is resident (a map's pages are shared by all workers of a machine, and
given back when memory is short); also after the search.

    python -m benchmarks.load [--rows 1000000] [--dim 384]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.measure import Timing, report
from gazetteer.files import STAMP
from gazetteer.index import EncoderIdentity, IndexIdentity, read_manifest
from gazetteer.index.file_layout import rows_per_page, split_rows
from gazetteer.index.making import FlatMaker
from gazetteer.index.storage import save_rows
from gazetteer.records import Ranks
from gazetteer.stamps import SETTLED_NS

FILES, QUERIES, TOP_K = 128, 64, 10
PEER, OURS, CHECKED = "Atlas's way", "Gazetteer", "Gazetteer, hashes compared"
MB = 10**6

Search = Callable[[Tensor], object]


def write_both(folder: Path, rows: int, dim: int) -> None:
    """The same seeded vectors in both formats; one file in memory at a time."""
    page = rows_per_page(rows, dim, parts=1)
    parts = split_rows(range(rows), FILES, page)
    (folder / PEER).mkdir()

    def vectors(part: range, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        return torch.randn(len(part), dim, generator=generator) / dim**0.5

    encoder = EncoderIdentity(
        weights="", tokenizer="", template="", pooling="mean", normalize=False, max_tokens=0
    )
    save_rows(
        (vectors(part, number) for number, part in enumerate(parts)),
        folder / OURS,
        identity=IndexIdentity(corpus="", encoder=encoder),
        step=0,
        embedding_dim=dim,
        is_mappable=page > 1,
    )
    for number, part in enumerate(parts):
        columns = vectors(part, number).half().T.contiguous()
        torch.save(columns, folder / PEER / f"embeddings.{number}.pt")


def load_peer(folder: Path) -> Search:
    """One float16 matrix of all shards, searched as Atlas does."""
    paths = [folder / PEER / f"embeddings.{number}.pt" for number in range(FILES)]
    columns = torch.concat([torch.load(path, weights_only=True) for path in paths], dim=1)
    return lambda queries: (queries.half() @ columns).topk(TOP_K, dim=1)


def load_ours(folder: Path) -> Search:
    """As a worker does that is alone."""
    manifest = read_manifest(folder / OURS)
    count, dim = manifest.count, manifest.embedding_dim
    maker = FlatMaker("fp32", count=count, dim=dim, ranks=Ranks(), folder=folder)
    shard = maker.load(folder / OURS, manifest)
    return lambda queries: shard.search(queries, TOP_K)


def memory() -> dict[str, int]:
    """Bytes of this process that are in memory: its own, and all."""
    names = {"RssAnon": "own", "VmRSS": "resident"}
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {names[line[0][:-1]]: int(line[1]) * 1024 for line in lines if line[0][:-1] in names}


def load_here(name: str, folder: Path, dim: int) -> dict[str, float]:
    """Load and search in this process: seconds, and bytes held beyond what was held before."""
    queries = torch.randn(QUERIES, dim)
    before = memory()
    start = time.perf_counter()
    search = (load_peer if name == PEER else load_ours)(folder)
    figures = {"seconds": time.perf_counter() - start}
    figures |= {key: held - before[key] for key, held in memory().items()}
    search(queries)
    figures["seconds with a search"] = time.perf_counter() - start
    return figures | {f"{key} after it": held - before[key] for key, held in memory().items()}


def compare(folder: Path, rows: int, dim: int, repetitions: int) -> None:
    """A fresh process for each measurement, all contestants in turn."""
    measured: dict[str, list[dict[str, float]]] = {PEER: [], CHECKED: [], OURS: []}
    for _ in range(repetitions):
        for name, results in measured.items():
            if name == CHECKED:
                (folder / OURS / STAMP).unlink(missing_ok=True)
            command = [sys.executable, "-m", "benchmarks.load", "--load", name, str(folder)]
            command += ["--dim", str(dim)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results.append(json.loads(done.stdout))
    size = rows * dim * 4
    facts: dict[str, object] = {"rows": rows, "dim": dim, "float32 vectors, MB": round(size / MB)}
    for name, results in measured.items():
        held = {
            key: median(r[key] for r in results)
            for key in ("own", "resident", "own after it", "resident after it")
        }
        shown = ", ".join(f"{key} {value / MB:.0f}" for key, value in held.items())
        facts[f"memory, MB, {name}"] = f"{shown} ({held['resident'] / size:.2f} of the vectors)"
    for key, title in (
        ("seconds", "Loading an index"),
        ("seconds with a search", "Loading an index and searching once"),
    ):
        timings = {name: Timing([r[key] for r in rs]) for name, rs in measured.items()}
        slug = "load" if key == "seconds" else "load_and_search"
        report(slug, f"{title} in a fresh process (wall time)", timings, PEER, facts)


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--load", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        name, folder = options.load
        print(json.dumps(load_here(name, Path(folder), options.dim)))
        return
    with tempfile.TemporaryDirectory() as name:
        write_both(Path(name), options.rows, options.dim)
        # What was written a moment ago is hashed again.
        time.sleep(SETTLED_NS / 1e9 + 0.1)
        compare(Path(name), options.rows, options.dim, options.repetitions)


if __name__ == "__main__":
    main()
