"""Atlas's own index files, read and written: `embeddings.{i}.pt` beside `passages.{i}.pt`.

Embeddings are float16 of shape (dim, n), one column per passage; passages a pickled list of dicts.
Neither is unpickled: see `restricted_pickle`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gazetteer.data.jsonl import MAX_DEPTH, PASSAGE_FIELDS, BadLineError, check_fields, describe
from gazetteer.data.passages import PassageStore
from gazetteer.errors import IndexFileError
from gazetteer.files import sync
from gazetteer.index.restricted_pickle import write_list
from gazetteer.index.shards import shard_range
from gazetteer.index.torch_files import SavedMatrix, open_matrix, read_saved_list
from gazetteer.index.vector_sources import VectorFile, VectorSource

EMBEDDINGS, PASSAGES = "embeddings", "passages"


@dataclass(frozen=True, slots=True)
class AtlasShard:
    """One pair of files.

    Attributes:
        embeddings: the matrix, not read yet.
        passages: path of its passages.
    """

    embeddings: SavedMatrix
    passages: Path


def is_atlas_folder(folder: Path) -> bool:
    """Whether there are files of an Atlas index here."""
    return bool(_numbered(folder, EMBEDDINGS) or _numbered(folder, PASSAGES))


def open_atlas_folder(folder: Path) -> list[AtlasShard]:
    """Find the files of an index that Atlas saved, and look at the heads of its embeddings.

    There may be any number of files, also fewer than Atlas was asked for: it rounds up what goes
    into each, and the last ones may be left over.

    Raises:
        IndexFileError: there are none, one is missing in between or not what it should be.
    """
    embeddings, passages = _numbered(folder, EMBEDDINGS), _numbered(folder, PASSAGES)
    if not embeddings and not passages:
        raise IndexFileError(f"{folder}: no index of Atlas here ({EMBEDDINGS}.0.pt is missing)")
    for number in range(max(embeddings | passages) + 1):
        for kind, found in ((EMBEDDINGS, embeddings), (PASSAGES, passages)):
            if number not in found:
                raise IndexFileError(f"{folder / f'{kind}.{number}.pt'}: missing, others follow")
    shards = [
        AtlasShard(open_matrix(embeddings[number]), passages[number])
        for number in sorted(embeddings)
    ]
    first = shards[0].embeddings
    for shard in shards:
        if shard.embeddings.shape[0] != first.shape[0]:
            raise IndexFileError(
                f"{shard.embeddings.path}: vectors of {shard.embeddings.shape[0]} numbers, "
                f"those of {first.path.name} have {first.shape[0]}"
            )
    return shards


def _numbered(folder: Path, kind: str) -> dict[int, Path]:
    """Files of a kind by their number."""
    pattern = re.compile(rf"{kind}\.(0|[1-9][0-9]{{0,8}})\.pt")
    try:
        found = [(pattern.fullmatch(path.name), path) for path in folder.iterdir()]
    except OSError as error:
        raise IndexFileError(f"{folder}: {error.strerror}") from None
    return {int(match[1]): path for match, path in found if match is not None}


def atlas_vectors(shards: Iterable[AtlasShard]) -> VectorSource:
    """The embeddings of all files. Of oversized files, only the slice that counts is read."""
    matrices = [shard.embeddings for shard in shards]
    files = [VectorFile(matrix.shape[1], matrix.dtype, matrix.vectors) for matrix in matrices]
    return VectorSource(files, matrices[0].shape[0])


def atlas_passages(shards: Iterable[AtlasShard]) -> Iterator[dict[str, Any]]:
    """The passages of all files, as `write_passages` takes them; one file in memory at a time.

    Raises:
        IndexFileError: a file holds something else, or not as many passages as embeddings.
    """
    for shard in shards:
        # Held by nobody else, so that it is gone before the next one is read.
        yield from map(without_merged_section, _counted_passages(shard))


def _counted_passages(shard: AtlasShard) -> list[dict[str, Any]]:
    passages = read_atlas_passages(shard.passages)
    if len(passages) != shard.embeddings.shape[1]:
        raise IndexFileError(
            f"{shard.passages}: {len(passages)} passages, {shard.embeddings.path.name} has "
            f"{shard.embeddings.shape[1]} embeddings"
        )
    return passages


def read_atlas_passages(path: Path) -> list[dict[str, Any]]:
    """The passages of one file.

    Raises:
        IndexFileError: it holds something else than passages.
    """
    passages = read_saved_list(path)
    if not isinstance(passages, list):
        raise IndexFileError(f"{path}: found {describe(passages)}, expected a list of passages")
    for position, passage in enumerate(passages):
        if not isinstance(passage, dict):
            found = f"found {describe(passage)}, expected a dict"
            raise IndexFileError(f"{path}: passage {position}: {found}")
        try:
            check_fields(passage, PASSAGE_FIELDS)
        except BadLineError as error:
            raise IndexFileError(f"{path}: passage {position}: {error}") from None
        if _is_deep(passage, MAX_DEPTH):
            raise IndexFileError(f"{path}: passage {position}: more than {MAX_DEPTH} levels")
    return passages


def _is_deep(value: Any, levels: int) -> bool:  # noqa: ANN401 - plain data
    if not isinstance(value, dict | list):
        return False
    members = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deep(member, levels - 1) for member in members)


def without_merged_section(passage: dict[str, Any]) -> dict[str, Any]:
    """A passage whose title may have its section in it already, as it was before.

    Atlas keeps passages with "title: section" as title, and so do we, beside the section; what
    writes passages would merge the two once more.
    """
    title, section = passage.get("title"), passage.get("section")
    if not title or not section:
        return passage
    bare = title.removesuffix(f": {section}")
    if bare and bare != title:
        return passage | {"title": bare}
    return {key: value for key, value in passage.items() if key != "section"}


def write_atlas_folder(
    vectors: VectorSource,
    passages: PassageStore,
    folder: Path,
    *,
    files: int,
    on_rows: Callable[[int], object],
) -> None:
    """Write an index as Atlas reads it; the two belong together row by row.

    Args:
        vectors: written as float16.
        passages: as many.
        folder: exists.
        files: pairs of files, the number that Atlas is to be told as `--save_index_n_shards`.
        on_rows: told how many passages each pair had, for a progress bar.

    Raises:
        IndexFileError: a number is too large for float16.
    """
    for number in range(files):
        rows = shard_range(vectors.count, number, files)
        path = folder / f"{EMBEDDINGS}.{number}.pt"
        torch.save(vectors.rows(rows, torch.float16).T.contiguous(), path)
        beside = folder / f"{PASSAGES}.{number}.pt"
        with beside.open("wb") as target:
            batches = passages.batches(rows)
            write_list((record for batch in batches for record in batch.records()), target)
        sync(path)
        sync(beside)
        on_rows(len(rows))
