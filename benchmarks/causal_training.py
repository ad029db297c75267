"""Examples per second that a decoder-only reader learns from, by precision and threads.

    python benchmarks/causal_training.py FOLDER_OR_GGUF [--tokens 640 60] [--batch 4] [--steps 4]

An example is so many context vectors (its passages, or the few vectors of a compressor), a question
of 20 tokens and an answer of 8; a step is forward, backward and AdamW with float32 master weights.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from gazetteer.reader import CausalReader, load_reader
from gazetteer.training.optimiser import MasterWeightAdamW

QUESTION, ANSWER = 20, 8


def step(reader: CausalReader, optimiser: MasterWeightAdamW, batch: int, tokens: int) -> None:
    generator = np.random.default_rng(0)
    inputs = [[generator.integers(3, reader.vocab_size, size=tokens)] for _ in range(batch)]
    labels = torch.randint(3, reader.vocab_size, (batch, QUESTION + ANSWER))
    logits = reader.decode(reader.encode(inputs).fused(), reader.shift_right(labels))
    labels[:, :QUESTION] = -100
    torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten()).backward()
    optimiser.step()
    optimiser.zero_grad()


def seconds(work: Callable[[], None], times: int) -> tuple[float, float]:
    """Wall and CPU seconds of the fastest of `times` calls."""
    found = []
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reader")
    parser.add_argument("--tokens", type=int, nargs="+", default=[640, 60])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    print("| precision | threads | context | examples/s | CPU s/example | of it AdamW |")
    print("|---|---|---|---|---|---|")
    for precision in args.precisions:
        reader, _ = load_reader(
            args.reader, dropout=0.0, precision=precision, max_padded_tokens=1024
        )
        assert isinstance(reader, CausalReader)
        reader.train()
        optimiser = MasterWeightAdamW(reader.named_parameters(), learning_rate=1e-5)
        for threads, tokens in itertools.product(args.threads, args.tokens):
            torch.set_num_threads(threads)
            learn = partial(step, reader, optimiser, args.batch, tokens)
            learn()
            wall, cpu = seconds(learn, args.steps)
            for parameter in reader.parameters():
                parameter.grad = torch.zeros_like(parameter)
            _, update = seconds(optimiser.step, 1)
            optimiser.zero_grad()
            numbers = (args.batch / wall, cpu / args.batch, update / args.batch)
            shown = " | ".join(f"{number:.2f}" for number in numbers)
            print(f"| {precision} | {threads} | {tokens} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
