"""Saved indexes from other saved indexes: from Atlas, to Atlas, in other files, of several.

Nothing is embedded here. What is written appears whole or not at all.
"""

from __future__ import annotations

import itertools
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gazetteer.data.passages import PASSAGES_FOLDER, PassageStore, copy_passages, write_passages
from gazetteer.data.templates import PassageTemplate
from gazetteer.errors import IndexFileError, OptionError
from gazetteer.files import sync
from gazetteer.index.atlas_files import (
    atlas_passages,
    atlas_vectors,
    open_atlas_folder,
    without_merged_section,
    write_atlas_folder,
)
from gazetteer.index.codec_storage import StoredCodec
from gazetteer.index.file_layout import rows_per_page
from gazetteer.index.manifest import EncoderIdentity, IndexIdentity, Manifest
from gazetteer.index.searcher import open_passages
from gazetteer.index.storage import save_rows
from gazetteer.index.vector_sources import VectorSource, saved_vectors
from gazetteer.index.verification import content_bytes, require_sound
from gazetteer.progress import progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a saved index is to lie on the disk.

    Attributes:
        files: files of vectors.
        dtype: of the vectors; None keeps theirs.
        show_progress: draw bars while at it.
    """

    files: int = 128
    dtype: torch.dtype | None = None
    show_progress: bool = False


def import_atlas(
    source: Path, target: Path, layout: Layout, *, encoder: EncoderIdentity, step: int
) -> None:
    """Make a saved index of Atlas's files.

    Args:
        source: folder with `embeddings.{i}.pt` and `passages.{i}.pt`.
        target: must not exist.
        layout: of the result.
        encoder: what made the embeddings; Atlas's files do not say.
        step: when it was.

    Raises:
        IndexFileError: the source is not what it should be, or there is a target already.
        OptionError: the encoder's template names a field that passages do not have.
    """
    shards = open_atlas_folder(source)
    vectors = atlas_vectors(shards)
    with appearing_folder(target) as partial:
        records = _counted(atlas_passages(shards), vectors.count, layout)
        store = write_passages(records, partial / PASSAGES_FOLDER)
        _require_fields(encoder.template, store)
        identity = IndexIdentity(corpus=store.fingerprint, encoder=encoder)
        _save(vectors, partial, layout, identity, step)


def _require_fields(template: str, store: PassageStore) -> None:
    """Raise OptionError if the template names what the first passage does not have."""
    for passage in store.records(range(min(store.count, 1))):
        for name in PassageTemplate.parse(template).lacking(passage):
            raise OptionError(
                f"--retriever_format ({template}) names the field '{name}', "
                f"which the first passage '{passage['id']}' does not have"
            )


def export_atlas(source: Path, target: Path, layout: Layout) -> None:
    """Write a saved index as Atlas reads it: float16, in pairs of files.

    Raises:
        IndexFileError: the source is damaged or without passages, or there is a target already.
    """
    manifest, passages = _open_sound(source, layout)
    vectors = saved_vectors(source, manifest)
    with (
        appearing_folder(target) as partial,
        progress(vectors.count, "writing", "passage", enabled=layout.show_progress) as bar,
    ):
        write_atlas_folder(vectors, passages, partial, files=layout.files, on_rows=bar.update)


def rewrite(source: Path, target: Path, layout: Layout) -> None:
    """Copy a saved index into another number of files, or another dtype; its codes stay the same.

    Raises:
        IndexFileError: the source is damaged, or there is a target already.
    """
    with _verifying(source, layout) as bar:
        manifest = require_sound(source, bar.update)
    with appearing_folder(target) as partial:
        if (source / PASSAGES_FOLDER).exists():
            copy_passages(open_passages(source, manifest), partial / PASSAGES_FOLDER)
        for file in manifest.codec.files if manifest.codec else ():
            _copy(source / file.name, partial / file.name)
        vectors = saved_vectors(source, manifest)
        _save(vectors, partial, layout, manifest.identity, manifest.step, codec=manifest.codec)


def merge(sources: Sequence[Path], target: Path, layout: Layout) -> None:
    """Put indexes of different passages, made by one encoder, into one, in the order given.

    Codes of compressed indexes are left out: their quantisers differ.

    Raises:
        IndexFileError: encoders differ, a passage id is in two of them, one is damaged or without
            passages, or there is a target already.
    """
    opened = [_open_sound(source, layout) for source in sources]
    manifests = [manifest for manifest, _ in opened]
    stores = [store for _, store in opened]
    _require_one_encoder(sources, manifests)
    _require_disjoint(sources, stores)
    files = [
        file
        for source, manifest in zip(sources, manifests, strict=True)
        for file in saved_vectors(source, manifest).files
    ]
    vectors = VectorSource(files, manifests[0].embedding_dim)
    with appearing_folder(target) as partial:
        records = _counted(map(without_merged_section, _records(stores)), vectors.count, layout)
        store = write_passages(records, partial / PASSAGES_FOLDER)
        identity = IndexIdentity(corpus=store.fingerprint, encoder=manifests[0].identity.encoder)
        _save(vectors, partial, layout, identity, max(manifest.step for manifest in manifests))


@contextmanager
def appearing_folder(folder: Path) -> Iterator[Path]:
    """A folder beside its place, moved there when all went well, else removed.

    Raises:
        IndexFileError: there is something in its place already.
    """
    if folder.exists():
        raise IndexFileError(f"{folder}: is there already; name another folder (--output)")
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        yield partial
        sync(partial)
        partial.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """A hard link where the disk allows: files of an index never change."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
        sync(target)


def _save(
    vectors: VectorSource,
    folder: Path,
    layout: Layout,
    identity: IndexIdentity,
    step: int,
    codec: StoredCodec | None = None,
) -> None:
    dtype = layout.dtype or vectors.dtype
    page = rows_per_page(vectors.count, vectors.embedding_dim, parts=1)
    with progress(vectors.count, "writing", "vector", enabled=layout.show_progress) as bar:

        def counted() -> Iterator[Float[Tensor, "row dim"]]:
            for part in vectors.parts(layout.files, dtype, page=page):
                yield part
                bar.update(len(part))

        save_rows(
            counted(),
            folder,
            identity=identity,
            step=step,
            embedding_dim=vectors.embedding_dim,
            codec=codec,
            is_mappable=page > 1,
        )


def _counted(
    records: Iterable[dict[str, Any]], count: int, layout: Layout
) -> Iterator[dict[str, Any]]:
    with progress(count, "passages", "passage", enabled=layout.show_progress) as bar:
        for record in records:
            yield record
            bar.update()


def _records(stores: Iterable[PassageStore]) -> Iterator[dict[str, Any]]:
    for store in stores:
        for batch in store.batches(range(store.count)):
            yield from batch.records()


def _open_sound(source: Path, layout: Layout) -> tuple[Manifest, PassageStore]:
    with _verifying(source, layout) as bar:
        manifest = require_sound(source, bar.update)
    return manifest, open_passages(source, manifest)


def _verifying(source: Path, layout: Layout) -> tqdm:
    size = content_bytes(source) if source.is_dir() else 0
    return progress(size, f"verifying {source.name}", "B", enabled=layout.show_progress)


def _require_one_encoder(sources: Sequence[Path], manifests: Sequence[Manifest]) -> None:
    first = manifests[0]
    for source, manifest in zip(sources, manifests, strict=True):
        differences = _differences(first, manifest)
        if differences:
            raise IndexFileError(
                f"{source}: made by another encoder than {sources[0]} ({'; '.join(differences)})"
            )


def _differences(first: Manifest, other: Manifest) -> list[str]:
    names = EncoderIdentity.__slots__
    pairs = [
        (name, getattr(first.identity.encoder, name), getattr(other.identity.encoder, name))
        for name in names
    ]
    pairs.append(("embedding_dim", first.embedding_dim, other.embedding_dim))
    return [f"{name}: {b}, the other has {a}" for name, a, b in pairs if a != b]


def _require_disjoint(sources: Sequence[Path], stores: Sequence[PassageStore]) -> None:
    """Ids are compared by hash, eight bytes each, and by themselves where hashes agree."""
    hashes = [np.unique(np.fromiter(map(hash, _ids(store)), dtype=np.int64)) for store in stores]
    for later, earlier in itertools.combinations(range(len(stores) - 1, -1, -1), 2):
        common = set(np.intersect1d(hashes[later], hashes[earlier], assume_unique=True).tolist())
        known = {name for name in _ids(stores[earlier]) if hash(name) in common} if common else ()
        if not known:
            continue
        repeated = next((name for name in _ids(stores[later]) if name in known), None)
        if repeated is not None:
            raise IndexFileError(
                f"{sources[later]}: passage '{repeated}' is in {sources[earlier]} too"
            )


def _ids(store: PassageStore) -> Iterator[str]:
    """Ids of the passages that have one."""
    return filter(None, store.all_ids())
