"""What processes set aside are asked for, and what they do with it."""

from pathlib import Path

import pytest
import torch

from gazetteer.errors import IndexFileError, LaunchError
from gazetteer.indexing import orders
from gazetteer.indexing.helping import carry_out
from gazetteer.indexing.identity import identity_of
from gazetteer.indexing.orders import Order, OrderedVersion
from gazetteer.records import Ranks
from tests.support.tiny_models import retriever_tokenizer
from tests.unit.selection.test_selection import World


class Given:
    """Stands for rank 0's end of the line."""

    def __init__(self, workers: int = 2) -> None:
        self.workers = workers
        self.texts: list[str] = []
        self.trouble: LaunchError | None = None

    def order(self, text: str) -> None:
        self.texts.append(text)

    def problem(self) -> LaunchError | None:
        return self.trouble


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def ordered(world: World, tmp_path: Path, given: Given, step: int = 5) -> OrderedVersion:
    tower = world.retriever.passage_tower
    return OrderedVersion(
        tower,
        retriever_tokenizer(),
        identity=identity_of(tower, world.corpus, world.tokens),
        refresh_folder=tmp_path / "refresh",
        count=world.corpus.count,
        step=step,
        overseer=given,  # type: ignore[arg-type]
        ranks=Ranks(),
    )


def help_with(world: World, order: Order, worker: int, workers: int, **settings) -> None:
    ranks = Ranks(rank=worker, world_size=workers, is_set_aside=True)
    is_over = settings.get("is_over", lambda: False)
    carry_out(order, world.retriever, world.corpus, world.tokens, ranks, is_over)


def test_an_order_is_carried_out_by_all_together(world: World, tmp_path: Path) -> None:
    given = Given()
    version = ordered(world, tmp_path, given)
    order = Order.from_json(given.texts[0])
    assert Order.from_json(order.to_json()) == order
    assert [row for rows in order.missing for row in rows] == list(range(30))
    help_with(world, order, 0, 2)
    assert not version.has_come()
    help_with(world, order, 1, 2)
    assert version.has_come()
    for rows in (range(30), range(7, 19)):
        out = torch.full((len(rows), 32), float("nan"))
        version.read(rows, out)
        expected = world.vectors[rows.start : rows.stop]
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


def test_the_weights_are_those_of_the_moment_of_the_order(world: World, tmp_path: Path) -> None:
    version = ordered(world, tmp_path, Given())
    with torch.no_grad():
        for parameter in world.retriever.parameters():
            parameter.add_(1.0)
    for name, parameter in world.retriever.passage_tower.named_parameters():
        torch.testing.assert_close(version.weights[name] + 1.0, parameter.data)


@pytest.mark.parametrize("workers", [1, 3])
def test_an_order_given_again_asks_for_what_is_missing(
    world: World, tmp_path: Path, workers: int
) -> None:
    first, second = Given(2), Given(workers)
    ordered(world, tmp_path, first)
    help_with(world, Order.from_json(first.texts[0]), 0, 2)
    version = ordered(world, tmp_path, second)
    order = Order.from_json(second.texts[0])
    asked = [row for rows in order.missing for row in rows]
    had = [row for rows in Order.from_json(first.texts[0]).missing[0::2] for row in rows]
    assert sorted(asked + had) == list(range(30))
    for worker in range(workers):
        help_with(world, order, worker, workers)
    assert version.has_come()
    out = torch.empty(30, 32)
    version.read(range(30), out)
    torch.testing.assert_close(out, world.vectors, rtol=1e-5, atol=1e-6)


def test_a_lost_process_ends_the_waiting(world: World, tmp_path: Path) -> None:
    given = Given()
    version = ordered(world, tmp_path, given)
    given.trouble = LaunchError("embedding worker 1 of 2 failed: no memory")
    with pytest.raises(LaunchError, match="embedding worker 1 of 2 failed: no memory"):
        version.has_come()


def test_other_weights_are_not_embedded(world: World, tmp_path: Path) -> None:
    given = Given()
    ordered(world, tmp_path, given)
    with torch.no_grad():
        next(world.retriever.parameters()).mul_(1.01)
    with pytest.raises(IndexFileError, match=r"not what was ordered .*encoder weights"):
        help_with(world, Order.from_json(given.texts[0]), 0, 2)


def test_an_order_that_nobody_waits_for_is_dropped(world: World, tmp_path: Path) -> None:
    given = Given()
    version = ordered(world, tmp_path, given)
    order = Order.from_json(given.texts[0])
    help_with(world, order, 0, 1, is_over=lambda: True)
    assert version._chunks.listed() == []
    version._chunks.remove()
    help_with(world, order, 0, 1)
    assert not order.folder.exists()


def test_a_full_disk_is_an_error_of_one_line(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Given()
    ordered(world, tmp_path, given)
    order = Order.from_json(given.texts[0])

    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(IndexFileError, match=r"cannot be written \(No space left on device\)"):
        help_with(world, order, 0, 1)


def test_a_folder_that_cannot_be_written_is_named(world: World, tmp_path: Path) -> None:
    (tmp_path / "refresh").write_text("in the way")
    with pytest.raises(IndexFileError, match=r"refresh.*cannot be written .*--checkpoint_dir"):
        ordered(world, tmp_path, Given())


def test_a_damaged_piece_is_an_error_and_is_embedded_when_asked_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "LATE_SECONDS", 0.1)
    given = Given(1)
    version = ordered(world, tmp_path, given)
    help_with(world, Order.from_json(given.texts[0]), 0, 1)
    path = next(version._chunks.path.glob("rows.*"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(IndexFileError, match="of the refresh of step 5 cannot be read here"):
        version.read(range(30), torch.empty(30, 32))
    again = Given(1)
    ordered(world, tmp_path, again)
    assert len(Order.from_json(again.texts[0]).missing) == 1
