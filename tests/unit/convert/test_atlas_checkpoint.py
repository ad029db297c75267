"""Atlas's checkpoints: read without running them, and refused in one line."""

import argparse
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from gazetteer.convert.atlas_checkpoint import READER, TIED, open_atlas_checkpoint
from gazetteer.convert.saved_tensors import open_saved_state
from gazetteer.errors import CheckpointError
from tests.support.atlas_checkpoints import atlas_model, save_atlas
from tests.support.tiny_models import tiny_bert


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("module", ["", "module."])
def test_every_tensor_is_found_and_read(tmp_path: Path, module: str, protocol: int) -> None:
    model = atlas_model(module=module)
    content = {"step": 7, "model": model, "opt": argparse.Namespace(n_context=5)}
    torch.save(content, tmp_path / "model.pth.tar", pickle_protocol=protocol)
    atlas = open_atlas_checkpoint(tmp_path / "model.pth.tar")
    assert atlas.step == 7
    assert atlas.options == {"n_context": 5}
    assert atlas.parts.keys() == {READER, TIED}
    for part, tensors in atlas.parts.items():
        owner, _, tower = part.partition(".")
        prefix = f"{owner}.{module}{tower}".rstrip(".") + "."
        for name, saved in tensors.items():
            expected = model[prefix.replace("..", ".") + name]
            assert saved.read().dtype == expected.dtype
            assert torch.equal(saved.read(), expected), name
    assert sum(map(len, atlas.parts.values())) == len(model)


def test_outer_module_and_optimisers(tmp_path: Path) -> None:
    model = {f"module.{name}": tensor for name, tensor in atlas_model().items()}
    atlas = open_atlas_checkpoint(save_atlas(tmp_path, model))
    assert atlas.has_optimisers
    assert "shared.weight" in atlas.parts[READER]
    assert not open_atlas_checkpoint(save_atlas(tmp_path, model, optimizer=None)).has_optimisers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_slices_transposes_and_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    whole = torch.arange(60).view(6, 10).to(dtype)
    tensors = {
        "reader.slice": whole[2:5, 3:7],
        "reader.transposed": whole.T,
        "reader.number": whole[1, 1],
        "reader.empty": whole[:0],
        "reader.parameter": torch.nn.Parameter(whole),
    }
    path = save_atlas(tmp_path, tensors)
    found = open_atlas_checkpoint(path).parts[READER]
    for name, expected in tensors.items():
        read = found[name.removeprefix("reader.")].read()
        assert read.is_contiguous()
        assert torch.equal(read, expected)


class Canary:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("place", ["opt", "model", "optimizer", "anything"])
def test_a_crafted_pickle_does_not_run(tmp_path: Path, place: str) -> None:
    canary = Canary(tmp_path / "ran")
    model = {"reader.a": canary if place == "model" else torch.ones(1)}
    path = save_atlas(tmp_path, model, **({} if place == "model" else {place: canary}))
    with pytest.raises(CheckpointError, match=r"names (posix|nt)\.system, .* nothing was run"):
        open_atlas_checkpoint(path)
    assert not canary.mark.exists()
    torch.load(path, weights_only=False)
    assert canary.mark.exists(), "the test's canary must be able to sing"


class SomeScheduler:
    """A class of a user's own."""


def test_an_unknown_class_is_named(tmp_path: Path) -> None:
    path = save_atlas(tmp_path, {"reader.a": torch.ones(1)}, scheduler=SomeScheduler())
    expected = f"names {SomeScheduler.__module__}.SomeScheduler, which no checkpoint"
    with pytest.raises(CheckpointError, match=re.escape(expected)):
        open_atlas_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, share: float) -> None:
    path = save_atlas(tmp_path, atlas_model())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        open_atlas_checkpoint(path)


def test_a_file_cut_while_it_is_read(tmp_path: Path) -> None:
    path = save_atlas(tmp_path, {"reader.a": torch.ones(100_000)})
    saved = open_atlas_checkpoint(path).parts[READER]["a"]
    os.truncate(path, 1000)
    with pytest.raises(CheckpointError, match="cut short while"):
        saved.read()


def test_damaged_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    path = save_atlas(tmp_path, {"reader.a": torch.ones(2)})
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        pickled = archive.read(name)
    content = bytearray(path.read_bytes())
    begin = content.index(pickled)
    for place in range(0, len(pickled), 3):
        changed = bytearray(content)
        changed[begin + place] ^= 0x15
        path.write_bytes(changed)
        try:
            for tensors in open_atlas_checkpoint(path).parts.values():
                [saved.read() for saved in tensors.values()]
        except CheckpointError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "no dict with the key 'model'"),
        ({"step": 1}, "no dict with the key 'model'"),
        ({"model": [1]}, "no dict with the key 'model'"),
        ({"model": {}}, "has no weights"),
        ({"model": {"encoder.a": torch.ones(1)}}, "unknown key 'encoder.a'"),
        ({"model": {3: torch.ones(1)}}, "unknown key 3"),
        ({"model": {"reader.a": "text"}}, "reader.a: expected a tensor"),
        ({"model": {"reader.a": torch.ones(1, dtype=torch.bool)}}, "BoolStorage, expected"),
        (
            {"model": {"reader.a": torch.ones(1), "reader.module.a": torch.ones(1)}},
            "twice, with and without",
        ),
        (
            {"model": {"retriever.query_contriever.a": torch.ones(1)}},
            "expected one retriever, tied or untied; found retriever.query_contriever",
        ),
        ({"model": {"reader.a": torch.ones(1).expand(2**40)}}, "in a storage of 1 numbers"),
    ],
)
def test_what_is_no_checkpoint_of_atlas(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "model.pth.tar")
    with pytest.raises(CheckpointError, match=re.escape(message)):
        open_atlas_checkpoint(tmp_path / "model.pth.tar")


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "model.pth.tar"
    path.write_bytes(pickle.dumps({"model": {}}))
    with pytest.raises(CheckpointError, match=r"expected a file of torch\.save"):
        open_atlas_checkpoint(path)
    torch.save({"model": {}}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"torch before 1\.6"):
        open_atlas_checkpoint(path)


def test_options_that_hold_odd_things(tmp_path: Path) -> None:
    shared = ["one", "two"]
    options = {
        "train_data": shared,
        "eval_data": shared,
        "best": float("-inf"),
        "device": torch.device("cuda", 1),
        "dtype": torch.float16,
        "nested": OrderedDict(a=1),
    }
    path = save_atlas(tmp_path, {"reader.a": torch.ones(1)}, options=options)
    found = open_atlas_checkpoint(path).options
    assert found["train_data"] == found["eval_data"] == shared
    assert found["best"] == float("-inf")
    assert found.keys().isdisjoint({"device", "dtype", "nested"})


def test_a_pickle_that_contains_itself_is_looked_up_only(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    path = save_atlas(tmp_path, {"reader.a": torch.ones(1)}, options={"loop": endless})
    assert "loop" not in open_atlas_checkpoint(path).options


def test_nothing_is_read_but_the_description(tmp_path: Path) -> None:
    path = save_atlas(tmp_path, {"retriever.contriever.a": torch.ones(1)})
    state = open_saved_state(path)
    assert state.content["step"] == 70
    model = atlas_model(query=tiny_bert(), passage=tiny_bert(1))
    parts = open_atlas_checkpoint(save_atlas(tmp_path, model)).parts
    assert parts.keys() == {
        READER,
        "retriever.query_contriever",
        "retriever.passage_contriever",
    }
