"""The codes of a saved index: the trained quantiser, and one file of codes beside each of vectors.

Any number of workers loads any rows of it, without training or encoding anything again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from gazetteer.errors import IndexFileError
from gazetteer.index import faiss_codec
from gazetteer.index.codec import Codec
from gazetteer.index.compressed import CompressedShard
from gazetteer.index.faiss_codec import DamagedCodecError, FaissIndex
from gazetteer.index.shards import overlap
from gazetteer.index.stored_files import IndexFile, StoredFile, Written, write_bytes, write_rows

QUANTISER, CODES = "codec", "codes"
"""What the names of the files begin with; CODES is also the name of the tensor inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCodec:
    """What the manifest says of a compressed index.

    Attributes:
        codec: the quantiser.
        quantiser: file of the trained quantiser, as faiss writes it.
        codes: files of codes; none for kinds whose codes are made anew from the vectors
            (`faiss_codec.has_row_codes`).
    """

    codec: Codec
    quantiser: StoredFile
    codes: tuple[IndexFile, ...] = ()

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """All of them."""
        return (self.quantiser, *self.codes)


def save_codes(
    shard: CompressedShard, folder: Path, files: Mapping[int, range], first_row: int
) -> list[Written[IndexFile]]:
    """Write the codes of a shard. Not a collective.

    Args:
        shard: this rank's.
        folder: of the index.
        files: rows of the shard by number of file.
        first_row: global row of the shard's first.
    """
    if not faiss_codec.has_row_codes(shard.codec):
        return []
    codes = faiss_codec.codes_of(shard.index, shard.codec)
    return [
        write_rows(
            folder / f"{CODES}.{number:05d}",
            CODES,
            codes[rows.start : rows.stop],
            first_row + rows.start,
        )
        for number, rows in files.items()
    ]


def save_quantiser(shard: CompressedShard, folder: Path) -> Written[StoredFile]:
    """Write the trained quantiser, the same on every rank. Not a collective."""
    return write_bytes(folder / QUANTISER, ".faiss", shard.quantiser)


def load_quantiser(folder: Path, stored: StoredCodec) -> bytes:
    """The trained quantiser, which faiss sees once it was compared with its hash."""
    return (folder / stored.quantiser.name).read_bytes()


def load_codes(folder: Path, stored: StoredCodec, quantiser: bytes, rows: range) -> FaissIndex:
    """A faiss index of a range of rows; empty for kinds whose codes are not stored.

    Files must have been compared with their hashes before.

    Raises:
        IndexFileError: a file holds other codes.
    """
    try:
        index = faiss_codec.read_codec(stored.codec, quantiser)
    except DamagedCodecError as error:
        raise IndexFileError(f"{folder / stored.quantiser.name}: {error}") from None
    for file in _by_row(stored.codes):
        shared = overlap(file.range, rows)
        if len(shared) == 0:
            continue
        try:
            codes = _read(folder / file.name, shared.start - file.first_row, len(shared))
            faiss_codec.add_codes(index, stored.codec, codes)
        except (SafetensorError, DamagedCodecError) as error:
            raise IndexFileError(f"{folder / file.name}: {error}") from None
    return index


def _read(path: Path, start: int, count: int) -> Tensor:
    with safe_open(path, framework="pt") as tensors:
        codes = tensors.get_slice(CODES)[start : start + count]
    if len(codes) != count:
        raise DamagedCodecError(f"{start + len(codes)} rows, expected {start + count} or more")
    return codes


def _by_row(files: Sequence[IndexFile]) -> list[IndexFile]:
    return sorted(files, key=lambda file: file.first_row)
