"""The manifest of a saved index: what it holds, what made it, and the hashes of its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gazetteer.data.jsonl import describe
from gazetteer.errors import IndexFileError
from gazetteer.files import CHECKSUM, MANIFEST, replace_vouched, vouched_text
from gazetteer.index.codec import allowed_code_sizes
from gazetteer.index.codec_storage import StoredCodec
from gazetteer.index.stored_files import IndexFile, StoredFile
from gazetteer.index.strict_records import parse_record

FORMAT = "gazetteer-index"
FORMAT_VERSION = 1


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
    replace_vouched(folder / MANIFEST, document)


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest (not the vectors).

    Raises:
        IndexFileError: there is none, or it is not one of ours, or a field is not what it should
            be, or its files do not cover all rows.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes().decode()
        document = json.loads(text)
    except FileNotFoundError:
        raise IndexFileError(f"{folder}: no saved index here ({MANIFEST} is missing)") from None
    except NotADirectoryError:
        raise IndexFileError(f"{folder}: found a file, expected the folder of an index") from None
    except OSError as error:
        raise IndexFileError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise IndexFileError(f"{path}: not a readable manifest ({error})") from None
    try:
        manifest = _parse_manifest(document)
    except ValueError as error:
        raise IndexFileError(f"{path}: damaged manifest ({error})") from None
    problem = _inconsistency(manifest)
    del document[CHECKSUM]
    if problem is None and text != vouched_text(document):
        problem = f"damaged manifest (its content is not what its {CHECKSUM} vouches for)"
    if problem is not None:
        raise IndexFileError(f"{path}: {problem}")
    return manifest


def _parse_manifest(document: Any) -> Manifest:  # noqa: ANN401 - any JSON
    """Check every field. Raises ValueError that names one."""
    if not isinstance(document, dict):
        raise ValueError(f"found {describe(document)}, expected an object")
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, CHECKSUM: None}
    for name, expected in head.items():
        if name not in document:
            raise ValueError(f"field '{name}' is missing")
        found = document[name]
        if expected is not None and (type(found), found) != (type(expected), expected):
            raise ValueError(f"field '{name}': found {describe(found)}, expected {expected}")
    return parse_record(Manifest, {n: value for n, value in document.items() if n not in head})


def _inconsistency(manifest: Manifest) -> str | None:
    """What in a manifest contradicts what else is in it, or None."""
    if manifest.embedding_dim < 1:
        return "field 'embedding_dim': found 0, expected at least 1"
    if manifest.codec is not None:
        codec = manifest.codec.codec
        if codec.dim != manifest.embedding_dim:
            expected = f"expected {manifest.embedding_dim}, as the vectors have"
            return f"field 'codec.codec.dim': found {codec.dim}, {expected}"
        for name, value, is_right in (
            (
                "code_size",
                codec.code_size,
                codec.code_size in allowed_code_sizes(codec.kind, codec.dim),
            ),
            ("nlist", codec.nlist, codec.has_lists == (codec.nlist > 0)),
        ):
            if not is_right:
                return f"field 'codec.codec.{name}': found {value}, which {codec.kind} cannot have"
    return _uncovered_rows(manifest)


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
