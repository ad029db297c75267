"""Everything a resumed run needs beyond the weights. If it is not here, it is not saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from gazetteer.compute import random_state, restore_random_state, seed_everything
from gazetteer.errors import CheckpointError
from gazetteer.files import load_tensors, replace_json
from gazetteer.records import Ranks
from gazetteer.training.gradients import LossScale, NonFiniteGuard
from gazetteer.training.optimiser import Rows
from gazetteer.training.optimiser_files import (
    Optimiser,
    load_optimiser,
    optimiser_file,
    optimiser_files,
    write_optimiser,
)

STATE = "state.json"
INDEX_ENCODER = "index_encoder.safetensors"
NEXT_INDEX_ENCODER = "next_index_encoder.safetensors"


@dataclass(slots=True)
class Position:
    """How far a run has come. The only mutable numbers of the loop.

    Attributes:
        micro_batches: done so far, by each rank.
        examples: drawn so far, by all ranks together.
        step_size: how many of them in the last step.
        index_step: micro-batch at which the index was embedded.
        index_is_foreign: 1 if it was loaded though other weights or passages made it.
        next_index_step: micro-batch at which the version in progress was begun.
        slices: parts of that version; 0 where there is none, 1 where processes set aside embed it.
        slices_done: how many of them are embedded.
        index_is_stale: 1 if a refresh is owed: the top k has changed too much, or it fell due while
            processes set aside embedded another version.
    """

    micro_batches: int = 0
    examples: int = 0
    step_size: int = 0
    index_step: int = 0
    index_is_foreign: int = 0
    next_index_step: int = 0
    slices: int = 0
    slices_done: int = 0
    index_is_stale: int = 0


@dataclass(frozen=True, slots=True)
class IndexEncoders:
    """Weights behind the index.

    Attributes:
        serving: of the version that is searched; empty: the passage tower's own.
        next: of the version in progress; empty: there is none.
    """

    serving: Mapping[str, Tensor]
    next: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class StateFiles:
    """One rank's files of a state, to be written when there is time.

    Attributes:
        tensors: on the host, by name of the file.
        optimisers: likewise, and which rows of parameters they are.
        document: what all ranks share; None elsewhere than on rank 0.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    optimisers: Mapping[str, tuple[Mapping[str, Tensor], Mapping[str, Rows | None]]]
    document: Mapping[str, Any] | None

    def write(self, folder: Path) -> None:
        """Write the files. Not a collective."""
        for name, tensors in self.tensors.items():
            save_file(dict(tensors), folder / name)
        for name, (tensors, rows) in self.optimisers.items():
            write_optimiser(folder / name, tensors, rows)
        if self.document is not None:
            replace_json(folder / STATE, self.document)


@dataclass(frozen=True, slots=True)
class TrainState:
    """What is restored so that the next step is the one an uninterrupted run would take.

    Attributes:
        position: steps and data.
        optimisers: by the name of the model whose weights they update, the first one first.
        guard: counts non-finite steps.
        loss_scale: of fp16 runs.
    """

    position: Position
    optimisers: Mapping[str, Optimiser]
    guard: NonFiniteGuard
    loss_scale: LossScale

    def save(self, folder: Path, ranks: Ranks, index_encoders: IndexEncoders) -> None:
        """Write this state. Rank 0 writes what all share, every rank what it alone has.

        Args:
            folder: of the checkpoint, not yet committed.
            ranks: this process among its peers.
            index_encoders: weights behind the index.
        """
        self.files(ranks, index_encoders, copied=False).write(folder)

    def files(self, ranks: Ranks, index_encoders: IndexEncoders, *, copied: bool) -> StateFiles:
        """What `save` would write now.

        Args:
            ranks: this process among its peers.
            index_encoders: weights behind the index, which no step changes in place.
            copied: tensors are copies, for writing after further steps.
        """
        tensors = {_random_file(ranks.rank): random_state()}
        optimisers = {}
        for name, optimiser in self.optimisers.items():
            live = optimiser.state_tensors()
            if live and (ranks.is_main or optimiser.is_spread):
                file = optimiser_file(name, ranks.rank if optimiser.is_spread else None)
                on_host = {k: v.to("cpu", copy=copied) for k, v in live.items()}
                optimisers[file] = (on_host, optimiser.rows)
        if not ranks.is_main:
            return StateFiles(tensors, optimisers, None)
        encoders = {
            INDEX_ENCODER: index_encoders.serving,
            NEXT_INDEX_ENCODER: index_encoders.next,
        }
        document = {
            "position": asdict(self.position),
            "guard": self.guard.state_numbers(),
            "loss_scale": self.loss_scale.state_numbers(),
            "world_size": ranks.world_size,
        }
        tensors |= {file: weights for file, weights in encoders.items() if weights}
        return StateFiles(tensors, optimisers, document)

    def load(self, folder: Path, ranks: Ranks, seed: int) -> tuple[IndexEncoders, list[str]]:
        """Restore in place.

        Args:
            folder: an intact checkpoint.
            ranks: this process among its peers.
            seed: for ranks that did not exist when the checkpoint was written.

        Returns:
            Weights behind the index, and one line for each thing that starts afresh.
        """
        document = _read_state(folder / STATE)
        for name, value in document["position"].items():
            setattr(self.position, name, int(value))
        self.guard.load_state_numbers(document["guard"])
        self.loss_scale.load_state_numbers(document["loss_scale"])
        notes = self._load_optimisers(folder)
        if document["world_size"] == ranks.world_size:
            restore_random_state(load_tensors(folder / _random_file(ranks.rank)))
        else:
            fresh = np.random.SeedSequence([seed, ranks.rank, self.position.micro_batches])
            seed_everything(int(fresh.generate_state(1)[0]))
            notes.append(
                f"random state: written by {document['world_size']} workers, now "
                f"{ranks.world_size}; dropout masks differ from an uninterrupted run"
            )
        encoders = (folder / INDEX_ENCODER, folder / NEXT_INDEX_ENCODER)
        return IndexEncoders(*(load_tensors(f) if f.is_file() else {} for f in encoders)), notes

    def _load_optimisers(self, folder: Path) -> list[str]:
        notes = []
        for name, optimiser in self.optimisers.items():
            files = optimiser_files(folder, name)
            if files:
                load_optimiser(optimiser, files)
            else:
                missing = optimiser_file(name, None)
                notes.append(f"{missing} is not in the checkpoint: this optimiser starts afresh")
        return notes


def _random_file(rank: int) -> str:
    return f"random.{rank}.safetensors"


def _read_state(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable ({error})") from None
