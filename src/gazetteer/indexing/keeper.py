"""Fills the index, refreshes it in one of three ways, and knows which weights made it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gazetteer.data.passages import PassageStore
from gazetteer.data.tokens import PassageTokens
from gazetteer.distributed.agreement import raise_together
from gazetteer.distributed.collectives import barrier
from gazetteer.distributed.set_aside import current_overseer
from gazetteer.errors import IndexFileError
from gazetteer.index import IndexIdentity, ShardedIndex, identity_mismatches, read_manifest
from gazetteer.index.making import ShardMaker
from gazetteer.indexing.chunks import ChunkFolder
from gazetteer.indexing.embedding import RowEmbedder
from gazetteer.indexing.files import IndexFiles
from gazetteer.indexing.identity import identity_of
from gazetteer.indexing.orders import OrderedVersion
from gazetteer.indexing.slices import SlicedVersion
from gazetteer.records import Ranks
from gazetteer.retriever import DualEncoder, TextEncoder

logger = logging.getLogger(__name__)

RefreshMode = Literal["blocking", "interleaved", "dedicated"]


@dataclass(frozen=True, slots=True)
class RefreshPlan:
    """How a refresh happens.

    Attributes:
        mode: "blocking" embeds the corpus while training waits, "interleaved" a part of it before
            each of the next `steps` micro-batches, "dedicated" has processes set aside embed it;
            with the latter two the old version serves meanwhile.
        steps: of an interleaved refresh.
    """

    mode: RefreshMode = "blocking"
    steps: int = 1


class IndexKeeper:
    """Fills the index, refreshes it, and knows which weights made it.

    Args:
        index: filled here.
        retriever: its passage tower embeds.
        tokenizer: the retriever's; goes to processes set aside, with the encoder.
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
        tokenizer: PreTrainedTokenizerBase,
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
        self.in_progress: SlicedVersion | OrderedVersion | None = None
        self._retriever = retriever
        self._tokenizer = tokenizer
        self._corpus = corpus
        self._tokens = tokens
        self._files = files
        self._plan = refresh
        self._maker = maker
        self._ranks = ranks
        self._show_progress = show_progress
        self._weights: Mapping[str, Tensor] = {}
        self._told_late = -1

    def fill(self) -> None:
        """Load the saved index if there is one to load, else embed the corpus.

        Collective: every rank must call this.
        """
        if self._files.load_folder is not None:
            tower = self._retriever.passage_tower
            self._load(self._files.load_folder, self._identity(tower))
            if not self.is_foreign:
                self._remember_weights(tower.weights())
        else:
            self.refresh(0)

    def tend(self, step: int, *, is_due: bool) -> bool:
        """Do what a micro-batch owes the index: begin a refresh, go on with one, adopt it.

        Collective: every rank must call this, before every micro-batch.

        Args:
            step: training step, in the unit of the flags.
            is_due: the schedule asks for a refresh, or one is still owed.

        Returns:
            Whether the refresh asked for is still owed, since another is under way.
        """
        if isinstance(self.in_progress, OrderedVersion) and self.in_progress.has_come():
            self._finish_ordered(self.in_progress)
        if is_due and isinstance(self.in_progress, OrderedVersion):
            self._tell_late(step, self.in_progress.step)
            return True
        if is_due:
            self._begin_refresh(step)
        if isinstance(self.in_progress, SlicedVersion):
            self.in_progress.embed_next_slice()
            if self.in_progress.is_whole:
                self._finish_sliced(self.in_progress)
        return False

    def refresh(self, step: int) -> None:
        """Embed the corpus with the current weights, adopt it whole, save it if asked to.

        Collective: every rank must call this.

        Args:
            step: training step, in the unit of the flags.
        """
        tower = self._retriever.passage_tower
        identity = self._identity(tower)
        self._embed(tower, identity)
        self._adopted(step, identity, tower.weights())

    def _begin_refresh(self, step: int) -> None:
        """Begin one in the way of the plan; a sliced one under way is finished first."""
        if isinstance(self.in_progress, SlicedVersion):
            logger.warning("refresh of step %d is late; finishing it", self.in_progress.step)
            self._finish_sliced(self.in_progress)
        tower = self._retriever.passage_tower
        if self._plan.mode == "blocking":
            self.refresh(step)
        elif self._plan.mode == "interleaved":
            self.in_progress = self._slice(tower, step, self._plan.steps)
        else:
            self.in_progress = self._order(tower, step)

    def _tell_late(self, step: int, under_way: int) -> None:
        """Say once that a refresh waits.

        It does not replace the one under way: where embedding takes longer than the schedule
        allows, none would ever be whole.
        """
        if self._told_late != under_way:
            self._told_late = under_way
            logger.warning(
                "refresh of step %d is late: that of step %d is still being embedded; the next "
                "one begins when it is adopted, with the weights of then",
                step,
                under_way,
            )

    def _slice(self, tower: TextEncoder, step: int, slices: int) -> SlicedVersion:
        identity = self._identity(tower)
        return SlicedVersion(
            tower,
            self._tokens,
            self.index.rows,
            self._retriever.batch,
            vectors=self._maker.allocate(),
            identity=identity,
            chunks=self._chunks(identity),
            step=step,
            slices=slices,
        )

    def _order(self, tower: TextEncoder, step: int) -> OrderedVersion:
        assert self._files.refresh_folder is not None
        return OrderedVersion(
            tower,
            self._tokenizer,
            identity=self._identity(tower),
            refresh_folder=self._files.refresh_folder,
            count=self.index.count,
            step=step,
            overseer=current_overseer(),
            ranks=self._ranks,
        )

    def _finish_sliced(self, version: SlicedVersion) -> None:
        version.finish()
        self._serve(version, version.vectors)

    def _finish_ordered(self, version: OrderedVersion) -> None:
        problem: IndexFileError | None = None
        vectors: Tensor | None = None
        try:
            vectors = self._maker.allocate()
            version.read(self.index.rows, vectors)
        except IndexFileError as error:
            problem = error
        raise_together(problem, self._ranks)
        assert vectors is not None
        self._serve(version, vectors)

    def _serve(self, version: SlicedVersion | OrderedVersion, vectors: Tensor) -> None:
        """Adopt a version that has been in progress."""
        self.in_progress = None
        self.index.replace(vectors)
        self._adopted(version.step, version.identity, version.weights)
        logger.info("searching the index of step %d", version.step)

    def _adopted(self, step: int, identity: IndexIdentity, weights: Mapping[str, Tensor]) -> None:
        """Remember and save the version that serves from now on."""
        self.step = step
        self.is_foreign = False
        self._remember_weights(weights)
        self._files.save(self.index, self._corpus, identity=identity, step=step, ranks=self._ranks)
        if step == 0:
            # A run that begins anew may come to a refresh that was interrupted.
            self._forget(identity)
        else:
            self.forget_unfinished()

    def forget_unfinished(self) -> None:
        """Remove from the disk what is embedded of versions that will not be served any more.

        Collective: every rank must call this.
        """
        # Others may still read what rank 0 removes.
        barrier()
        if self._ranks.is_main:
            self._files.forget_chunks()

    def _forget(self, identity: IndexIdentity) -> None:
        """Remove from the disk what is there of one version. Collective."""
        barrier()
        chunks = self._chunks(identity)
        if chunks is not None and self._ranks.is_main:
            chunks.remove()

    def made_by(self) -> Mapping[str, Tensor]:
        """Weights that embedded the index, when they are not those of the passage tower now.

        A checkpoint keeps them, so that a resumed run searches the very same index.
        """
        return self._weights

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
            expected = self._identity(self._retriever.passage_tower)
            self._load(self._files.load_folder, expected)
            return
        tower = self._tower_with(made_by)
        identity = self._identity(tower)
        saved = self._files.folder_with(identity)
        if saved is not None:
            self._load(saved, identity)
        else:
            self._embed(tower, identity)
            # Only this one: what is there of the next version is wanted soon.
            self._forget(identity)
        self.step = step
        self._weights = dict(made_by)

    def restore_in_progress(
        self, step: int, slices: int, slices_done: int, weights: Mapping[str, Tensor]
    ) -> None:
        """Bring back a version that was not whole when the run was interrupted.

        Collective: every rank must call this.

        Args:
            step: when it was begun.
            slices: parts in all; 1 where others embedded it.
            slices_done: of them; read from the disk or embedded again, to the same bits.
            weights: of the tower that embeds it.
        """
        tower = self._tower_with(weights)
        if self._plan.mode == "dedicated":
            self.in_progress = self._order(tower, step)
            return
        version = self._slice(tower, step, slices)
        for _ in range(slices_done):
            version.embed_next_slice()
        self.in_progress = version

    def _tower_with(self, weights: Mapping[str, Tensor]) -> TextEncoder:
        tower = self._retriever.passage_tower
        if weights:
            tower = copy.deepcopy(tower)
            tower.load_weights(weights)
        return tower

    def _embed(self, tower: TextEncoder, identity: IndexIdentity) -> None:
        vectors = self._maker.allocate()
        embedder = RowEmbedder(
            tower,
            self._tokens,
            self.index.rows,
            self._retriever.batch,
            out=vectors,
            chunks=self._chunks(identity),
        )
        embedder.embed_all(show_progress=self._show_progress)
        self.index.replace(vectors)

    def _chunks(self, identity: IndexIdentity) -> ChunkFolder | None:
        return self._files.chunks_of(identity, self._retriever.embedding_dim)

    def _remember_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Keep the weights behind the index, unless they can never change."""
        if any(p.requires_grad for p in self._retriever.passage_tower.parameters()):
            self._weights = {
                name: tensor.detach().cpu().clone() for name, tensor in weights.items()
            }

    def _identity(self, tower: TextEncoder) -> IndexIdentity:
        return identity_of(tower, self._corpus, self._tokens)

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
