"""The manifest of a saved index: what it holds, what made it, and the hashes of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gazetteer.errors import IndexFileError
from gazetteer.files import replace_json
from gazetteer.index.codec_storage import StoredCodec
from gazetteer.index.stored_files import IndexFile, StoredFile

MANIFEST = "manifest.json"
FORMAT = "gazetteer-index"
FORMAT_VERSION = 1
CHECKSUM = "manifest_sha256"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderIdentity:
    """Everything that decides what vector a passage gets."""

    weights: str
    tokenizer: str
    template: str
    pooling: str
    normalize: bool
    max_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexIdentity:
    """What an index was made from: the passages and the encoder.

    Attributes:
        corpus: fingerprint of the passages and their order.
        encoder: what embedded them.
    """

    corpus: str
    encoder: EncoderIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a saved index says about itself.

    Attributes:
        count: passages.
        embedding_dim: of their vectors.
        step: training step at which they were embedded.
        identity: what they were made from.
        files: of vectors.
        codec: of a compressed index.
        rounded: files of the same rows rounded to int8, for the first pass of an exact search;
            none where they are made as fast as they are read.
    """

    count: int
    embedding_dim: int
    step: int
    identity: IndexIdentity
    files: tuple[IndexFile, ...]
    codec: StoredCodec | None = None
    rounded: tuple[IndexFile, ...] = ()

    @property
    def all_files(self) -> tuple[StoredFile, ...]:
        """Every file of this version but the manifest."""
        return (*self.files, *self.rounded, *(self.codec.files if self.codec else ()))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make a version the one that the folder shows, in one move."""
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(manifest)}
    replace_json(folder / MANIFEST, document | {CHECKSUM: _checksum(document)})


def _checksum(document: dict[str, Any]) -> str:
    """SHA-256 of a manifest's content, however it is laid out."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest (not the vectors).

    Raises:
        IndexFileError: there is none, or it is not one of ours, or its files do not cover all rows.
    """
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise IndexFileError(f"{folder}: no saved index here ({MANIFEST} is missing)") from None
    except (ValueError, RecursionError) as error:
        raise IndexFileError(f"{path}: not a readable manifest ({error})") from None
    try:
        kind = document["format"], document["format_version"]
        if kind != (FORMAT, FORMAT_VERSION):
            raise IndexFileError(
                f"{path}: found {kind[0]} version {kind[1]}, "
                f"expected {FORMAT} version {FORMAT_VERSION}"
            )
        manifest = _parse_manifest(document)
        problem = _uncovered_rows(manifest)
        expected = document.pop(CHECKSUM)
        if problem is None and expected != _checksum(document):
            problem = f"damaged manifest (its content is not what its {CHECKSUM} vouches for)"
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise IndexFileError(f"{path}: damaged manifest ({_describe(error)})") from None
    if problem is not None:
        raise IndexFileError(f"{path}: {problem}")
    return manifest


def _describe(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _parse_manifest(document: dict[str, Any]) -> Manifest:
    identity = document["identity"]
    return Manifest(
        count=int(document["count"]),
        embedding_dim=int(document["embedding_dim"]),
        step=int(document["step"]),
        identity=IndexIdentity(
            corpus=identity["corpus"], encoder=EncoderIdentity(**identity["encoder"])
        ),
        files=tuple(IndexFile.parse(file) for file in document["files"]),
        codec=None if document.get("codec") is None else StoredCodec.parse(document["codec"]),
        rounded=tuple(IndexFile.parse(file) for file in document.get("rounded", ())),
    )


def _uncovered_rows(manifest: Manifest) -> str | None:
    """What keeps the files from holding each row once, or None."""
    codes = manifest.codec.codes if manifest.codec else ()
    # Those two may be absent: they are made of the vectors.
    optional = {"codes: ": codes, "rounded vectors: ": manifest.rounded}
    for name, files in {"": manifest.files, **{n: f for n, f in optional.items() if f}}.items():
        problem = _uncovered(files, manifest.count)
        if problem is not None:
            return name + problem
    return None


def _uncovered(files: Sequence[IndexFile], count: int) -> str | None:
    position = 0
    for first_row, rows in sorted((file.first_row, file.rows) for file in files):
        if first_row > position:
            return f"rows {position}..{first_row - 1} are in no file"
        if first_row < position:
            return f"rows {first_row}..{position - 1} are in two files"
        position += rows
    if position != count:
        return f"files hold {position} rows, expected {count}"
    return None


def identity_mismatches(found: IndexIdentity, expected: IndexIdentity) -> list[str]:
    """Each way in which a saved index differs from model and corpus in use, both values named."""
    pairs = [("corpus", found.corpus, expected.corpus)]
    pairs += [
        (f"encoder {name}", value, getattr(expected.encoder, name))
        for name, value in asdict(found.encoder).items()
    ]
    return [f"{name}: index has {a}, in use is {b}" for name, a, b in pairs if a != b]
