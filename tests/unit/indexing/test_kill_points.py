"""A refresh that is killed anywhere: the saved index stays whole, and the next attempt goes on."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gazetteer.index import ShardedIndex, load_rows, read_manifest
from gazetteer.index.making import FlatMaker
from gazetteer.indexing import (
    IndexFiles,
    IndexKeeper,
    RefreshPlan,
    embedding,
    helping,
    keeper,
    orders,
)
from gazetteer.indexing.helping import carry_out
from gazetteer.indexing.orders import Order
from gazetteer.records import Ranks
from tests.support.kill_points import disk_steps, kill_at
from tests.support.tiny_models import retriever_tokenizer
from tests.unit.selection.test_selection import World

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
ROWS = range(30)


class Refresher:
    """Builds keepers of one experiment, each as a process that has just started."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world
        self.orders: list[str] = []
        self.workers = 1

    def order(self, text: str) -> None:
        self.orders.append(text)

    def problem(self) -> None:
        return None

    def keeper(self, mode: str) -> IndexKeeper:
        count, dim = self.world.corpus.count, self.world.retriever.embedding_dim
        maker = FlatMaker(
            "fp32", count=count, dim=dim, ranks=Ranks(), folder=self.folder / "vectors"
        )
        return IndexKeeper(
            index=ShardedIndex(count, Ranks(), build_shard=maker),
            retriever=self.world.retriever,
            tokenizer=retriever_tokenizer(),
            corpus=self.world.corpus,
            tokens=self.world.tokens,
            files=IndexFiles(
                save_folder=self.folder / "saved",
                files=2,
                refresh_folder=self.folder / "refresh",
            ),
            refresh=RefreshPlan(mode, steps=6),  # type: ignore[arg-type]
            maker=maker,
            ranks=Ranks(),
            show_progress=False,
        )

    def refresh(self, mode: str) -> Tensor:
        """Refresh once, in as many micro-batches as it takes; the vectors that serve then."""
        made = self.keeper(mode)
        made.tend(7, is_due=True)
        while made.in_progress is not None:
            while self.orders:
                order = Order.from_json(self.orders.pop())
                world = self.world
                helper = Ranks(set_aside=1, is_set_aside=True)
                carry_out(order, world.retriever, world.corpus, world.tokens, helper, bool)
            made.tend(8, is_due=False)
        return made.index.embeddings.clone()


@pytest.fixture
def refresher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refresher]:
    """An experiment with a saved index, and weights that have moved on since."""

    def quick(tower, token_lists, batch) -> Tensor:
        """Depends on weights and tokens, as embeddings do, and takes no time."""
        scale = next(tower.parameters()).sum()
        rows = [torch.sin(torch.arange(32) * float(sum(ids)) + scale) for ids in token_lists]
        return torch.stack(rows)

    world = World(tmp_path / "world")
    for module in (embedding, helping):
        monkeypatch.setattr(module, "embed", quick)
    monkeypatch.setattr(embedding, "KEEP_SECONDS", 0)
    monkeypatch.setattr(embedding, "CHUNK_ROWS", 1)
    monkeypatch.setattr(orders, "PIECE_ROWS", 1)
    made = Refresher(tmp_path / "run", world)
    monkeypatch.setattr(keeper, "current_overseer", lambda: made)
    made.keeper("blocking").fill()
    with torch.no_grad():
        next(world.retriever.parameters()).mul_(1.5)
    yield made


def saved(folder: Path) -> tuple[int, Tensor]:
    """Step and vectors of the saved index, every file checked."""
    manifest = read_manifest(folder / "saved")
    return manifest.step, load_rows(folder / "saved", manifest, ROWS)


def put_back(refresher: Refresher, before: Path) -> None:
    shutil.rmtree(refresher.folder)
    shutil.copytree(before, refresher.folder)
    refresher.orders.clear()


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("mode", "every"), [("blocking", 2), ("interleaved", 6), ("dedicated", 4)])
def test_a_kill_at_any_step_on_the_disk(
    refresher: Refresher, mode: str, every: int, tmp_path: Path, is_long: bool, fault_row
) -> None:
    every = 1 if is_long else every
    before = shutil.copytree(refresher.folder, tmp_path / "before")
    _, old = saved(refresher.folder)

    def work() -> Tensor:
        return refresher.refresh(mode)

    steps = disk_steps(work, refresher.folder)
    step, new = saved(refresher.folder)
    assert step == 7 and not torch.equal(new, old)
    assert steps > 100
    reused = 0
    for number in range(0, steps, every):
        put_back(refresher, before)
        assert kill_at(work, refresher.folder, number)
        step, found = saved(refresher.folder)
        assert torch.equal(found, {0: old, 7: new}[step]), number
        with Counted() as embedded:
            assert torch.equal(work(), new), number
        reused += 30 - sum(embedded)
        step, found = saved(refresher.folder)
        assert step == 7 and torch.equal(found, new), number
        assert not (refresher.folder / "refresh").exists()
    # Of 30 rows each time; only what one piece holds is lost.
    tried = len(range(0, steps, every))
    assert reused > 12 * tried
    fault_row("kill", tried, 0, f"{mode} refresh: the old index or the new one, then the new one")


class Counted:
    """Sizes of the pieces embedded meanwhile."""

    def __enter__(self) -> list[int]:
        self.sizes: list[int] = []
        self.originals: list[tuple] = []
        for module in (embedding, helping):
            self.originals.append((module, module.embed))
            module.embed = self._counting(module.embed)
        return self.sizes

    def _counting(self, embed: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def counting(tower, token_lists, batch) -> Tensor:
            self.sizes.append(len(token_lists))
            return embed(tower, token_lists, batch)

        return counting

    def __exit__(self, *_) -> None:
        for module, original in self.originals:
            module.embed = original
