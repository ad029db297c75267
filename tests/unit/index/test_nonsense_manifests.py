"""A manifest whose checksum is right and whose content is not: every field is looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gazetteer.errors import IndexFileError
from gazetteer.files import replace_vouched
from gazetteer.index import read_manifest
from gazetteer.index.__main__ import main
from gazetteer.index.codec import Codec
from gazetteer.index.codec_storage import StoredCodec
from gazetteer.index.manifest import Manifest, write_manifest
from gazetteer.index.stored_files import IndexFile, StoredFile
from tests.support.identities import IDENTITY

COUNT = 300
PLAIN: dict[type, list[Any]] = {
    int: [None, "x", "7", -1, 1.0, True, [], {}],
    str: [None, 3, True, [], {}],
    bool: [None, 0, "true", []],
    list: [None, 3, "x", {}, [3], ["x"], [None], [{}]],
    dict: [3, "x", True, [], {}],
}
"""What is wrong in place of a value of each type."""


def rows(name: str) -> tuple[IndexFile, ...]:
    return tuple(
        IndexFile(name=f"{name}.{first}", bytes=9, sha256="ab", first_row=first, rows=150)
        for first in (0, 150)
    )


MANIFEST = Manifest(
    count=COUNT,
    embedding_dim=8,
    step=3,
    identity=IDENTITY,
    files=rows("embeddings"),
    codec=StoredCodec(
        codec=Codec(kind="ivfpq", dim=8, code_size=4, nlist=2),
        quantiser=StoredFile(name="codec", bytes=9, sha256="ab"),
        codes=rows("codes"),
    ),
    rounded=rows("rounded"),
)


def places(document: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where there is something in a document, outermost first."""
    members = document.items() if isinstance(document, dict) else enumerate(document)
    for key, member in members:
        yield (*path, key)
        if isinstance(member, dict | list):
            yield from places(member, (*path, key))


def at(document: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        document = document[key]
    return document


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Any]:
    write_manifest(tmp_path, MANIFEST)
    return json.loads((tmp_path / "manifest.json").read_text())


def rewrite(folder: Path, document: dict[str, Any]) -> None:
    """With the checksum that belongs to it."""
    document = {name: value for name, value in document.items() if name != "manifest_sha256"}
    replace_vouched(folder / "manifest.json", document)


def problem(folder: Path) -> str:
    with pytest.raises(IndexFileError) as caught:
        read_manifest(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'manifest.json'}: ")
    assert len(message.splitlines()) == 1 and message.isprintable()
    return message


def test_it_comes_back_as_it_was(tmp_path: Path, written: dict[str, Any]) -> None:
    rewrite(tmp_path, written)
    assert read_manifest(tmp_path) == MANIFEST
    del written["codec"], written["rounded"]
    rewrite(tmp_path, written)
    assert read_manifest(tmp_path).all_files == MANIFEST.files


def test_every_field_of_another_type_is_named(tmp_path: Path, written: dict[str, Any]) -> None:
    tried = 0
    for path in places({n: value for n, value in written.items() if "manifest" not in n}):
        right = at(written, path)
        for wrong in PLAIN[type(right)]:
            document = json.loads(json.dumps(written))
            at(document, path[:-1])[path[-1]] = wrong
            rewrite(tmp_path, document)
            if path == ("codec",) and wrong is None:
                continue
            assert f"field '{'.'.join(map(str, path))}" in problem(tmp_path), wrong
            tried += 1
    assert tried > 300


def test_every_missing_and_every_unknown_field_is_named(
    tmp_path: Path, written: dict[str, Any]
) -> None:
    for path in places(written):
        if isinstance(path[-1], int) or path in [("codec",), ("rounded",), ("manifest_sha256",)]:
            continue
        document = json.loads(json.dumps(written))
        holder, name = at(document, path[:-1]), ".".join(map(str, path))
        del holder[path[-1]]
        rewrite(tmp_path, document)
        if path != ("codec", "codes"):
            assert f"field '{name}' is missing" in problem(tmp_path)
        holder |= {path[-1]: at(written, path), "and\nmore": 1}
        rewrite(tmp_path, document)
        of = f" of {'.'.join(map(str, path[:-1]))}" if path[1:] else ""
        assert rf'field "and\nmore"{of} is unknown' in problem(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("embedding_dim",), 0, "field 'embedding_dim': found 0, expected at least 1"),
        (("codec", "codec", "dim"), 9, "field 'codec.codec.dim': found 9, expected 8, as the"),
        (("codec", "codec", "code_size"), 3, "'codec.codec.code_size': found 3, which ivfpq can"),
        (("codec", "codec", "nlist"), 0, "field 'codec.codec.nlist': found 0, which ivfpq cannot"),
        (("codec", "codec", "kind"), "hnsw", "'codec.codec.kind': found the string \"hnsw\", exp"),
        (("files", 1, "name"), "..", "field 'files.1': '..' is not the name of a file in the fo"),
        (("files", 1, "name"), "", "field 'files.1': '' is not the name of a file"),
        (("codec", "quantiser", "name"), "a/b", "field 'codec.quantiser': 'a/b' is not the name"),
        (("rounded", 0, "rows"), 151, "rounded vectors: rows 150..150 are in two files"),
        (("count",), 299, "files hold 300 rows, expected 299"),
    ],
)
def test_what_cannot_be_is_named(
    tmp_path: Path, written: dict[str, Any], path: tuple[str | int, ...], value: Any, expected: str
) -> None:
    at(written, path[:-1])[path[-1]] = value
    rewrite(tmp_path, written)
    assert expected in problem(tmp_path)


def test_the_tool_says_so_in_one_line(
    tmp_path: Path, written: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    written["identity"]["encoder"]["max_tokens"] = "x"
    rewrite(tmp_path, written)
    expected = (
        f"{tmp_path / 'manifest.json'}: damaged manifest (field 'identity.encoder.max_tokens': "
        'found the string "x", expected a whole number of at least 0)\n'
    )
    assert main(["verify", str(tmp_path), "--no_progress"]) == 2
    assert capsys.readouterr().out == expected
    assert main(["info", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"gazetteer.index: error: {expected}"
