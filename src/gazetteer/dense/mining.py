"""Hard negatives out of the index that a run trains with, whenever that is embedded anew.

All workers search for their share of the lines; then each has the negatives of all. What is found
is kept in checkpoints, so that a resumed run trains on the very same.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from gazetteer.data.tokens import PassageTokens, SpecialTokens
from gazetteer.dense.known_positives import KnownPositives
from gazetteer.dense.line_store import LineStore
from gazetteer.distributed.collectives import all_gather_rows, all_reduce_sum
from gazetteer.errors import CheckpointError
from gazetteer.files import replace_json
from gazetteer.index import ShardedIndex
from gazetteer.index.shards import shard_range
from gazetteer.mining.filters import DUPLICATE, JUDGED, NEAR_POSITIVE, highest_allowed
from gazetteer.progress import progress
from gazetteer.records import Ranks, TokenIds
from gazetteer.retriever import DualEncoder

logger = logging.getLogger(__name__)

MINED_FILE = "mined_negatives.safetensors"
"""In a checkpoint."""
REPORT_FILE = "mining.json"
"""In the run's folder: by step, how many were found, and dropped for which reason."""
QUERIES_PER_SEARCH = 256
KEPT, FROM_BEFORE = "negatives", "of these from the last time"
WITHOUT = "lines with none left, which keep their own or take any"
COUNTS = (KEPT, FROM_BEFORE, WITHOUT, JUDGED, NEAR_POSITIVE, DUPLICATE)

PassageIds = Callable[[np.ndarray], Sequence[TokenIds]]
"""Token ids of passages, by row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningSettings:
    """How negatives are chosen.

    Attributes:
        negatives: per line.
        depth: passages found per query.
        margin: see `filters.below_positive`; None leaves that filter out.
        new_texts: drop what has the tokens of a positive or an earlier negative.
        memory: share of the negatives that stay from the last time.
        seed: of the draw.
        query_tokens: of a query, special tokens included.
    """

    negatives: int
    depth: int
    margin: float | None
    new_texts: bool
    memory: float
    seed: int
    query_tokens: int


@dataclass(frozen=True, slots=True)
class Judged:
    """Positives of a query, of all lines that ask it.

    Attributes:
        rows: in the corpus.
        texts: token ids, special tokens included, of those that are none of its passages.
    """

    rows: np.ndarray
    texts: tuple[TokenIds, ...]


def choose_rows(
    rows: np.ndarray,
    scores: np.ndarray,
    judged: Judged,
    before: np.ndarray,
    settings: MiningSettings,
    generator: np.random.Generator,
    tokens_of: PassageIds,
) -> tuple[np.ndarray, Counter[str]]:
    """Negatives of one line.

    Args:
        rows: found for its query, best first.
        scores: of each.
        judged: the query's positives.
        before: negatives of the line the last time; may be empty.
        settings: how they are chosen.
        generator: of the draw; for this line and time alone.
        tokens_of: asked only where tokens are compared.

    Returns:
        At most `settings.negatives` rows, and how many were dropped for each reason.
    """
    counts: Counter[str] = Counter()
    is_judged = np.isin(rows, judged.rows)
    counts[JUDGED] = int(is_judged.sum())
    # A compressed index may find fewer than it was asked for.
    left = ~is_judged & (rows >= 0)
    if settings.margin is not None and is_judged.any():
        limit = highest_allowed(float(scores[is_judged].max()), settings.margin)
        counts[NEAR_POSITIVE] = int((left & (scores > limit)).sum())
        left &= scores <= limit
    stays = before[~np.isin(before, judged.rows)]
    stays = generator.permutation(stays)[: round(settings.memory * settings.negatives)]
    fresh = generator.permutation(rows[left])
    fresh = fresh[~np.isin(fresh, stays)]
    wanted = settings.negatives - len(stays)
    if settings.new_texts or judged.texts:
        known = [*judged.texts]
        if settings.new_texts:
            known += [*tokens_of(judged.rows), *tokens_of(stays)]
        fresh, counts[DUPLICATE] = _of_new_tokens(
            fresh, wanted, known, tokens_of, among_themselves=settings.new_texts
        )
    chosen = np.concatenate([stays, fresh[:wanted]])
    counts[KEPT], counts[FROM_BEFORE] = len(chosen), len(stays)
    counts[WITHOUT] = int(len(chosen) == 0)
    return chosen, counts


def _of_new_tokens(
    rows: np.ndarray,
    wanted: int,
    known: Sequence[TokenIds],
    tokens_of: PassageIds,
    *,
    among_themselves: bool,
) -> tuple[np.ndarray, int]:
    """The first so many rows with tokens that are not known yet, and how many were passed over."""
    seen = {ids.astype(np.int32).tobytes() for ids in known}
    kept: list[int] = []
    dropped = 0
    # In rounds, since few are dropped.
    while len(kept) < wanted and len(rows):
        part, rows = rows[: wanted - len(kept)], rows[wanted - len(kept) :]
        for row, ids in zip(part.tolist(), tokens_of(part), strict=True):
            key = ids.astype(np.int32).tobytes()
            if key in seen:
                dropped += 1
                continue
            kept.append(row)
            if among_themselves:
                seen.add(key)
    return np.asarray(kept, dtype=np.int64), dropped


class NegativeMiner:
    """Mines the negatives of every line.

    Args:
        index: searched; filled by someone else.
        retriever: its query tower embeds, with the weights of the moment.
        lines: whose queries are asked; positives are never found.
        corpus: tokens of the passages.
        special: the tokenizer's.
        settings: how negatives are chosen.
        use: told what was mined: rows of the corpus (line, negative), -1 where there are fewer.
        folder: of the run, for `REPORT_FILE`.
        ranks: this process among its peers.
        show_progress: draw a bar.
    """

    def __init__(
        self,
        index: ShardedIndex,
        retriever: DualEncoder,
        lines: LineStore,
        corpus: PassageTokens,
        special: SpecialTokens,
        settings: MiningSettings,
        use: Callable[[np.ndarray], None],
        *,
        folder: Path,
        ranks: Ranks,
        show_progress: bool,
    ) -> None:
        self._index = index
        self._retriever = retriever
        self._lines = lines
        self._corpus = corpus
        self._special = special
        self._settings = settings
        self._use = use
        self._report = folder / REPORT_FILE
        self._ranks = ranks
        self._show_progress = show_progress
        self._rows: np.ndarray | None = None
        self._known = KnownPositives(lines)

    @torch.no_grad()
    def mine(self, step: int) -> None:
        """Search for every query, and use what is found from now on.

        Collective: every rank must call this. The same on any number of workers.

        Args:
            step: training step; another one draws others.
        """
        count, ranks = self._lines.count, self._ranks
        mine = shard_range(count, ranks.rank, ranks.world_size)
        most = len(shard_range(count, 0, ranks.world_size))
        found = np.full((len(mine), self._settings.negatives), -1, dtype=np.int64)
        counts: Counter[str] = Counter()
        with progress(len(mine), "mining", "line", enabled=self._show_progress) as bar:
            for first in range(0, most, QUERIES_PER_SEARCH):
                part = mine[first : first + QUERIES_PER_SEARCH]
                for place, (chosen, counted) in enumerate(self._mine(part, step), first):
                    found[place, : len(chosen)] = chosen
                    counts += counted
                bar.update(len(part))
        rows, _ = all_gather_rows(torch.from_numpy(found))
        self._rows = rows.numpy()
        self._use(self._rows)
        self._tell(step, counts)

    def _mine(self, part: range, step: int) -> list[tuple[np.ndarray, Counter[str]]]:
        """Negatives of some lines. Collective."""
        lines = [self._lines.line(number) for number in part]
        queries = self._lines.texts(np.asarray([line.query for line in lines], dtype=np.int64))
        asked = [self._special.around(ids, self._settings.query_tokens) for ids in queries]
        hits = self._index.search(self._retriever.embed_for_search(asked), self._settings.depth)
        rows, scores = hits.rows.numpy(), hits.scores.numpy()
        mined = []
        for place, number in enumerate(part):
            judged = self._judged(number, queries[place])
            generator = np.random.default_rng((self._settings.seed, step, number))
            chosen, counts = choose_rows(
                rows[place],
                scores[place],
                judged,
                self._before(number),
                self._settings,
                generator,
                self._corpus.passage_inputs,
            )
            if not len(chosen) and not len(lines[place].negatives.numbers):
                chosen = self._any(judged, generator)
            mined.append((chosen, counts))
        return mined

    def _any(self, judged: Judged, generator: np.random.Generator) -> np.ndarray:
        """Some passages, for a line that would have no negatives at all."""
        wanted = self._settings.negatives
        some = min(self._index.count, wanted + len(judged.rows))
        rows = generator.choice(self._index.count, some, replace=False)
        return rows[~np.isin(rows, judged.rows)][:wanted]

    def _judged(self, number: int, query: TokenIds) -> Judged:
        numbers, rows = self._known.of(number, query)
        own = numbers[rows < 0]
        texts = self._lines.texts(own - self._lines.corpus_count) if len(own) else []
        limit = self._corpus.max_tokens
        return Judged(rows[rows >= 0], tuple(self._special.around(ids, limit) for ids in texts))

    def _before(self, number: int) -> np.ndarray:
        rows = np.empty(0, dtype=np.int64) if self._rows is None else self._rows[number]
        return rows[rows >= 0]

    def _tell(self, step: int, counts: Counter[str]) -> None:
        totals = all_reduce_sum(torch.tensor([counts[name] for name in COUNTS])).tolist()
        by_name: dict[str, int] = dict(zip(map(str, COUNTS), totals, strict=True))
        mined = ", ".join(f"{name}: {by_name[name]}" for name in (KEPT, FROM_BEFORE, WITHOUT))
        dropped = ", ".join(f"{name}: {by_name[name]}" for name in COUNTS[3:])
        logger.info(
            "step %d: mined for %d lines; %s; dropped, %s", step, self._lines.count, mined, dropped
        )
        if self._ranks.is_main:
            replace_json(self._report, reported(self._report, step, self._lines.count, by_name))

    def writing(self) -> Callable[[Path], None]:
        """What writes into a checkpoint what is in use now, however often is mined until then."""
        rows = self._rows

        def write(folder: Path) -> None:
            if rows is not None:
                save_file({"rows": torch.from_numpy(rows).contiguous()}, folder / MINED_FILE)

        return write

    def load(self, folder: Path) -> bool:
        """Use what a checkpoint holds; False where it holds nothing of the kind.

        Raises:
            CheckpointError: it is for other lines, or for another number of negatives.
        """
        path = folder / MINED_FILE
        if not path.is_file():
            return False
        rows = load_file(path)["rows"].numpy()
        expected = (self._lines.count, self._settings.negatives)
        if rows.shape != expected:
            raise CheckpointError(
                f"{path}: {rows.shape[1]} negatives for each of {rows.shape[0]} lines, in use are "
                f"{expected[1]} for {expected[0]} (--mine_negatives, --train_data)"
            )
        self._rows = rows
        self._use(rows)
        return True


def reported(
    path: Path, step: int, lines: int, counts: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """What a report says, with a step more; steps after it belong to a past that was given up."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        kept = {name: each for name, each in before.items() if int(name) < step}
    except (OSError, ValueError, AttributeError):
        kept = {}
    found = {name: counts[name] for name in COUNTS[:3]}
    return {
        **kept,
        str(step): {"lines": lines, **found, "dropped": {n: counts[n] for n in COUNTS[3:]}},
    }
