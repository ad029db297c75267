"""A saved index: raw vectors in safetensors and one manifest that vouches for them.

The manifest is written last and replaced atomically, so a folder always shows one whole version.
Files name their row ranges, so any number of workers loads what any other number saved. Loading is
in loading.py, the manifest in manifest.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gazetteer.distributed.agreement import main_first
from gazetteer.distributed.collectives import barrier, exchange_rows, gather_bytes
from gazetteer.files import STAMP, sync
from gazetteer.index.codec_storage import (
    CODES,
    QUANTISER,
    StoredCodec,
    save_codes,
    save_quantiser,
)
from gazetteer.index.compressed import CompressedShard
from gazetteer.index.file_layout import rows_per_page, rows_written_by, split_rows
from gazetteer.index.loading import TENSOR
from gazetteer.index.manifest import IndexIdentity, Manifest, write_manifest
from gazetteer.index.rounded_storage import ROUNDED, save_rounded
from gazetteer.index.search import ShardedIndex
from gazetteer.index.shards import shard_range
from gazetteer.index.stored_files import IndexFile, Written, write_rows
from gazetteer.records import Ranks
from gazetteer.stamps import write_stamp


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
        index: filled on every rank; its vectors may be a map of the version that is replaced.
        folder: created if missing; shared by all ranks.
        identity: what the vectors were made from.
        step: training step (in the unit of the flags) at which they were embedded.
        files: number of files in all (`--save_index_n_shards`); at least one per rank is written.
        ranks: this process among its peers.
    """
    main_first(lambda: folder.mkdir(parents=True, exist_ok=True), ranks)
    mine = shard_range(max(files, ranks.world_size), ranks.rank, ranks.world_size)
    dim, shard = index.embeddings.shape[1], index.shard
    page = rows_per_page(index.count, dim, parts=ranks.world_size)
    rows = rows_written_by(index.rows, index.count, page)
    vectors = _Window(index, rows, ranks)
    wants_rounded = page > 1 and not isinstance(shard, CompressedShard)
    written: list[Written[IndexFile]] = []
    rounded: list[Written[IndexFile]] = []
    for number, part in zip(mine, split_rows(rows, len(mine), page), strict=True):
        block = vectors.part(part)
        stem = folder / f"{TENSOR}.{number:05d}"
        written.append(write_rows(stem, TENSOR, block, part.start, is_mappable=page > 1))
        rounded += save_rounded(block, folder, number, part.start) if wants_rounded else []
    codes, quantiser = [], None
    if isinstance(shard, CompressedShard):
        layout = {n: shard_range(len(index.rows), i, len(mine)) for i, n in enumerate(mine)}
        codes = save_codes(shard, folder, layout, index.rows.start)
        quantiser = save_quantiser(shard, folder) if ranks.is_main else None
    # Names are on the disk before the manifest that tells of them.
    sync(folder)
    every_vector, every_rounded, every_code = map(_listed_by_all, (written, rounded, codes))
    if ranks.is_main:
        codec = None
        if isinstance(shard, CompressedShard) and quantiser is not None:
            codec = StoredCodec(
                codec=shard.codec,
                quantiser=quantiser.file,
                codes=tuple(code.file for code in every_code),
            )
        manifest = Manifest(
            count=index.count,
            embedding_dim=dim,
            step=step,
            identity=identity,
            files=tuple(vector.file for vector in every_vector),
            codec=codec,
            rounded=_if_whole(every_rounded, index.count),
        )
        _publish(folder, manifest, [*every_vector, *every_rounded, *every_code])
    barrier()


class _Window:
    """Vectors of the rows that this rank writes: its own, but for the first and last few.

    Collective.
    """

    def __init__(self, index: ShardedIndex, rows: range, ranks: Ranks) -> None:
        self._own, self._first = index.embeddings, index.rows.start
        world, rank = ranks.world_size, ranks.rank
        # What belongs on the last page of the rank before goes there.
        send, receive = [0] * world, [0] * world
        if rank > 0:
            send[rank - 1] = rows.start - index.rows.start
        if rank < world - 1:
            receive[rank + 1] = rows.stop - index.rows.stop
        self._more = self._own[:0]
        if world > 1:
            self._more = exchange_rows(self._own[: sum(send)], send, receive)

    def part(self, rows: range) -> Float[Tensor, "row dim"]:
        first, last = rows.start - self._first, rows.stop - self._first
        here = len(self._own)
        if last <= here:
            return self._own[first:last]
        return torch.cat([self._own[first:], self._more[max(0, first - here) : last - here]])


def _listed_by_all(written: Sequence[Written[IndexFile]]) -> list[Written[IndexFile]]:
    """The files that all ranks wrote, on rank 0; none elsewhere. Collective."""
    gathered = gather_bytes(json.dumps([[asdict(w.file), w.state] for w in written]).encode())
    listed = [entry for part in gathered or [] for entry in json.loads(part)]
    return [Written(IndexFile(**file), state) for file, state in listed]


def _if_whole(rounded: Sequence[Written[IndexFile]], count: int) -> tuple[IndexFile, ...]:
    """All or none: a part cannot be rounded where a number is not finite."""
    files = tuple(entry.file for entry in rounded)
    return files if sum(file.rows for file in files) == count else ()


def save_rows(
    parts: Iterable[Float[Tensor, "row dim"]],
    folder: Path,
    *,
    identity: IndexIdentity,
    step: int,
    embedding_dim: int,
    codec: StoredCodec | None = None,
    is_mappable: bool = False,
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
        is_mappable: parts are whole numbers of pages, but for the last (`file_layout`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    first_row = 0
    written: list[Written[IndexFile]] = []
    rounded: list[Written[IndexFile]] = []
    for number, vectors in enumerate(parts):
        stem = folder / f"{TENSOR}.{number:05d}"
        written.append(write_rows(stem, TENSOR, vectors, first_row, is_mappable=is_mappable))
        if is_mappable and codec is None:
            rounded += save_rounded(vectors.float(), folder, number, first_row)
        first_row += len(vectors)
    sync(folder)
    manifest = Manifest(
        count=first_row,
        embedding_dim=embedding_dim,
        step=step,
        identity=identity,
        files=tuple(entry.file for entry in written),
        codec=codec,
        rounded=_if_whole(rounded, first_row),
    )
    _publish(folder, manifest, [*written, *rounded])


def _publish(folder: Path, manifest: Manifest, written: Sequence[Written[IndexFile]]) -> None:
    """Make this version the one that the folder shows, and remove what the last one left."""
    write_manifest(folder, manifest)
    keep = {file.name for file in manifest.all_files}
    for prefix in (TENSOR, ROUNDED, CODES, QUANTISER, f".{STAMP}"):
        for path in folder.glob(f"{prefix}.*"):
            if path.name not in keep:
                path.unlink()
    states = {entry.file.name: entry.state for entry in written if entry.state is not None}
    write_stamp(folder, {name: state for name, state in states.items() if name in keep})
