"""Embedding a corpus, against sentence-transformers and against Atlas's way.

MiniLM, real passages, one thread, process time. All truncate at 256 tokens and give normalised
vectors. sentence-transformers sorts by length too; it gets its best batch size, and is shown as it
comes, with the matrix product that Gazetteer chooses, and in bfloat16. Atlas's way: one unsorted
batch padded to its longest, eager attention, tokenised anew. Gazetteer embeds from tokens that are
on disk already, as at every refresh; and from nothing but passages, as the first time.

    python -m benchmarks.embedding [--passages 256]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from benchmarks import texts
from benchmarks.measure import interleave, report
from gazetteer.build_retriever import PADDED_TOKENS
from gazetteer.compute import use_fast_float32_matmul
from gazetteer.data.passages import PassageStore, write_passages
from gazetteer.data.templates import PassageTemplate
from gazetteer.data.tokens import PassageTokens
from gazetteer.indexing.embedding import RowEmbedder
from gazetteer.retriever import EmbeddingBatch, load_retriever

MAX_TOKENS = 256
"""What MiniLM's own settings cut at."""
FORMAT = "{title} {text}"
BATCH_SIZES, TRIED_PASSAGES = (8, 16, 32, 64), 64
STOCK, SAME_PRODUCT, PEER_BF16 = (
    f"sentence-transformers, {how}" for how in ("as it comes", "our product", "bf16")
)
ATLAS = "Atlas's way"
Work = Callable[[], Tensor]


@contextmanager
def float32_product(precision: str) -> Iterator[None]:
    """Another setting of torch, for as long as a peer runs."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    yield
    torch.set_float32_matmul_precision(before)


def peer(lines: list[str], dtype: torch.dtype, precision: str) -> tuple[Work, int]:
    """sentence-transformers with its best batch size, which is returned as well."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(texts.encoder_folder()), device="cpu", model_kwargs={"dtype": dtype}
    )

    def encode(some: list[str], batch_size: int) -> Tensor:
        with float32_product(precision):
            return model.encode(
                some, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False
            ).float()

    some = lines[:: max(1, len(lines) // TRIED_PASSAGES)]
    tried = interleave(
        {str(size): (lambda size=size: encode(some, size)) for size in BATCH_SIZES},
        2,
        time.process_time,
    )
    best = int(min(tried, key=lambda size: tried[size].median))
    return lambda: encode(lines, best), best


def atlas_way(lines: list[str]) -> Work:
    """Restated: no sorting, so that all are padded to the longest; batches of 512."""
    tokenizer = AutoTokenizer.from_pretrained(texts.encoder_folder())
    model = AutoModel.from_pretrained(texts.encoder_folder(), attn_implementation="eager").eval()

    @torch.no_grad()
    def work() -> Tensor:
        vectors = []
        with float32_product("highest"):
            for start in range(0, len(lines), 512):
                batch = tokenizer(
                    lines[start : start + 512],
                    padding=True,
                    truncation=True,
                    max_length=MAX_TOKENS,
                    return_tensors="pt",
                )
                states = model(**batch).last_hidden_state
                mask = batch["attention_mask"].bool().unsqueeze(-1)
                mean = states.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1)
                vectors.append(torch.nn.functional.normalize(mean, dim=-1))
        return torch.cat(vectors)

    return work


def our_way(store: PassageStore, cache: Path, dtype: torch.dtype) -> dict[str, Work]:
    """What fills an index: from tokens on disk, and from passages alone."""
    retriever, tokenizer = load_retriever(
        str(texts.encoder_folder()),
        pooling="mean",
        normalize=True,
        dropout=0.0,
        dtype=dtype,
        batch=EmbeddingBatch(max_padded_tokens=PADDED_TOKENS["cpu"]),
    )

    def tokens() -> PassageTokens:
        return PassageTokens(
            store,
            tokenizer,
            PassageTemplate.parse(FORMAT),
            max_tokens=MAX_TOKENS,
            cache_dir=cache,
        )

    def embed(inputs: PassageTokens) -> Tensor:
        out = torch.empty(store.count, retriever.embedding_dim)
        embedder = RowEmbedder(
            retriever.passage_tower,
            inputs,
            range(store.count),
            retriever.batch,
            out=out,
            chunks=None,
        )
        embedder.embed_all(show_progress=False)
        return out

    def from_passages() -> Tensor:
        shutil.rmtree(cache, ignore_errors=True)
        return embed(tokens())

    known = tokens()
    name = "fp32" if dtype == torch.float32 else "bf16"
    return {
        f"Gazetteer, {name}": lambda: embed(known),
        f"Gazetteer, {name}, with tokenising": from_passages,
    }


def check(name: str, found: Tensor, expected: Tensor) -> float:
    """The least cosine to plain transformers in float32, which must be near 1."""
    least = float(torch.nn.functional.cosine_similarity(found, expected).min())
    floor = 0.999 if "bf16" in name else 0.99999
    assert least >= floor, f"{name}: a cosine of {least:.6f} only"
    return least


def main() -> None:
    """Check that all embed alike, then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    texts.skip_without("sentence_transformers", texts.ENCODER, texts.FACTBOOK)
    torch.set_num_threads(1)
    everything = texts.passages()
    places = np.linspace(0, len(everything) - 1, options.passages).astype(int)
    # Spread over the corpus, then shuffled: sorted by title, neighbours are alike in length.
    chosen = [everything[i] for i in np.random.default_rng(0).permutation(places)]
    precision = use_fast_float32_matmul()
    with tempfile.TemporaryDirectory() as scratch:
        store = write_passages(chosen, Path(scratch, "passages"))
        # As the store gives them: it joins sections to titles.
        passages = store.records(range(store.count))
        lines = [PassageTemplate.parse(FORMAT).fill(passage) for passage in passages]
        stock, best = peer(lines, torch.float32, "highest")
        contestants: dict[str, Work] = {
            STOCK: stock,
            SAME_PRODUCT: peer(lines, torch.float32, precision)[0],
            PEER_BF16: peer(lines, torch.bfloat16, precision)[0],
            ATLAS: atlas_way(lines),
        }
        for dtype in (torch.float32, torch.bfloat16):
            contestants |= our_way(store, Path(scratch, str(dtype)), dtype)
        expected = contestants[ATLAS]()
        cosines = {name: check(name, work(), expected) for name, work in contestants.items()}
        timings = interleave(contestants, options.repetitions, time.process_time, warm_up=0)
    rates = {name: f"{options.passages / t.median:.0f}" for name, t in timings.items()}
    report(
        "embedding",
        f"Embedding {options.passages} passages, MiniLM (one thread, CPU time)",
        timings,
        STOCK,
        {
            "least cosine to plain float32": {n: f"{c:.5f}" for n, c in cosines.items()},
            "passages per second": rates,
            "batch size of sentence-transformers, best of "
            + ", ".join(map(str, BATCH_SIZES)): best,
            "float32 product": precision,
            "over Atlas's way": {
                name: f"{timings[ATLAS].median / t.median:.2f}" for name, t in timings.items()
            },
        },
    )


if __name__ == "__main__":
    main()
