"""Everything a resumed run needs beyond the weights. If it is not here, it is not saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from gazetteer.compute import random_state, restore_random_state, seed_everything
from gazetteer.errors import CheckpointError
from gazetteer.files import load_tensors, replace_json
from gazetteer.records import Ranks
from gazetteer.training.checkpoint import OPTIMISER_FILES
from gazetteer.training.gradients import LossScale, NonFiniteGuard
from gazetteer.training.optimiser import MasterWeightAdamW

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
class TrainState:
    """What is restored so that the next step is the one an uninterrupted run would take.

    Attributes:
        position: steps and data.
        optimisers: by the name of the model whose weights they update, the first one first.
        guard: counts non-finite steps.
        loss_scale: of fp16 runs.
    """

    position: Position
    optimisers: Mapping[str, MasterWeightAdamW]
    guard: NonFiniteGuard
    loss_scale: LossScale

    def save(self, folder: Path, ranks: Ranks, index_encoders: IndexEncoders) -> None:
        """Write this state. Rank 0 writes what all share, every rank its random state.

        Args:
            folder: of the checkpoint, not yet committed.
            ranks: this process among its peers.
            index_encoders: weights behind the index.
        """
        save_file(random_state(), folder / _random_file(ranks.rank))
        if not ranks.is_main:
            return
        for name, optimiser in self.optimisers.items():
            tensors = {k: v.cpu() for k, v in optimiser.state_tensors().items()}
            save_file(tensors, folder / _optimiser_file(name))
        if index_encoders.serving:
            save_file(dict(index_encoders.serving), folder / INDEX_ENCODER)
        if index_encoders.next:
            save_file(dict(index_encoders.next), folder / NEXT_INDEX_ENCODER)
        document = {
            "position": asdict(self.position),
            "guard": self.guard.state_numbers(),
            "loss_scale": self.loss_scale.state_numbers(),
            "world_size": ranks.world_size,
        }
        replace_json(folder / STATE, document)

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
            path = folder / _optimiser_file(name)
            if path.is_file():
                optimiser.load_state_tensors(load_tensors(path))
            else:
                notes.append(f"{path.name} is not in the checkpoint: this optimiser starts afresh")
        return notes


def _optimiser_file(name: str) -> str:
    return OPTIMISER_FILES.replace("*", name)


def _random_file(rank: int) -> str:
    return f"random.{rank}.safetensors"


def _read_state(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable ({error})") from None
