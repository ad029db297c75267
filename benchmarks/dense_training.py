"""Training a dense retriever, against sentence-transformers.

MiniLM, triples of a question, a passage and another passage, every passage of the batch a candidate
(MultipleNegativesRankingLoss with its scale of 20; InfoNCE with a temperature of 0.05), AdamW, clip
at 1. One thread, process time, in triples per second. sentence-transformers trains by its plain
`old_fit`, as it comes and with the matrix product that Gazetteer chooses. Gazetteer reads tokens
that were made before the first step; sentence-transformers tokenises each batch. Dropout is off, so
that both must give the same losses.

    python -m benchmarks.dense_training [--batch_size 16] [--batches 1]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from benchmarks import texts
from benchmarks.embedding import float32_product
from benchmarks.measure import interleave, report
from gazetteer.build_retriever import PADDED_TOKENS
from gazetteer.compute import use_fast_float32_matmul
from gazetteer.data.marked_templates import MarkedTemplate
from gazetteer.data.sampling import Draw
from gazetteer.data.tokens import SpecialTokens
from gazetteer.dense.batches import DenseBatches
from gazetteer.dense.line_files import LineTexts, cached_lines
from gazetteer.dense.picking import Picker
from gazetteer.dense.step import DenseLesson, DenseStep
from gazetteer.dense.towers import Towers
from gazetteer.ir.records import Candidate, TrainingLine
from gazetteer.ir.training_files import write_training_lines
from gazetteer.retriever import EmbeddingBatch, load_retriever
from gazetteer.training.gradients import all_finite, clip_gradients
from gazetteer.training.optimiser import MasterWeightAdamW

MAX_TOKENS = 128
TEMPERATURE = 0.05
RATE = 1e-6
"""So small that the order of the contestants does not matter."""
STOCK, SAME_PRODUCT, OURS = (
    "sentence-transformers, as it comes",
    "sentence-transformers, our product",
    "Gazetteer",
)
Triple = tuple[str, str, str]
Work = Callable[[], list[float]]


def triples(count: int) -> list[Triple]:
    """Questions, each with two passages of natural length; which ones does not matter here."""
    questions = texts.questions()[:count]
    passages = texts.passages()
    stride = max(1, len(passages) // (2 * count))
    lines = [f"{each['title']} {each['text']}" for each in passages[::stride]][: 2 * count]
    return list(zip(questions, lines[::2], lines[1::2], strict=False))


def peer(data: list[Triple], batch_size: int, precision: str) -> Work:
    """sentence-transformers' own loop; its losses are noted on the way."""
    from sentence_transformers import InputExample, SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from torch.utils.data import DataLoader

    model = SentenceTransformer(str(texts.encoder_folder()), device="cpu")
    model.max_seq_length = MAX_TOKENS
    switch_off_dropout(model)
    examples = [InputExample(texts=list(triple)) for triple in data]
    losses: list[float] = []

    class Noted(MultipleNegativesRankingLoss):
        def forward(self, *args: object, **kwargs: object) -> torch.Tensor:
            loss = super().forward(*args, **kwargs)
            losses.append(loss.item())
            return loss

    def work() -> list[float]:
        losses.clear()
        loader = DataLoader(examples, batch_size=batch_size, shuffle=False)
        with float32_product(precision):
            model.old_fit(
                [(loader, Noted(model, scale=1 / TEMPERATURE))],
                epochs=1,
                warmup_steps=0,
                scheduler="constantlr",
                optimizer_params={"lr": RATE},
                weight_decay=0.0,
                max_grad_norm=1.0,
                show_progress_bar=False,
            )
        return list(losses)

    return work


def switch_off_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0


def our_way(data: list[Triple], batch_size: int, folder: Path) -> Work:
    """The parts of `train.py --task dense`, as its loop puts them together."""
    retriever, tokenizer = load_retriever(
        str(texts.encoder_folder()),
        pooling="mean",
        normalize=True,
        dropout=0.0,
        dtype=torch.float32,
        batch=EmbeddingBatch(max_padded_tokens=PADDED_TOKENS["cpu"]),
    )
    path = folder / "triples.jsonl"
    write_training_lines(
        path,
        (
            TrainingLine("", query, None, (passage(positive),), (passage(negative),))
            for query, positive, negative in data
        ),
    )
    template = MarkedTemplate.parse_marked("<text>")
    ways = LineTexts(
        tokenizer=tokenizer,
        query_template=template,
        passage_template=template,
        query_tokens=MAX_TOKENS,
        passage_tokens=MAX_TOKENS,
    )
    batches = DenseBatches(
        cached_lines([path], ways, None, folder, flag="--train_data"),
        None,
        SpecialTokens.of(tokenizer),
        Picker(negatives=1, seed=0),
        query_tokens=MAX_TOKENS,
        passage_tokens=MAX_TOKENS,
        scored=False,
    )
    lesson = DenseLesson(loss="infonce", passages=2, temperature=TEMPERATURE, normalizes=True)
    step = DenseStep(Towers(retriever), lesson, None).train()
    optimiser = MasterWeightAdamW(
        retriever.named_parameters(), learning_rate=RATE, weight_decay=0.0
    )

    def work() -> list[float]:
        losses = []
        for start in range(0, len(data), batch_size):
            draws = [Draw(index, 0) for index in range(start, min(start + batch_size, len(data)))]
            loss, _ = step(batches.build(draws))
            loss.backward()
            if all_finite(clip_gradients(optimiser.parameters, 1.0)):
                optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
        return losses

    return work


def passage(text: str) -> Candidate:
    return Candidate("", None, None, "", text=text)


def main() -> None:
    """Check that losses agree, then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    texts.skip_without(texts.ENCODER, "sentence_transformers", texts.FACTBOOK)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = triples(options.batch_size * options.batches)
    precision = use_fast_float32_matmul()
    with tempfile.TemporaryDirectory() as folder:
        contestants: dict[str, Work] = {
            STOCK: peer(data, options.batch_size, "highest"),
            SAME_PRODUCT: peer(data, options.batch_size, precision),
            OURS: our_way(data, options.batch_size, Path(folder)),
        }
        found = {name: work() for name, work in contestants.items()}
        for name, losses in found.items():
            for loss, expected in zip(losses, found[STOCK], strict=True):
                assert abs(loss - expected) < 2e-3 * abs(expected), f"{name}: {found}"
        timings = interleave(contestants, options.repetitions, time.process_time, warm_up=0)
    report(
        "dense_training",
        f"Training MiniLM on {len(data)} triples, {options.batch_size} at once (one thread, CPU)",
        timings,
        STOCK,
        {
            "triples per second": {n: len(data) / t.median for n, t in timings.items()},
            "float32 product": precision,
            "losses": found,
        },
    )


if __name__ == "__main__":
    main()
