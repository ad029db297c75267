"""How long a checkpoint keeps training waiting: written in front of it, and beside it.

    python -m benchmarks.saving [--layers 6] [--width 512] [--times 3] [--folder FOLDER]

One process, a T5 of random weights in float32 with AdamW's state. Beside training, the wait is the
copy to memory; what the thread then needs until the checkpoint is in place is the second number.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import T5Config, T5ForConditionalGeneration

from gazetteer.build import Models
from gazetteer.reader import FusionReader
from gazetteer.records import Ranks
from gazetteer.training.background import BackgroundWork
from gazetteer.training.checkpoint import CheckpointFolder
from gazetteer.training.gradients import LossScale, NonFiniteGuard
from gazetteer.training.model_copies import ModelCopies
from gazetteer.training.optimiser import MasterWeightAdamW
from gazetteer.training.state import IndexEncoders, Position, TrainState

ALONE, NO_INDEX = Ranks(), IndexEncoders({}, {})


def build(layers: int, width: int) -> tuple[Models, TrainState]:
    """A reader of random weights after one update."""
    config = T5Config(d_model=width, d_ff=4 * width, num_layers=layers)
    reader = FusionReader(T5ForConditionalGeneration(config), max_padded_tokens=1024)
    optimiser = MasterWeightAdamW(reader.named_parameters(), learning_rate=1e-5)
    for parameter in reader.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimiser.step()
    optimiser.zero_grad()
    models = Models(
        retriever=None,
        retriever_tokenizer=None,
        reader=reader,
        reader_tokenizer=None,
    )
    state = TrainState(Position(), {"reader": optimiser}, NonFiniteGuard(1), LossScale())
    return models, state


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Seconds that a checkpoint costs")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where checkpoints are written, then removed")
    args = parser.parse_args()
    models, state = build(args.layers, args.width)
    copies, work = ModelCopies(models), BackgroundWork()
    assert models.reader is not None and copies.models.reader is not None
    reader, copied_reader = models.reader.model, copies.models.reader.model
    front, waits, whole = [], [], []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        checkpoints = CheckpointFolder(Path(folder))
        for step in range(args.times):
            began = time.perf_counter()
            files = state.files(ALONE, NO_INDEX, copied=False)

            def in_front(part: Path) -> None:
                files.write(part)  # noqa: B023 - called at once
                reader.save_pretrained(part / "reader")

            checkpoints.save(step, in_front, ALONE, keep_optimisers=False)
            front.append(time.perf_counter() - began)

            began = time.perf_counter()
            copied = state.files(ALONE, NO_INDEX, copied=True)
            copies.fill(torch.device("cpu"))

            def beside(part: Path) -> None:
                copied.write(part)  # noqa: B023 - waited for below
                copied_reader.save_pretrained(part / "reader")

            checkpoints.save_beside(
                work, step, beside, ALONE, keep_optimisers=False, then=lambda _: None
            )
            waits.append(time.perf_counter() - began)
            work.wait()
            whole.append(time.perf_counter() - began)
    size = sum(p.numel() for p in reader.parameters())
    print(f"{size / 1e6:.0f} million parameters, {12 * size / 1e9:.2f} GB; seconds, median")
    print(f"in front of training (waits for all of it)  {statistics.median(front):.2f}")
    print(f"beside training: waits                      {statistics.median(waits):.2f}")
    print(f"beside training: until it is in place       {statistics.median(whole):.2f}")


if __name__ == "__main__":
    main()
