"""A saved index: raw vectors in safetensors and one manifest that vouches for them.

The manifest is written last and replaced atomically, so a folder always shows one whole version.
Files name their row ranges, so any number of workers loads what any other number saved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gazetteer.distributed.agreement import main_first
from gazetteer.distributed.collectives import barrier, gather_bytes
from gazetteer.errors import IndexFileError
from gazetteer.files import replace_json
from gazetteer.index.codec_storage import (
    CODES,
    QUANTISER,
    StoredCodec,
    save_codes,
    save_quantiser,
)
from gazetteer.index.compressed import CompressedShard
from gazetteer.index.search import ShardedIndex
from gazetteer.index.shards import overlap, shard_range
from gazetteer.index.stored_files import IndexFile, StoredFile, write_rows
from gazetteer.records import Ranks

MANIFEST = "manifest.json"
FORMAT = "gazetteer-index"
FORMAT_VERSION = 1
TENSOR = "embeddings"
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
    """

    count: int
    embedding_dim: int
    step: int
    identity: IndexIdentity
    files: tuple[IndexFile, ...]
    codec: StoredCodec | None = None

    @property
    def all_files(self) -> tuple[StoredFile, ...]:
        """Every file of this version but the manifest."""
        return (*self.files, *(self.codec.files if self.codec else ()))


def save_index(
    index: ShardedIndex,
    folder: Path,
    *,
    identity: IndexIdentity,
    step: int,
    files: int,
    ranks: Ranks,
) -> None:
    """Write the index; an earlier version in the same folder serves until this one is whole.

    Collective: every rank must call this.

    Args:
        index: filled on every rank.
        folder: created if missing; shared by all ranks.
        identity: what the vectors were made from.
        step: training step (in the unit of the flags) at which they were embedded.
        files: number of files in all (`--save_index_n_shards`); at least one per rank is written.
        ranks: this process among its peers.
    """
    main_first(lambda: folder.mkdir(parents=True, exist_ok=True), ranks)
    mine = shard_range(max(files, ranks.world_size), ranks.rank, ranks.world_size)
    layout = {n: shard_range(len(index.rows), i, len(mine)) for i, n in enumerate(mine)}
    written = []
    for number, local in layout.items():
        vectors = index.embeddings[local.start : local.stop]
        first_row = index.rows.start + local.start
        stem = folder / f"{TENSOR}.{number:05d}"
        written.append(write_rows(stem, TENSOR, vectors, first_row))
    listed = _listed_by_all(written)
    shard, codec = index.shard, None
    if isinstance(shard, CompressedShard):
        codes = _listed_by_all(save_codes(shard, folder, layout, index.rows.start))
        if ranks.is_main:
            codec = StoredCodec(
                codec=shard.codec, quantiser=save_quantiser(shard, folder), codes=codes
            )
    if ranks.is_main:
        manifest = Manifest(
            count=index.count,
            embedding_dim=index.embeddings.shape[1],
            step=step,
            identity=identity,
            files=listed,
            codec=codec,
        )
        _publish(folder, manifest)
    barrier()


def _listed_by_all(written: Sequence[IndexFile]) -> tuple[IndexFile, ...]:
    """The files that all ranks wrote, on rank 0; none elsewhere. Collective."""
    gathered = gather_bytes(json.dumps([asdict(file) for file in written]).encode())
    return tuple(IndexFile(**file) for part in gathered or [] for file in json.loads(part))


def save_rows(
    parts: Iterable[Float[Tensor, "row dim"]],
    folder: Path,
    *,
    identity: IndexIdentity,
    step: int,
    embedding_dim: int,
    codec: StoredCodec | None = None,
) -> None:
    """Write an index from a stream of its rows, one file for each part, in whatever dtype they are.

    Not a collective: for one process, such as a tool. Holds one part in memory.

    Args:
        parts: vectors in order of row.
        folder: created if missing.
        identity: what the vectors were made from.
        step: when.
        embedding_dim: of the vectors.
        codec: of a compressed index; its files are in the folder already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, first_row = [], 0
    for number, vectors in enumerate(parts):
        stem = folder / f"{TENSOR}.{number:05d}"
        written.append(write_rows(stem, TENSOR, vectors, first_row))
        first_row += len(vectors)
    manifest = Manifest(
        count=first_row,
        embedding_dim=embedding_dim,
        step=step,
        identity=identity,
        files=tuple(written),
        codec=codec,
    )
    _publish(folder, manifest)


def _publish(folder: Path, manifest: Manifest) -> None:
    """Make this version the one that the folder shows, and remove what the last one left."""
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(manifest)}
    replace_json(folder / MANIFEST, document | {CHECKSUM: _checksum(document)})
    _remove_other_versions(folder, keep={file.name for file in manifest.all_files})


def _checksum(document: dict[str, Any]) -> str:
    """SHA-256 of a manifest's content, however it is laid out."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _remove_other_versions(folder: Path, keep: set[str]) -> None:
    for prefix in (TENSOR, CODES, QUANTISER):
        for path in folder.glob(f"{prefix}.*"):
            if path.name not in keep:
                path.unlink()


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
    except ValueError as error:
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
    )


def _uncovered_rows(manifest: Manifest) -> str | None:
    """What keeps the files from holding each row once, or None."""
    problem = _uncovered(manifest.files, manifest.count)
    if problem is None and manifest.codec is not None and manifest.codec.codes:
        problem = _uncovered(manifest.codec.codes, manifest.count)
        return None if problem is None else f"codes: {problem}"
    return problem


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


def load_rows(
    folder: Path,
    manifest: Manifest,
    rows: range,
    *,
    out: Float[Tensor, "row dim"] | None = None,
) -> Float[Tensor, "row dim"]:
    """Vectors of a contiguous range of rows, on the CPU, each file checked against its hash.

    Args:
        folder: of the index.
        manifest: its manifest.
        rows: contiguous.
        out: where to put them, such as a memory map; one file at a time is in memory.

    Raises:
        IndexFileError: a file is missing, truncated or differs from its hash.
    """
    result = torch.empty(len(rows), manifest.embedding_dim) if out is None else out
    for file in manifest.files:
        shared = overlap(range(file.first_row, file.first_row + file.rows), rows)
        if len(shared) == 0:
            continue
        file.verify(folder)
        local = slice(shared.start - file.first_row, shared.stop - file.first_row)
        try:
            with safe_open(folder / file.name, framework="pt") as tensors:
                part = tensors.get_slice(TENSOR)[local]
        except SafetensorError as error:
            raise IndexFileError(f"{folder / file.name}: {error}") from None
        if part.shape[1:] != result.shape[1:]:
            raise IndexFileError(
                f"{folder / file.name}: vectors of shape {tuple(part.shape[1:])}, "
                f"the manifest says {manifest.embedding_dim}"
            )
        result[shared.start - rows.start : shared.stop - rows.start] = part
    return result
