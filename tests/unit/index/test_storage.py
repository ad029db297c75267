from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gazetteer.errors import IndexFileError
from gazetteer.files import file_digest
from gazetteer.index import (
    EncoderIdentity,
    IndexIdentity,
    ShardedIndex,
    identity_mismatches,
    load_rows,
    read_manifest,
    save_index,
    stored_files,
)
from gazetteer.index import manifest as manifests
from gazetteer.records import Ranks

COUNT, DIM, FILES = 11, 4, 3
IDENTITY = IndexIdentity(
    corpus="corpus-1",
    encoder=EncoderIdentity(
        weights="weights-1",
        tokenizer="tokenizer-1",
        template="{title} {text}",
        pooling="mean",
        normalize=False,
        max_tokens=64,
    ),
)


def vectors(seed: int = 0, count: int = COUNT) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def save(folder: Path, embeddings: Tensor, **changes: Any) -> None:
    settings = {"identity": IDENTITY, "step": 20, "files": FILES} | changes
    save_index(
        ShardedIndex(len(embeddings), Ranks(), embeddings), folder, ranks=Ranks(), **settings
    )


def load(folder: Path) -> Tensor:
    manifest = read_manifest(folder)
    return load_rows(folder, manifest, range(manifest.count))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tmp_path / "index", vectors())
    return tmp_path / "index"


@pytest.mark.parametrize("count", [0, 1, 11])
@pytest.mark.parametrize("files", [1, 3, 20])
def test_any_rows_come_back_bit_for_bit(count: int, files: int, tmp_path: Path) -> None:
    embeddings = vectors(count=count)
    save(tmp_path, embeddings, files=files)
    manifest = read_manifest(tmp_path)
    assert (manifest.count, manifest.embedding_dim, manifest.step) == (count, DIM, 20)
    assert manifest.identity == IDENTITY
    assert len(manifest.files) == files
    for start in range(count + 1):
        for stop in range(start, count + 1):
            rows = load_rows(tmp_path, manifest, range(start, stop))
            assert torch.equal(rows, embeddings[start:stop])


def test_files_hold_nothing_but_their_rows(saved: Path) -> None:
    for file in read_manifest(saved).files:
        tensors = load_file(saved / file.name)
        assert list(tensors) == ["embeddings"]
        expected = vectors()[file.first_row : file.first_row + file.rows]
        assert torch.equal(tensors["embeddings"], expected)
        assert file.bytes == (saved / file.name).stat().st_size < DIM * 4 * file.rows + 200


def test_only_files_and_manifest_stay(saved: Path) -> None:
    names = {file.name for file in read_manifest(saved).files}
    assert {path.name for path in saved.iterdir()} == names | {"manifest.json"}


@pytest.mark.parametrize("number", range(FILES))
@pytest.mark.parametrize("place", [0, 7, 8, 40, -1], ids="byte {}".format)
def test_a_flipped_bit_in_a_file_is_found(number: int, place: int, saved: Path) -> None:
    path = saved / read_manifest(saved).files[number].name
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(IndexFileError, match=rf"^{path}: SHA-256 \w+, the manifest says \w+$"):
        load(saved)


@pytest.mark.parametrize("size", [0, 5, -1])
def test_a_file_cut_short_is_found(size: int, saved: Path) -> None:
    path = saved / read_manifest(saved).files[1].name
    content = path.read_bytes()
    path.write_bytes(content[:size])
    sizes = rf"{len(content[:size])} bytes, the manifest says {len(content)}"
    with pytest.raises(IndexFileError, match=rf"^{path}: {sizes}$"):
        load(saved)


def test_a_missing_file_is_found_where_it_is_needed(saved: Path) -> None:
    manifest = read_manifest(saved)
    missing = manifest.files[1]
    (saved / missing.name).unlink()
    with pytest.raises(IndexFileError, match=rf"{missing.name}: missing"):
        load_rows(saved, manifest, range(COUNT))
    rows = range(missing.first_row)
    assert torch.equal(load_rows(saved, manifest, rows), vectors()[: len(rows)])


def test_a_file_without_vectors_is_refused_though_its_hash_is_right(saved: Path) -> None:
    manifest = read_manifest(saved)
    (saved / "notes").write_text("no vectors here")
    digest, size = file_digest(saved / "notes")
    file = replace(manifest.files[0], name="notes", bytes=size, sha256=digest)
    with pytest.raises(IndexFileError, match="notes: "):
        load_rows(saved, replace(manifest, files=(file,)), range(2))


def test_every_flipped_bit_in_the_manifest_is_found(saved: Path) -> None:
    path = saved / "manifest.json"
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(IndexFileError, match=rf"^{path}: [^\n]+$"):
            read_manifest(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable manifest"),
        (b'{"format": ', "not a readable manifest"),
        (b"\xff\xfe", "not a readable manifest"),
        (b"[]", "damaged manifest"),
        (b"null", "damaged manifest"),
        (b"{}", "damaged manifest .field 'format' is missing"),
        (b'{"files": {"model.safetensors": {}}}', "damaged manifest .field 'format' is missing"),
    ],
)
def test_what_is_no_manifest_is_refused(content: bytes, message: str, saved: Path) -> None:
    (saved / "manifest.json").write_bytes(content)
    with pytest.raises(IndexFileError, match=f"^{saved}/manifest.json: {message}"):
        read_manifest(saved)


def change(*path: str | int, value: object) -> Callable[[Any], None]:
    def apply(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("format", value="faiss"), "'format': found the string .faiss., expected gaz"),
        (change("format_version", value=2), "'format_version': found the number 2, expected 1"),
        (lambda document: document.pop("identity"), "'identity' is missing"),
        (lambda document: document["files"].pop(1), "rows 3..6 are in no file"),
        (lambda document: document["files"].pop(), "files hold 7 rows, expected 11"),
        (change("files", 1, "first_row", value=2), "rows 2..2 are in two files"),
        (change("files", 1, "rows", value="4"), "damaged manifest"),
        (change("files", value=5), "damaged manifest"),
        (change("files", 0, value=[]), "damaged manifest"),
        (change("files", 0, "name", value="../stolen"), "'../stolen' is not the name of a file"),
        (change("files", 0, "name", value=3), "damaged manifest"),
        (change("count", value="many"), "damaged manifest"),
        (change("count", value=None), "damaged manifest"),
        (change("identity", "encoder", "weight", value="x"), "damaged manifest"),
        (change("identity", "encoder", value="x"), "damaged manifest"),
        (change("embedding_dim", value=5), "not what its manifest_sha256 vouches for"),
        (change("step", value=21), "not what its manifest_sha256 vouches for"),
        (change("identity", "corpus", value="c"), "not what its manifest_sha256 vouches for"),
        (lambda document: document.pop("manifest_sha256"), "'manifest_sha256' is missing"),
    ],
)
def test_a_manifest_that_does_not_add_up_is_refused(
    edit: Callable[[Any], None], message: str, saved: Path
) -> None:
    path = saved / "manifest.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(IndexFileError, match=f"^{saved}/.*{message}"):
        load(saved)


def test_a_vector_file_with_one_number_each_does_not_fill_wider_rows(tmp_path: Path) -> None:
    save(tmp_path, vectors()[:, :1])
    wider = replace(read_manifest(tmp_path), embedding_dim=3)
    with pytest.raises(IndexFileError, match=r"vectors of shape .1,., the manifest says 3"):
        load_rows(tmp_path, wider, range(COUNT))


def test_a_folder_without_manifest_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexFileError, match=r"no saved index here \(manifest.json is missing\)"):
        read_manifest(tmp_path)


def test_the_same_identity_has_no_mismatches(saved: Path) -> None:
    assert identity_mismatches(read_manifest(saved).identity, IDENTITY) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weights", "weights-2"),
        ("tokenizer", "tokenizer-2"),
        ("template", "{text}"),
        ("pooling", "cls"),
        ("normalize", True),
        ("max_tokens", 65),
    ],
)
def test_every_difference_of_the_encoder_names_both_values(
    field: str, value: Any, saved: Path
) -> None:
    encoder = replace(IDENTITY.encoder, **{field: value})
    expected = IndexIdentity(corpus="corpus-2", encoder=encoder)
    assert identity_mismatches(read_manifest(saved).identity, expected) == [
        "corpus: index has corpus-1, in use is corpus-2",
        f"encoder {field}: index has {getattr(IDENTITY.encoder, field)}, in use is {value}",
    ]


class Killed(BaseException):
    """Stands for the end of the process."""


class Killer:
    """Ends the process at the n-th thing it does to the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 10**9
        for owner, name in [
            (stored_files, "write_tensors"),
            (os, "fsync"),
            (manifests, "replace_vouched"),
            (Path, "replace"),
            (Path, "unlink"),
        ]:
            monkeypatch.setattr(owner, name, self._counting(getattr(owner, name)))

    def _counting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return function(*args, **kwargs)

        return counted


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 40},
        {"files": FILES + 2},
        {"identity": replace(IDENTITY, corpus="corpus-2")},
    ],
    ids=["later step", "other layout", "other corpus"],
)
def test_a_kill_at_any_point_leaves_one_whole_version(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = vectors(seed=1), vectors(seed=2)
    killer = Killer(monkeypatch)
    seen = []
    for survived in range(100):
        killer.left = 10**9
        save(tmp_path, old)
        killer.left = survived
        try:
            save(tmp_path, new, **changes)
        except Killed:
            loaded = load(tmp_path)
            seen.append("old" if torch.equal(loaded, old) else "new")
            assert torch.equal(loaded, old if seen[-1] == "old" else new)
        else:
            break
    assert torch.equal(load(tmp_path), new)
    # All writing comes before the switch, all removing after it.
    assert seen == sorted(seen, reverse=True)
    assert seen.count("old") >= 3 * FILES
    assert seen.count("new") >= FILES


def test_what_a_killed_save_left_is_removed_by_the_next(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        killer = Killer(patch)
        killer.left = 4
        with pytest.raises(Killed):
            save(saved, vectors(seed=2), files=9)
    assert any(path.suffix == ".part" for path in saved.iterdir())
    (saved / "notes.txt").write_text("somebody's own")
    save(saved, vectors(seed=3))
    names = {file.name for file in read_manifest(saved).files}
    assert {path.name for path in saved.iterdir()} == names | {"manifest.json", "notes.txt"}
