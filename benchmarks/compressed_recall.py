"""What compressed indexes find and how fast, on real embeddings of 100,000 windows of real text.

MiniLM (bfloat16, 384 dimensions) embeds windows of 32 words, and questions. Peer: exact search of
the float32 vectors, which also says what should be found. Every search asks for 100 hits;
recall@10 compares the first 10 of them with the exact first 10. Rescored: exact scores decide
among 400 candidates, as by default. One thread, CPU time. With `--plain_faiss`, also faiss alone
with the same parameters, trained by its own rules, with and without a learned rotation (OPQ).

Embedding the windows takes 20 minutes or more, once: `--embed` does it, and goes on with it where
it was killed.

    python -m benchmarks.compressed_recall [--embed] [--cache FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from benchmarks import texts
from benchmarks.measure import interleave, report
from gazetteer.build_retriever import PADDED_TOKENS
from gazetteer.compute import use_fast_float32_matmul
from gazetteer.index import FlatShard
from gazetteer.index.codec import CodecKind, CodecSettings, probed_lists
from gazetteer.index.compressed import CompressedShard
from gazetteer.index.compressor import Compressor
from gazetteer.progress import progress
from gazetteer.records import Ranks
from gazetteer.retriever import DualEncoder, EmbeddingBatch, load_retriever

WINDOWS, WINDOW_WORDS, MAX_TOKENS = 100_000, 32, 128
QUESTIONS, TIMED_QUESTIONS, TOP_K, RESCORE = 1_000, 128, 100, 400
KINDS: tuple[CodecKind, ...] = ("ivfpq", "pqfs", "ivfpqfs")
CODE_SIZES = 16, 32, 64
PIECE = 4_096
"""Windows embedded between two writes."""
EXACT = "exact, float32"


class Embedder:
    """MiniLM as the programs use it with `--precision bf16 --retriever_normalize`."""

    def __init__(self) -> None:
        self.model: DualEncoder
        self.tokenizer: PreTrainedTokenizerBase
        self.model, self.tokenizer = load_retriever(
            str(texts.encoder_folder()),
            pooling="mean",
            normalize=True,
            dropout=0.0,
            dtype=torch.bfloat16,
            batch=EmbeddingBatch(max_padded_tokens=PADDED_TOKENS["cpu"]),
        )

    def __call__(self, lines: Sequence[str]) -> Tensor:
        """Embeddings, float32."""
        ids: Any = self.tokenizer(list(lines), truncation=True, max_length=MAX_TOKENS)["input_ids"]
        return self.model.embed_for_index([np.asarray(one, dtype=np.int32) for one in ids])


def embedded(windows: Sequence[str], cache: Path, *, may_embed: bool) -> Tensor | None:
    """Embeddings of the windows from the cache; None where they are not all there.

    Args:
        windows: texts.
        cache: holds a folder for every list of windows.
        may_embed: embed what is missing, and keep it.
    """
    name = hashlib.sha256("\n".join(windows).encode()).hexdigest()[:16]
    folder = cache / f"minilm-{len(windows)}-{name}"
    files = {start: folder / f"{start:08}.npy" for start in range(0, len(windows), PIECE)}
    missing = [start for start, path in files.items() if not path.is_file()]
    if missing and not may_embed:
        return None
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        embed = Embedder()
        with progress(len(windows), "embedding", "window", enabled=True) as bar:
            bar.update(PIECE * (len(files) - len(missing)))
            for start in missing:
                part = windows[start : start + PIECE]
                partial_file = files[start].with_suffix(".partial")
                with partial_file.open("wb") as file:
                    np.save(file, embed(part).numpy())
                partial_file.replace(files[start])
                bar.update(len(part))
    return torch.from_numpy(np.concatenate([np.load(path) for path in files.values()]))


def compressed(
    vectors: Tensor, kind: CodecKind, code_size: int, folder: Path
) -> dict[str, CompressedShard]:
    """One index, searched by its codes alone and with rescoring."""
    settings = CodecSettings(kind=kind, code_size=code_size, rescore=0)
    count, dim = vectors.shape
    compressor = Compressor(
        settings, count=count, dim=dim, ranks=Ranks(), folder=folder, show_progress=False
    )
    room = compressor.allocate()
    room.copy_(vectors)
    codes = compressor(room)
    rescoring = CompressedShard(
        room,
        codes.index,
        codes.codec,
        quantiser=codes.quantiser,
        settings=CodecSettings(kind=kind, code_size=code_size, rescore=RESCORE),
    )
    name = f"{kind}, {code_size} bytes"
    return {name: codes, f"{name}, rescored": rescoring}


def recall(found: Tensor, expected: Tensor, top_k: int) -> float:
    """Share of the exact first `top_k` rows that are among the first `top_k` found."""
    pairs = zip(found[:, :top_k].tolist(), expected[:, :top_k].tolist(), strict=True)
    return sum(len(set(a) & set(b)) for a, b in pairs) / expected[:, :top_k].numel()


def plain_faiss(shard: CompressedShard, queries: Tensor, expected: Tensor) -> dict[str, str]:
    """Recall of faiss alone: the same lists, code size and probes, its own choice of a sample."""
    import faiss

    codec, facts = shard.codec, {}
    groups = 2 * codec.code_size if codec.code == "pqfs" else codec.code_size
    for rotation in ("", f"OPQ{groups},"):
        index = faiss.index_factory(codec.dim, rotation + codec.factory, faiss.METRIC_INNER_PRODUCT)
        vectors = shard.vectors.numpy()
        index.train(vectors)
        index.add(vectors)
        if codec.has_lists:
            nprobe = probed_lists(CodecSettings(kind=codec.kind), codec)
            faiss.extract_index_ivf(index).nprobe = nprobe
        rows = torch.from_numpy(index.search(queries.numpy(), TOP_K)[1])
        name = f"faiss alone, {rotation}{codec.factory}"
        facts[name] = f"{recall(rows, expected, 10):.3f} / {recall(rows, expected, TOP_K):.3f}"
    return facts


def main() -> None:
    """Embed if asked to, then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser.add_argument("--cache", type=Path, default=home / "gazetteer", help="of embeddings")
    parser.add_argument("--embed", action="store_true", help="make what the cache lacks")
    parser.add_argument("--plain_faiss", action="store_true", help="compare with faiss alone")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    texts.skip_without("faiss", texts.ENCODER, texts.FACTBOOK)
    torch.set_num_threads(1)
    use_fast_float32_matmul()
    windows = texts.windows(WINDOWS, WINDOW_WORDS)
    vectors = embedded(windows, options.cache, may_embed=options.embed)
    if vectors is None:
        print(
            f"skipped compressed_recall: {options.cache} does not hold the embeddings of "
            f"{len(windows)} windows; --embed makes them, in 20 minutes or more"
        )
        sys.exit(0)
    queries = Embedder()(texts.questions()[:QUESTIONS])
    exact = FlatShard(vectors)
    expected = exact.search(queries, TOP_K)[1]
    shards: dict[str, FlatShard | CompressedShard] = {EXACT: exact}
    facts: dict[str, str] = {
        "windows": f"{len(vectors)}, of them {len(set(windows))} different",
        "queries": f"{len(queries)}, timed {TIMED_QUESTIONS}",
        "per index": "recall@10 / recall@100, bytes per vector in memory, queries per second",
    }
    with tempfile.TemporaryDirectory() as scratch:
        for kind in KINDS:
            for code_size in CODE_SIZES:
                shards |= compressed(vectors, kind, code_size, Path(scratch))
    timings = interleave(
        {
            name: partial(shard.search, queries[:TIMED_QUESTIONS], TOP_K)
            for name, shard in shards.items()
        },
        options.repetitions,
        time.process_time,
    )
    for name, shard in shards.items():
        rows = shard.search(queries, TOP_K)[1]
        is_exact = isinstance(shard, FlatShard)
        size = vectors.shape[1] * 4 if is_exact else shard.codec.row_bytes
        facts[name] = (
            f"{recall(rows, expected, 10):.3f} / {recall(rows, expected, TOP_K):.3f}, "
            f"{size} bytes, {TIMED_QUESTIONS / timings[name].median:.0f} queries/s"
        )
        if options.plain_faiss and not is_exact and "rescored" not in name:
            facts |= plain_faiss(shard, queries, expected)
    report(
        "compressed_recall",
        f"Compressed indexes, {TOP_K} hits (one thread, CPU time)",
        timings,
        EXACT,
        facts,
    )


if __name__ == "__main__":
    main()
