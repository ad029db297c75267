"""Filling the index from the corpus, and keeping it as fresh as the schedule asks."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from gazetteer.data.passages import PASSAGES_FOLDER, PassageStore, copy_passages
from gazetteer.data.tokens import PassageTokens
from gazetteer.distributed.agreement import main_first
from gazetteer.errors import IndexFileError
from gazetteer.index import (
    EncoderIdentity,
    IndexIdentity,
    ShardedIndex,
    identity_mismatches,
    read_manifest,
    save_index,
)
from gazetteer.index.making import ShardMaker
from gazetteer.index_version import VersionInProgress
from gazetteer.modes import evaluation_mode
from gazetteer.progress import progress
from gazetteer.records import Ranks
from gazetteer.retriever import DualEncoder, EmbeddingBatch, TextEncoder, weights_fingerprint
from gazetteer.retriever.encoder import embed

logger = logging.getLogger(__name__)

CHUNK_ROWS = 8192
"""Passages tokenised and sorted by length together: enough to pack well, little memory."""


@torch.no_grad()
def embed_corpus(
    tower: TextEncoder,
    tokens: PassageTokens,
    rows: range,
    batch: EmbeddingBatch,
    *,
    out: Float[Tensor, "row dim"],
    show_progress: bool,
) -> None:
    """Embed a range of rows in evaluation mode.

    Args:
        tower: the passage tower.
        tokens: the retriever's tokens of the corpus.
        rows: global rows, contiguous.
        batch: limits of one encoder call.
        out: where the embeddings go, on any device; may be a memory map.
        show_progress: draw a bar with rate and time left.
    """
    with (
        evaluation_mode(tower),
        progress(len(rows), "embedding", "passage", enabled=show_progress) as bar,
    ):
        for first in range(0, len(rows), CHUNK_ROWS):
            chunk = rows[first : first + CHUNK_ROWS]
            vectors = embed(tower, tokens.passage_inputs(chunk), batch)
            out[first : first + len(chunk)] = vectors.float()
            bar.update(len(chunk))


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFiles:
    """Where an index is read from and written to.

    Attributes:
        load_folder: `--load_index_path`.
        save_folder: `--save_index_path`; written after every build.
        files: number of files to write.
        allow_stale: load an index that other weights or passages made, with a warning.
    """

    load_folder: Path | None = None
    save_folder: Path | None = None
    files: int = 128
    allow_stale: bool = False


@dataclass(frozen=True, slots=True)
class RefreshPlan:
    """How a refresh happens.

    Attributes:
        mode: "blocking" embeds the corpus while training waits, "interleaved" a part of it before
            each of the next `steps` micro-batches, while the old version serves.
        steps: of an interleaved refresh.
    """

    mode: Literal["blocking", "interleaved"] = "blocking"
    steps: int = 1


class IndexKeeper:
    """Fills the index, refreshes it, and knows which weights made it.

    Args:
        index: filled here.
        retriever: its passage tower embeds.
        corpus: the passages.
        tokens: the retriever's tokens of them.
        files: where to load and save.
        refresh: how the index is refreshed.
        maker: builds and loads this rank's shards.
        ranks: this process among its peers.
        show_progress: draw a bar on this rank.
    """

    def __init__(
        self,
        *,
        index: ShardedIndex,
        retriever: DualEncoder,
        corpus: PassageStore,
        tokens: PassageTokens,
        files: IndexFiles,
        refresh: RefreshPlan,
        maker: ShardMaker,
        ranks: Ranks,
        show_progress: bool,
    ) -> None:
        self.index = index
        self.step = 0
        self.is_foreign = False
        self.in_progress: VersionInProgress | None = None
        self._retriever = retriever
        self._corpus = corpus
        self._tokens = tokens
        self._files = files
        self._plan = refresh
        self._maker = maker
        self._ranks = ranks
        self._show_progress = show_progress
        self._weights: dict[str, Tensor] | None = None

    def fill(self) -> None:
        """Load the saved index if there is one to load, else embed the corpus.

        Collective: every rank must call this.
        """
        if self._files.load_folder is not None:
            self._load(self._files.load_folder, self._identity())
            if not self.is_foreign:
                self._remember_weights(self._retriever.passage_tower)
        else:
            self.refresh(0)

    def tend(self, step: int, *, is_due: bool) -> None:
        """Do what a micro-batch owes the index: begin a refresh, go on with one, adopt it.

        Collective: every rank must call this, before every micro-batch.

        Args:
            step: training step, in the unit of the flags.
            is_due: the schedule asks for a refresh.
        """
        if is_due and self._plan.mode == "blocking":
            self.refresh(step)
        elif is_due:
            if self.in_progress is not None:
                logger.warning("refresh of step %d is late; finishing it", self.in_progress.step)
                self._finish()
            self.in_progress = self._begin(self._retriever.passage_tower, step, self._plan.steps)
        if self.in_progress is not None:
            self.in_progress.embed_next_slice()
            if self.in_progress.is_whole:
                self._finish()

    def refresh(self, step: int) -> None:
        """Embed the corpus with the current weights, adopt it whole, save it if asked to.

        Collective: every rank must call this.

        Args:
            step: training step, in the unit of the flags.
        """
        tower = self._retriever.passage_tower
        self._embed(tower)
        self._adopted(tower, step)

    def _begin(self, tower: TextEncoder, step: int, slices: int) -> VersionInProgress:
        return VersionInProgress(
            tower,
            self._tokens,
            self.index.rows,
            self._retriever.batch,
            vectors=self._maker.allocate(),
            step=step,
            slices=slices,
        )

    def _finish(self) -> None:
        version, self.in_progress = self.in_progress, None
        assert version is not None
        version.finish()
        self.index.replace(version.vectors)
        self._adopted(version.tower, version.step)
        logger.info("searching the index of step %d", version.step)

    def _adopted(self, tower: TextEncoder, step: int) -> None:
        """Remember and save the version that serves from now on."""
        self.step = step
        self.is_foreign = False
        self._remember_weights(tower)
        if self._files.save_folder is None:
            return
        save_index(
            self.index,
            self._files.save_folder,
            identity=self._identity(tower),
            step=step,
            files=self._files.files,
            ranks=self._ranks,
        )
        # With its passages beside it, the folder is all that --load_index_path needs.
        passages = self._files.save_folder / PASSAGES_FOLDER
        main_first(lambda: copy_passages(self._corpus, passages), self._ranks)

    def made_by(self) -> Mapping[str, Tensor]:
        """Weights that embedded the index, when they are not those of the passage tower now.

        A checkpoint keeps them, so that a resumed run searches the very same index.
        """
        return self._weights or {}

    def restore(self, step: int, made_by: Mapping[str, Tensor], *, is_foreign: bool) -> None:
        """Bring back the index of an interrupted run.

        Collective: every rank must call this.

        Args:
            step: when it was embedded.
            made_by: what `made_by()` said then; empty for the passage tower as it is.
            is_foreign: it was loaded with `--allow_stale_index`, and nothing here can embed it.

        Raises:
            IndexFileError: a foreign index is not named any more.
        """
        if is_foreign:
            if self._files.load_folder is None:
                raise IndexFileError(
                    "the run searched an index that other weights or passages made; resume it "
                    "with the same --load_index_path and --allow_stale_index"
                )
            self._load(self._files.load_folder, self._identity())
            return
        tower = self._tower_with(made_by)
        if not self._load_saved_version(tower):
            self._embed(tower)
        self.step = step
        self._weights = dict(made_by) or None

    def restore_in_progress(
        self, step: int, slices: int, slices_done: int, weights: Mapping[str, Tensor]
    ) -> None:
        """Bring back a version that was not whole when the run was interrupted.

        Args:
            step: when it was begun.
            slices: parts in all.
            slices_done: of them; embedded again, to the same bits.
            weights: of the tower that embeds it.
        """
        version = self._begin(self._tower_with(weights), step, slices)
        for _ in range(slices_done):
            version.embed_next_slice()
        self.in_progress = version

    def _tower_with(self, weights: Mapping[str, Tensor]) -> TextEncoder:
        tower = self._retriever.passage_tower
        if weights:
            tower = copy.deepcopy(tower)
            tower.load_state_dict(dict(weights))
        return tower

    def _embed(self, tower: TextEncoder) -> None:
        vectors = self._maker.allocate()
        embed_corpus(
            tower,
            self._tokens,
            self.index.rows,
            self._retriever.batch,
            out=vectors,
            show_progress=self._show_progress,
        )
        self.index.replace(vectors)

    def _remember_weights(self, tower: TextEncoder) -> None:
        """Keep the weights behind the index, unless they can never change."""
        if any(p.requires_grad for p in self._retriever.passage_tower.parameters()):
            state = tower.state_dict()
            self._weights = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}

    def _identity(self, tower: TextEncoder | None = None) -> IndexIdentity:
        tower = tower or self._retriever.passage_tower
        return IndexIdentity(
            corpus=self._corpus.fingerprint,
            encoder=EncoderIdentity(
                weights=weights_fingerprint(tower.model),
                tokenizer=self._tokens.tokenizer_fingerprint,
                template=self._tokens.template,
                pooling=tower.pooling,
                normalize=tower.normalize,
                max_tokens=self._tokens.max_tokens,
            ),
        )

    def _load_saved_version(self, tower: TextEncoder) -> bool:
        """Load the saved index that `tower` made, if one of the two folders holds it."""
        expected = self._identity(tower)
        for folder in (self._files.save_folder, self._files.load_folder):
            if folder is None or not (folder / "manifest.json").is_file():
                continue
            if not identity_mismatches(read_manifest(folder).identity, expected):
                self._load(folder, expected)
                return True
        return False

    def _load(self, folder: Path, expected: IndexIdentity) -> None:
        manifest = read_manifest(folder)
        mismatches = identity_mismatches(manifest.identity, expected)
        if mismatches and not self._files.allow_stale:
            raise IndexFileError(
                f"{folder}: made from something else than what is in use "
                f"({'; '.join(mismatches)}); embed again, or pass --allow_stale_index"
            )
        for mismatch in mismatches:
            logger.warning("%s: %s (--allow_stale_index)", folder, mismatch)
        if (manifest.count, manifest.embedding_dim) != self._shape:
            raise IndexFileError(
                f"{folder}: holds {manifest.count} vectors of {manifest.embedding_dim}, "
                f"in use are {self._shape[0]} passages of {self._shape[1]}"
            )
        self.index.adopt(self._maker.load(folder, manifest))
        self.step = manifest.step
        self.is_foreign = bool(mismatches)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.index.count, self._retriever.embedding_dim
