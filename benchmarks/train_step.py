"""A training step against the same step done Atlas's way.

T5-small, one query, 20 passages of 90 to 110 words (about 166 tokens with the query), a target of
16 tokens, perplexity distillation. Atlas's way: every input padded to `--text_maxlength` 512,
eager attention, passages encoded a second time to be scored, four host reads per parameter for
gradient statistics. One thread, process time. Dropout is off, so both must give the same losses.

    python -m benchmarks.train_step
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from benchmarks.measure import interleave, report
from gazetteer.build_retriever import PADDED_TOKENS
from gazetteer.compute import use_fast_float32_matmul
from gazetteer.losses import RETRIEVER_LOSSES, reader_loss
from gazetteer.reader import FusionReader
from gazetteer.reader.passage_scores import passage_log_likelihoods
from gazetteer.records import Targets
from gazetteer.training.gradients import all_finite, clip_gradients
from gazetteer.training.optimiser import MasterWeightAdamW

PASSAGES, TARGET_TOKENS, PADDED_TO = 20, 16, 512
MEAN_TOKENS, TOKEN_SPREAD = 166, 17
"""Of a query with a passage of 90 to 110 words, in T5 pieces."""
TEMPERATURE = 0.1


@dataclass(frozen=True, slots=True)
class Work:
    """What both read."""

    inputs: list[np.ndarray]
    labels: Tensor
    decoder_input_ids: Tensor
    scores: Tensor


def make_work() -> Work:
    """Seeded token ids of realistic lengths."""
    generator = np.random.default_rng(0)
    lengths = generator.normal(MEAN_TOKENS, TOKEN_SPREAD, PASSAGES).round().clip(100, 250)
    inputs = [generator.integers(3, 32000, int(n)).astype(np.int32) for n in lengths]
    labels = torch.from_numpy(generator.integers(3, 32000, (1, TARGET_TOKENS)))
    decoder_input_ids = torch.cat([torch.zeros(1, 1, dtype=torch.long), labels[:, :-1]], dim=1)
    scores = torch.from_numpy(generator.normal(size=(1, PASSAGES))).float() / 100
    return Work(inputs, labels, decoder_input_ids, scores)


def small_t5() -> T5ForConditionalGeneration:
    """T5-small's shape with seeded weights; no dropout, eager attention."""
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(dropout_rate=0.0, decoder_start_token_id=0))
    model.set_attn_implementation("eager")
    return model.train()


Step = Callable[[], dict[str, float]]


def atlas_way(work: Work) -> Step:
    """The step restated: pad to the maximum, encode twice, read every statistic from the device."""
    model = small_t5()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0, foreach=False)
    ids = torch.zeros(PASSAGES, PADDED_TO, dtype=torch.long)
    for row, tokens in zip(ids, work.inputs, strict=True):
        row[: len(tokens)] = torch.from_numpy(tokens)
    mask = (ids != 0).long()

    def logits(states: Tensor, mask: Tensor, repeats: int) -> Tensor:
        return model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),  # type: ignore[arg-type]
            attention_mask=mask,
            decoder_input_ids=work.decoder_input_ids.expand(repeats, -1),
        ).logits

    def step() -> dict[str, float]:
        with torch.no_grad():
            model.eval()
            states = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            losses = cross_entropy(
                logits(states, mask, PASSAGES).flatten(0, 1),
                work.labels.repeat(PASSAGES, 1).flatten(),
                reduction="none",
            )
            gold = (-losses.view(PASSAGES, -1).mean(dim=1) / TEMPERATURE).softmax(dim=0)
            model.train()
        scores = work.scores.clone().requires_grad_()
        log_probs = (scores[0] / TEMPERATURE).log_softmax(dim=0)
        retriever_loss = kl_div(log_probs, gold, reduction="sum") / PASSAGES
        states = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        fused = states.view(1, -1, states.shape[-1])
        loss = cross_entropy(
            logits(fused, mask.view(1, -1), 1).flatten(0, 1), work.labels.flatten()
        )
        (loss + retriever_loss).backward()
        for parameter in model.parameters():
            if parameter.grad is not None:
                gradient = parameter.grad
                _ = [f(gradient).item() for f in (torch.min, torch.max, torch.mean, torch.norm)]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return {"reader": loss.item(), "retriever": retriever_loss.item()}

    return step


def our_way(work: Work, dtype: torch.dtype) -> Step:
    """The same step with this project's parts, as `step.py` puts them together."""
    reader = FusionReader(small_t5().to(dtype), max_padded_tokens=PADDED_TOKENS["cpu"])
    optimiser = MasterWeightAdamW(reader.named_parameters(), learning_rate=0.0)
    targets = Targets(work.labels, work.decoder_input_ids)
    distil = RETRIEVER_LOSSES["pdist"]

    def step() -> dict[str, float]:
        scores = work.scores.clone().requires_grad_()
        encoded = reader.encode([work.inputs])
        logits = reader.decode(encoded.fused(), targets.decoder_input_ids)
        loss = reader_loss(logits, targets.labels)
        signal = passage_log_likelihoods(reader, encoded.detached(), targets)
        retriever_loss = distil(
            scores, signal, retriever_temperature=TEMPERATURE, reader_temperature=TEMPERATURE
        )
        (loss + retriever_loss).backward()
        norm = clip_gradients(optimiser.parameters, 1.0)
        if all_finite(norm):
            optimiser.step()
        optimiser.zero_grad()
        return {"reader": loss.item(), "retriever": retriever_loss.item()}

    return step


def main() -> None:
    """Check that losses agree, then measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    work = make_work()
    peer = atlas_way(work)
    expected = peer()
    # From here on as the programs run: the peer profits from the faster product as well.
    precision = use_fast_float32_matmul()
    contestants: dict[str, Step] = {
        "Atlas's way, fp32": peer,
        "Gazetteer, fp32": our_way(work, torch.float32),
        "Gazetteer, bf16": our_way(work, torch.bfloat16),
    }
    found = {name: step() for name, step in contestants.items()}
    # The retriever's loss is a small difference of near-equal likelihoods: bfloat16 shows in it.
    for name, tolerance in (("Gazetteer, fp32", 1e-4), ("Gazetteer, bf16", 6e-2)):
        for key, value in expected.items():
            error = abs(found[name][key] - value) / abs(value)
            assert error < tolerance, f"{name}: {key} loss {found[name][key]}, expected {value}"
    timings = interleave(contestants, options.repetitions, time.process_time, warm_up=0)
    real = sum(map(len, work.inputs))
    report(
        "train_step",
        "Training step, T5-small, 20 passages, pdist (one thread, CPU time)",
        timings,
        "Atlas's way, fp32",
        {
            "real tokens": real,
            "padded by the peer": PASSAGES * PADDED_TO,
            "float32 product": precision,
            "losses": dict(found),
        },
    )


if __name__ == "__main__":
    main()
