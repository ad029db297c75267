"""Optimiser state in files: any division is read from any other."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gazetteer.errors import CheckpointError
from gazetteer.files import replace_manifest, write_manifest
from gazetteer.training.optimiser import MasterWeightAdamW
from gazetteer.training.optimiser_files import (
    Rows,
    load_optimiser,
    optimiser_file,
    optimiser_files,
    write_optimiser,
)

SHAPES = {"wide": (7, 3), "bias": (5,), "short": (1, 4)}


class Part:
    """An optimiser that has some rows of the state, and notes what it is given."""

    def __init__(self, rows: dict[str, Rows | None]) -> None:
        self.rows: Mapping[str, Rows | None] = rows
        self.names: Iterable[str] = list(SHAPES)
        self.loaded: dict[str, Tensor] = {}

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.loaded = dict(tensors)


def state() -> dict[str, Tensor]:
    """Of the parameters of SHAPES, in bfloat16, one of them never updated."""
    torch.manual_seed(3)
    tensors = {}
    for name, shape in SHAPES.items():
        tensors[f"{name}.master"] = torch.randn(shape)
        if name != "short":
            tensors |= {f"{name}.step": torch.tensor(4.0), f"{name}.exp_avg": torch.randn(shape)}
    return tensors


def cut(rank: int, world_size: int) -> dict[str, Rows | None]:
    """Rows of a rank, as torch.chunk cuts them; the last ranks may have none."""
    rows: dict[str, Rows | None] = {}
    for name, shape in SHAPES.items():
        size = -(-shape[0] // world_size)
        start = min(rank * size, shape[0])
        rows[name] = Rows(start, min(start + size, shape[0]), shape[0])
    return rows


def part_of(tensors: dict[str, Tensor], rows: dict[str, Rows | None]) -> dict[str, Tensor]:
    """The rows of a state."""
    parts = {}
    for key, tensor in tensors.items():
        place = rows.get(key.rpartition(".")[0])
        if key.rpartition(".")[0] in rows:
            if place is not None and not key.endswith(".step"):
                tensor = tensor[place.start : place.stop].contiguous()
            parts[key] = tensor
    return parts


DIVISIONS: dict[str, list[dict[str, Rows | None]]] = {
    "whole": [dict.fromkeys(SHAPES)],
    "owned": [{"wide": None}, {"bias": None, "short": None}, {}],
    "rows2": [cut(rank, 2) for rank in range(2)],
    "rows3": [cut(rank, 3) for rank in range(3)],
}


@pytest.mark.parametrize("written", DIVISIONS)
def test_every_division_is_read_from_every_other(tmp_path: Path, written: str) -> None:
    tensors = state()
    for rank, rows in enumerate(DIVISIONS[written]):
        if rows:
            file = optimiser_file("reader", None if written == "whole" else rank)
            write_optimiser(tmp_path / file, part_of(tensors, rows), rows)
    write_manifest(tmp_path)
    for division in DIVISIONS.values():
        for rows in division:
            part = Part(rows)
            load_optimiser(part, optimiser_files(tmp_path, "reader"))
            expected = part_of(tensors, rows)
            assert part.loaded.keys() == expected.keys()
            assert all(torch.equal(part.loaded[key], expected[key]) for key in expected)


def test_rows_that_no_file_has_are_missed(tmp_path: Path) -> None:
    rows = cut(0, 2)
    write_optimiser(tmp_path / "reader_optimiser.0.safetensors", part_of(state(), rows), rows)
    with pytest.raises(CheckpointError, match=r"lacks rows 3 to 5 of bias\."):
        load_optimiser(Part({"bias": None}), [tmp_path / "reader_optimiser.0.safetensors"])


def test_state_of_another_model_is_refused(tmp_path: Path) -> None:
    stranger = MasterWeightAdamW([("other", nn.Parameter(torch.zeros(2).half()))], learning_rate=1)
    path = tmp_path / "reader_optimiser.safetensors"
    write_optimiser(path, stranger.state_tensors(), stranger.rows)
    with pytest.raises(CheckpointError, match=r"unknown tensor other\.master"):
        load_optimiser(Part({"bias": None}), [path])
    wrong = {"wide.master": torch.zeros(8, 3)}
    write_optimiser(path, wrong, {})
    with pytest.raises(CheckpointError, match=r"wide\.master has 8 rows, not 7"):
        load_optimiser(Part(cut(0, 2)), [path])


def test_files_that_the_manifest_has_dropped_are_not_used(tmp_path: Path) -> None:
    for rank in range(2):
        write_optimiser(tmp_path / optimiser_file("reader", rank), state(), dict.fromkeys(SHAPES))
    replace_manifest(tmp_path, {})
    assert optimiser_files(tmp_path, "reader") == []


class Canary:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_a_pickle_in_place_of_a_part_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "reader_optimiser.0.safetensors", tmp_path / "it ran"
    path.write_bytes(pickle.dumps(Canary(trace)))
    with pytest.raises(CheckpointError, match=r"reader_optimiser\.0\.safetensors: not readable"):
        load_optimiser(Part({"bias": None}), [path])
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # noqa: S301 - the canary sings
    assert trace.exists()


def test_a_header_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reader_optimiser.0.safetensors"
    for header in ("[1]", '{"bias": [0]}', '{"bias": "all"}', "{"):
        save_file({"bias.exp_avg": torch.zeros(5)}, path, metadata={"rows": header})
        with pytest.raises(CheckpointError, match="not readable"):
            load_optimiser(Part({"bias": None}), [path])
