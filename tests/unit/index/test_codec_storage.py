from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from gazetteer.errors import IndexFileError
from gazetteer.files import CHECKSUM, file_digest, replace_vouched
from gazetteer.index import (
    Manifest,
    ShardedIndex,
    faiss_codec,
    load_rows,
    read_manifest,
    save_index,
    stored_files,
)
from gazetteer.index import manifest as manifests
from gazetteer.index.codec import CodecKind, CodecSettings
from gazetteer.index.codec_storage import StoredCodec
from gazetteer.index.compressor import Compressor
from gazetteer.records import Hits, Ranks
from tests.support.clusters import clustered, queries_near
from tests.support.identities import IDENTITY

pytest.importorskip("faiss")

KINDS = get_args(CodecKind)
COUNT, DIM, FILES = 700, 16, 3
VECTORS = clustered(COUNT, DIM)
QUERIES = queries_near(VECTORS, 10)


def compressor(folder: Path, kind: CodecKind = "ivfpq", **asked: int) -> Compressor:
    return Compressor(
        CodecSettings(kind=kind, **({"rescore": 0} | asked)),
        count=COUNT,
        dim=DIM,
        ranks=Ranks(),
        folder=folder / "vectors",
        show_progress=False,
    )


def save(folder: Path, kind: CodecKind = "ivfpq", *, seed: int = 0, **asked: int) -> ShardedIndex:
    builder = compressor(folder.parent, kind, **asked)
    index = ShardedIndex(COUNT, Ranks(), clustered(COUNT, DIM, seed=seed), build_shard=builder)
    save_index(index, folder, identity=IDENTITY, step=2, files=FILES, ranks=Ranks())
    return index


def load(folder: Path, kind: CodecKind = "ivfpq", **asked: int) -> ShardedIndex:
    index = ShardedIndex(COUNT, Ranks())
    index.adopt(compressor(folder.parent, kind, **asked).load(folder, read_manifest(folder)))
    return index


def hits(index: ShardedIndex) -> Hits:
    return index.search(QUERIES, 10)


def assert_same(found: ShardedIndex, expected: ShardedIndex) -> None:
    assert torch.equal(hits(found).rows, hits(expected).rows)
    assert torch.equal(hits(found).scores, hits(expected).scores)


def stored(folder: Path) -> StoredCodec:
    codec = read_manifest(folder).codec
    assert codec is not None
    return codec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_is_loaded_without_training(
    kind: CodecKind, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = save(folder, kind)
    monkeypatch.setattr(faiss_codec, "train_codec", None)
    if kind.endswith(("sq", "pq")):
        monkeypatch.setattr(faiss_codec, "add_rows", None)
    loaded = load(folder, kind)
    assert_same(loaded, index)
    assert torch.equal(loaded.embeddings, VECTORS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifest_names_codec_and_codes_and_no_other_files_stay(
    kind: CodecKind, folder: Path
) -> None:
    save(folder, "pq", seed=5)
    index = save(folder, kind)
    manifest, codec = read_manifest(folder), stored(folder)
    names = {file.name for file in manifest.all_files}
    assert {path.name for path in folder.iterdir()} == names | {"manifest.json"}
    assert codec.codec.kind == kind
    assert (folder / codec.quantiser.name).read_bytes() == index.shard.quantiser  # type: ignore[attr-defined]
    for file in manifest.all_files:
        assert (file.sha256, file.bytes) == file_digest(folder / file.name)
    if not kind.endswith(("sq", "pq")):
        assert codec.codes == ()
        return
    layout = [(file.first_row, file.rows) for file in manifest.files]
    assert [(file.first_row, file.rows) for file in codec.codes] == layout
    codes = torch.cat([load_file(folder / file.name)["codes"] for file in codec.codes])
    assert codes.numpy().tobytes() == index.shard.index.sa_encode(VECTORS.numpy()).tobytes()  # type: ignore[attr-defined]


def test_another_kind_than_was_saved_is_made_from_the_vectors_with_one_line(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(folder, "pq", code_size=4)
    caplog.set_level(logging.INFO)
    loaded = load(folder, "ivfsq", nlist=7)
    assert_same(loaded, save(folder, "ivfsq", nlist=7))
    line = "holds pq, 4 bytes; making ivfsq, 8 bytes, 7 lists from its vectors"
    assert sum(line in message for message in caplog.messages) == 1


@pytest.mark.parametrize(
    "asked", [{"code_size": 8}, {"nlist": 9}], ids=["another code size", "another nlist"]
)
def test_another_quantiser_of_the_same_kind_is_made_anew(
    asked: dict[str, int], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(folder)
    caplog.set_level(logging.INFO)
    loaded = load(folder, **asked)
    assert "making ivfpq" in caplog.text
    assert_same(loaded, save(folder, **asked))


def test_how_to_search_can_change_without_making_anything(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(folder, nlist=20, nprobe=1)
    caplog.set_level(logging.INFO)
    caplog.clear()
    loaded = load(folder, nlist=20, nprobe=20, rescore=100)
    assert caplog.messages == []
    assert_same(loaded, save(folder, nlist=20, nprobe=20, rescore=100))


def test_flat_indexes_are_compressed_and_compressed_ones_searched_exactly(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    flat = ShardedIndex(COUNT, Ranks(), VECTORS)
    save_index(flat, folder, identity=IDENTITY, step=2, files=FILES, ranks=Ranks())
    assert read_manifest(folder).codec is None
    loaded = load(folder)
    assert "holds no codes; making ivfpq" in caplog.text
    assert_same(loaded, save(folder))
    vectors = load_rows(folder, read_manifest(folder), range(COUNT))
    assert_same(ShardedIndex(COUNT, Ranks(), vectors), flat)


def test_an_index_saved_before_there_were_codes_is_read(folder: Path) -> None:
    flat = ShardedIndex(COUNT, Ranks(), VECTORS)
    save_index(flat, folder, identity=IDENTITY, step=2, files=FILES, ranks=Ranks())
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    document.pop("codec")
    rewrite(path, document)
    assert read_manifest(folder).codec is None


def rewrite(path: Path, document: dict[str, Any]) -> None:
    """A manifest with another content whose checksum is right."""
    document.pop("checksum", None)
    document.pop(CHECKSUM, None)
    replace_vouched(path, document)


# ---- damage


@pytest.mark.parametrize("kind", ["ivfpq", "pqfs"])
@pytest.mark.parametrize("place", [0, 3, 4, 60, -1], ids="byte {}".format)
def test_a_flipped_bit_is_found_before_faiss_reads_anything(
    kind: CodecKind, place: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder, kind)
    path = folder / stored(folder).quantiser.name
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(faiss_codec, "read_codec", None)
    with pytest.raises(IndexFileError, match=rf"^{path}: SHA-256 \w+, the manifest says \w+$"):
        load(folder, kind)


@pytest.mark.parametrize("number", range(FILES))
@pytest.mark.parametrize("place", [0, 8, 90, -1], ids="byte {}".format)
def test_a_flipped_bit_in_any_file_of_codes_is_found(number: int, place: int, folder: Path) -> None:
    save(folder)
    path = folder / stored(folder).codes[number].name
    content = bytearray(path.read_bytes())
    content[place] ^= 16
    path.write_bytes(content)
    with pytest.raises(IndexFileError, match=rf"^{path}: SHA-256"):
        load(folder)


def test_missing_and_short_files_are_named(folder: Path) -> None:
    save(folder)
    codec = stored(folder)
    for file in codec.files:
        path = folder / file.name
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(IndexFileError, match=rf"^{path}: {len(content) - 1} bytes, "):
            load(folder)
        path.unlink()
        with pytest.raises(IndexFileError, match=rf"^{path}: missing"):
            load(folder)
        path.write_bytes(content)
    load(folder)


def with_file(folder: Path, number: int | None, path: Path) -> Manifest:
    """The manifest, naming another file with its right hash; None stands for the quantiser."""
    manifest, codec = read_manifest(folder), stored(folder)
    digest, size = file_digest(path)
    changes = {"name": path.name, "bytes": size, "sha256": digest}
    if number is None:
        codec = replace(codec, quantiser=replace(codec.quantiser, **changes))
    else:
        codes = list(codec.codes)
        codes[number] = replace(codes[number], **changes)
        codec = replace(codec, codes=tuple(codes))
    return replace(manifest, codec=codec)


def test_a_quantiser_of_another_kind_is_refused_though_its_hash_is_right(folder: Path) -> None:
    save(folder)
    other = save(folder.parent / "other", "pq")
    (folder / "other").write_bytes(other.shard.quantiser)  # type: ignore[attr-defined]
    manifest = with_file(folder, None, folder / "other")
    with pytest.raises(
        IndexFileError, match=rf"^{folder}/other: begins with b'IxPq', not as ivfpq"
    ):
        compressor(folder.parent).load(folder, manifest)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"codes": torch.zeros(300, 4, dtype=torch.uint8)}, r"shape \(233, 4\); ivfpq"),
        ({"codes": torch.zeros(200, 3, dtype=torch.uint8)}, "200 rows, expected 233 or more"),
        ({"codes": torch.zeros(233, 3)}, "codes of torch.float32"),
        ({"codes": torch.zeros(233, dtype=torch.uint8)}, r"shape \(233,\); ivfpq"),
        ({"codes": torch.full((233, 3), 200, dtype=torch.uint8)}, "a row in list 200 of 26"),
        ({"vectors": torch.zeros(233, 3, dtype=torch.uint8)}, "codes"),
    ],
)
def test_codes_that_are_none_are_refused_though_their_hash_is_right(
    tensors: dict[str, torch.Tensor], message: str, folder: Path
) -> None:
    save(folder, code_size=2)
    save_file(tensors, folder / "other")
    manifest = with_file(folder, 0, folder / "other")
    with pytest.raises(IndexFileError, match=rf"^{folder}/other: .*{message}"):
        compressor(folder.parent, code_size=2).load(folder, manifest)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("codec", "kind"), "hnsw", "field 'codec.codec.kind': found the string .hnsw."),
        (("quantiser", "name"), "../codec.faiss", "'../codec.faiss' is not the name of a file"),
        (("codes", 1, "name"), "/etc/passwd", "'/etc/passwd' is not the name of a file"),
        (("codes", 1, "rows"), 5, "codes: rows 238..465 are in no file"),
        (("codes",), [], None),
        (("codec",), {}, "damaged manifest"),
        (("codes",), None, "damaged manifest"),
    ],
)
def test_a_manifest_whose_codes_do_not_add_up_is_refused(
    path: tuple[Any, ...], value: object, message: str | None, folder: Path
) -> None:
    index = save(folder)
    document = json.loads((folder / "manifest.json").read_text())
    target = document["codec"]
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    rewrite(folder / "manifest.json", document)
    if message is None:
        # Codes are a convenience: without them rows are encoded anew by the same quantiser.
        assert_same(load(folder), index)
        return
    with pytest.raises(IndexFileError, match=f"^{folder}/manifest.json: .*{message}"):
        read_manifest(folder)


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_kill_at_any_point_leaves_one_whole_version(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [10**9]

    def counting(function: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return function(*args, **kwargs)

        return counted

    for owner, name in [
        (stored_files, "write_tensors"),
        (os, "fsync"),
        (manifests, "replace_vouched"),
        (stored_files, "write_hashed"),
        (Path, "replace"),
        (Path, "unlink"),
    ]:
        monkeypatch.setattr(owner, name, counting(getattr(owner, name)))
    old, seen = save(folder, seed=1), []
    new_rows = clustered(COUNT, DIM, seed=2)
    for survived in range(100):
        left[0] = 10**9
        save(folder, seed=1)
        left[0] = survived
        try:
            save(folder, "sq", seed=2)
        except Killed:
            left[0] = 10**9
            kind = stored(folder).codec.kind
            seen.append(kind)
            loaded = load(folder, kind)
            if kind == "ivfpq":
                assert_same(loaded, old)
            assert torch.equal(loaded.embeddings, old.embeddings if kind == "ivfpq" else new_rows)
        else:
            break
    assert seen == sorted(seen)
    assert seen.count("ivfpq") >= 6 * FILES
    assert seen.count("sq") >= 2 * FILES
