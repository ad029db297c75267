"""Optimiser state in files: whole, or in parts that any other division can be read from.

A whole state is one file, `reader_optimiser.safetensors`. A spread one has a file of each rank,
`reader_optimiser.3.safetensors`, with whole tensors or rows of tensors; which rows stands in the
file's own header. Whoever loads takes from all files what it needs, whatever wrote them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gazetteer.errors import CheckpointError
from gazetteer.files import listed_files
from gazetteer.training.optimiser import ADAM_STATE, Rows

OPTIMISER_FILES = "*_optimiser*.safetensors"
ROWS = "rows"
"""Key of a file's header: which rows of which parameters are in it, as JSON."""


class Divided(Protocol):
    """What has a state, or a part of one, that files hold."""

    @property
    def names(self) -> Iterable[str]:
        """Of the parameters, whoever has their state."""
        ...

    @property
    def rows(self) -> Mapping[str, Rows | None]:
        """The parameters whose state is here; None: all rows of them."""
        ...

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `rows` says is here."""
        ...


class Optimiser(Divided, Protocol):
    """What updates the weights of one model; its state may be spread over the ranks."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What to clip, in the same order on every rank; gradients may be elsewhere."""
        ...

    @property
    def is_spread(self) -> bool:
        """Whether other ranks have the rest of the state."""
        ...

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set what the next update will use."""
        ...

    def step(self, *, gradient_scale: float = 1.0) -> None:
        """Apply one update. Collective where the state is spread."""
        ...

    def zero_grad(self) -> None:
        """Forget the gradients."""
        ...

    def state_tensors(self) -> dict[str, Tensor]:
        """What is here of the state, by parameter's name; live tensors."""
        ...


def optimiser_file(name: str, rank: int | None) -> str:
    """Name of a file: of the whole state, or of a rank's part."""
    part = "" if rank is None else f".{rank}"
    return f"{name}_optimiser{part}.safetensors"


def optimiser_files(folder: Path, name: str) -> list[Path]:
    """Files of one model's optimiser in a checkpoint; empty if there are none."""
    # Not what lies in the folder: dropping optimisers may have been cut short.
    whole, part = optimiser_file(name, None), f"{name}_optimiser.*.safetensors"
    listed = listed_files(folder)
    return [folder / file for file in listed if file == whole or fnmatchcase(file, part)]


def write_optimiser(
    path: Path, tensors: Mapping[str, Tensor], rows: Mapping[str, Rows | None]
) -> None:
    """Write a state, or a part of one; tensors on the host."""
    parts = {n: [r.start, r.stop, r.total] for n, r in rows.items() if r is not None}
    save_file(dict(tensors), path, metadata={ROWS: json.dumps(parts)} if parts else None)


def load_optimiser(optimiser: Divided, files: Iterable[Path]) -> None:
    """Bring an optimiser to the state that files hold, reading what is kept here alone.

    Raises:
        CheckpointError: a file is none of ours, or tensors are missing, unknown, or of another
            shape or dtype. Nothing has been changed then.
    """
    with ExitStack() as stack:
        stored = _Stored(files, stack)
        known = set(optimiser.names)
        for key in sorted(stored.keys()):
            if key.rpartition(".")[0] not in known:
                raise CheckpointError(f"optimiser state has the unknown tensor {key}")
        wanted = optimiser.rows
        optimiser.load_state_tensors(
            {
                key: stored.read(key, rows)
                for name, rows in wanted.items()
                for key in stored.keys_of(name)
            }
        )


class _Stored:
    """Tensors in several files, some of them cut into rows."""

    def __init__(self, files: Iterable[Path], stack: ExitStack) -> None:
        self._places: dict[str, list[tuple[Any, Rows | None]]] = defaultdict(list)
        for path in files:
            try:
                file = stack.enter_context(safe_open(path, "pt"))
                noted = json.loads((file.metadata() or {}).get(ROWS, "{}"))
                cut = {name: Rows(*map(int, rows)) for name, rows in noted.items()}
            except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
                raise CheckpointError(f"{path}: not readable ({error})") from None
            for key in file.keys():  # noqa: SIM118 - no mapping
                name = key.rpartition(".")[0]
                self._places[key].append((file, None if is_count(key) else cut.get(name)))

    def keys(self) -> Iterable[str]:
        return self._places.keys()

    def keys_of(self, name: str) -> Iterator[str]:
        return (key for key in self._places if key.rpartition(".")[0] == name)

    def read(self, key: str, wanted: Rows | None) -> Tensor:
        """All of a tensor, or the rows that are wanted of it.

        Raises:
            CheckpointError: the files do not have all of them.
        """
        places = self._places[key]
        file, first = places[0]
        if is_count(key) or (first is None and wanted is None):
            return file.get_tensor(key)
        total = first.total if first else file.get_slice(key).get_shape()[0]
        start, stop = (wanted.start, wanted.stop) if wanted else (0, total)
        if wanted is not None and wanted.total != total:
            raise CheckpointError(f"optimiser state: {key} has {total} rows, not {wanted.total}")
        pieces, reached = [], start
        for file, rows in sorted(places, key=lambda place: place[1].start if place[1] else 0):
            begin, end = (rows.start, rows.stop) if rows else (0, total)
            if begin <= reached < min(end, stop):
                until = min(end, stop)
                pieces.append(file.get_slice(key)[reached - begin : until - begin])
                reached = until
        if reached < stop:
            raise CheckpointError(f"optimiser state lacks rows {reached} to {stop} of {key}")
        if not pieces:
            return file.get_slice(key)[0:0]
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


def is_count(key: str) -> bool:
    """Whether a tensor is a parameter's number of updates: one value, however it is divided."""
    return key.endswith(f".{ADAM_STATE[0]}")
