"""Where an index is read from and written to, and where one that is not whole yet is kept."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from gazetteer.data.passages import PASSAGES_FOLDER, PassageStore, copy_passages
from gazetteer.distributed.agreement import main_first
from gazetteer.index import (
    IndexIdentity,
    ShardedIndex,
    identity_mismatches,
    read_manifest,
    save_index,
)
from gazetteer.indexing.chunks import ChunkFolder
from gazetteer.indexing.identity import version_key
from gazetteer.records import Ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFiles:
    """The folders of an index.

    Attributes:
        load_folder: `--load_index_path`.
        save_folder: `--save_index_path`; written after every build.
        files: number of files to write.
        allow_stale: load an index that other weights or passages made, with a warning.
        refresh_folder: for what is embedded of a version that is not whole yet, so that a kill
            does not lose it; belongs to this run alone. None keeps nothing.
    """

    load_folder: Path | None = None
    save_folder: Path | None = None
    files: int = 128
    allow_stale: bool = False
    refresh_folder: Path | None = None

    def save(
        self,
        index: ShardedIndex,
        corpus: PassageStore,
        *,
        identity: IndexIdentity,
        step: int,
        ranks: Ranks,
    ) -> None:
        """Write the version that is served, with its passages, if there is where to.

        Collective: every rank must call this.
        """
        if self.save_folder is None:
            return
        save_index(
            index, self.save_folder, identity=identity, step=step, files=self.files, ranks=ranks
        )
        # With its passages beside it, the folder is all that --load_index_path needs.
        passages = self.save_folder / PASSAGES_FOLDER
        main_first(lambda: copy_passages(corpus, passages), ranks)

    def folder_with(self, identity: IndexIdentity) -> Path | None:
        """Which of the two folders holds the version of this identity."""
        for folder in (self.save_folder, self.load_folder):
            if folder is None or not (folder / "manifest.json").is_file():
                continue
            if not identity_mismatches(read_manifest(folder).identity, identity):
                return folder
        return None

    def chunks_of(self, identity: IndexIdentity, dim: int) -> ChunkFolder | None:
        """Where chunks of the version of this identity are kept."""
        if self.refresh_folder is None:
            return None
        return ChunkFolder.of_version(self.refresh_folder, version_key(identity), dim)

    def forget_chunks(self) -> None:
        """Remove what is kept of every version that is not whole. Not a collective."""
        if self.refresh_folder is None:
            return
        for path in self.refresh_folder.glob("*"):
            ChunkFolder(path, key="", dim=0).remove()
        shutil.rmtree(self.refresh_folder, ignore_errors=True)
