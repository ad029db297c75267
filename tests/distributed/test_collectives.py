"""Collectives, agreement and stop requests on 1, 2 and 3 gloo ranks; one start for each size."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gazetteer.distributed import collectives
from gazetteer.distributed.agreement import build_main_first, main_first, raise_together
from gazetteer.distributed.signals import StopRequest
from gazetteer.errors import DataError, OptionError
from gazetteer.records import Ranks
from gazetteer.stats import WeightedStats
from tests.support.ranks import run_on_ranks

SIZES = [[2], [3, 0], [0, 4, 1]]
"""Rows of each rank, by world size."""
SENT = [[[2]], [[1, 2], [0, 3]], [[0, 1, 2], [3, 0, 0], [1, 1, 0]]]
"""Rows from each rank to each rank, by world size."""
TEXTS = [b"", "zürich".encode(), b"\0" * 1000]


def rows_of(rank: int, count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.arange(count * 2).view(count, 2) + 100 * rank).to(dtype)


def everything(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """What each rank saw; the tests below look at the parts."""
    return {
        "is_alone": collectives.is_alone(),
        "gathered": [gather(ranks, dtype) for dtype in (torch.float32, torch.float16, torch.int64)],
        "nothing": collectives.all_gather_rows(torch.zeros(0, 3)),
        "exchanged": exchange(ranks),
        "reduced": reduce(ranks),
        "broadcast": [
            collectives.broadcast_bytes(text if ranks.is_main else None) for text in TEXTS
        ],
        "texts": collectives.gather_bytes(TEXTS[ranks.rank]),
        "no_texts": collectives.gather_bytes(b""),
        "waited": wait(ranks, folder),
        "averages": average(ranks),
        "stopped": stop_last(ranks),
        "errors": disagree(ranks),
        "built": build(ranks, folder),
    }


def gather(ranks: Ranks, dtype: torch.dtype) -> tuple[torch.Tensor, list[int]]:
    rows = rows_of(ranks.rank, SIZES[ranks.world_size - 1][ranks.rank], dtype)
    return collectives.all_gather_rows(rows)


def exchange(ranks: Ranks) -> torch.Tensor:
    table = SENT[ranks.world_size - 1]
    send = table[ranks.rank]
    receive = [row[ranks.rank] for row in table]
    return collectives.exchange_rows(rows_of(ranks.rank, sum(send)), send, receive)


def reduce(ranks: Ranks) -> list[torch.Tensor]:
    mine = torch.tensor([ranks.rank + 1.0, -ranks.rank], requires_grad=True)
    results = [
        collectives.all_reduce_sum(mine),
        collectives.all_reduce_max(mine),
        collectives.all_reduce_mean(mine),
    ]
    assert mine.tolist() == [ranks.rank + 1.0, -ranks.rank], "the argument was changed"
    return [result.detach() for result in results]


def wait(ranks: Ranks, folder: Path) -> bool:
    if ranks.rank == ranks.world_size - 1:
        time.sleep(0.3)
        (folder / "arrived").touch()
    collectives.barrier()
    return (folder / "arrived").exists()


def average(ranks: Ranks) -> dict[str, float]:
    stats = WeightedStats()
    stats.add("shared", torch.tensor(float(ranks.rank)), weight=ranks.rank + 1)
    stats.add(f"only/{ranks.rank}", 7.5)
    return stats.averages()


def stop_last(ranks: Ranks) -> list[bool]:
    with StopRequest() as stop:
        seen = [stop.requested(ranks)]
        if ranks.rank == ranks.world_size - 1:
            os.kill(os.getpid(), signal.SIGUSR2)
        return [*seen, stop.requested(ranks), stop.requested(ranks)]


def build(ranks: Ranks, folder: Path) -> str:
    cache = folder / "cache"

    def prepare_or_read() -> str:
        if not cache.exists():
            assert ranks.is_main, "a worker built what the main rank should have"
            time.sleep(0.2)
            cache.write_text("built once")
        return cache.read_text()

    return build_main_first(prepare_or_read, ranks)


def disagree(ranks: Ranks) -> list[tuple[str, str]]:
    """(class, message) raised by each of several ways to fail; ("", "") where none was."""

    def fail(error: Exception) -> Any:
        def raise_it() -> None:
            raise error

        return raise_it

    def mine(problems: dict[int, Exception]) -> Exception | None:
        return problems.get(ranks.rank)

    last = ranks.world_size - 1
    on_second_machine = replace(ranks, local_rank=0 if ranks.rank == last else 1)
    attempts = [
        lambda: main_first(lambda: None, ranks),
        lambda: main_first(fail(DataError("a.jsonl:3: no 'text'")), ranks),
        lambda: main_first(fail(ZeroDivisionError("oops")), ranks),
        lambda: main_first(fail(OptionError(f"{ranks.rank}")), on_second_machine, per_node=True),
        lambda: raise_together(None, ranks),
        lambda: raise_together(mine({last: DataError("last")}), ranks),
        lambda: raise_together(DataError(f"rank {ranks.rank}'s"), ranks),
        lambda: raise_together(mine({last: ValueError("odd")}), ranks),
    ]
    return [outcome(attempt) for attempt in attempts]


def outcome(attempt: Any) -> tuple[str, str]:
    try:
        attempt()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


@pytest.fixture(scope="module", params=[1, 2, 3], ids="{} ranks".format)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    return run_on_ranks(everything, request.param, folder, timeout_seconds=100)


def test_rows_are_gathered_in_order_of_rank(seen: list[dict]) -> None:
    sizes = SIZES[len(seen) - 1]
    for rank in seen:
        assert rank["is_alone"] == (len(seen) == 1)
        for (rows, counts), dtype in zip(
            rank["gathered"], (torch.float32, torch.float16, torch.int64), strict=True
        ):
            expected = [rows_of(number, size, dtype) for number, size in enumerate(sizes)]
            torch.testing.assert_close(rows, torch.cat(expected), rtol=0, atol=0)
            assert counts == sizes


def test_no_rows_anywhere_is_no_trouble(seen: list[dict]) -> None:
    for rank in seen:
        rows, counts = rank["nothing"]
        assert rows.shape == (0, 3)
        assert counts == [0] * len(seen)
        assert rank["no_texts"] in (None, [b""] * len(seen))


def test_rows_are_exchanged_unevenly(seen: list[dict]) -> None:
    table = SENT[len(seen) - 1]
    for number, rank in enumerate(seen):
        parts = [
            rows_of(source, sum(send)).split(send)[number] for source, send in enumerate(table)
        ]
        torch.testing.assert_close(rank["exchanged"], torch.cat(parts), rtol=0, atol=0)


def test_small_tensors_are_reduced(seen: list[dict]) -> None:
    numbers = torch.tensor([[rank + 1.0, -rank] for rank in range(len(seen))])
    for rank in seen:
        total, largest, mean = rank["reduced"]
        torch.testing.assert_close(total, numbers.sum(0))
        torch.testing.assert_close(largest, numbers.amax(0))
        torch.testing.assert_close(mean, numbers.mean(0))


def test_bytes_arrive_as_they_were(seen: list[dict]) -> None:
    assert seen[0]["texts"] == TEXTS[: len(seen)]
    for rank in seen:
        assert rank["broadcast"] == TEXTS
        assert rank is seen[0] or rank["texts"] is None


def test_a_barrier_waits_for_the_last(seen: list[dict]) -> None:
    assert all(rank["waited"] for rank in seen)


def test_averages_are_weighted_over_ranks_and_names(seen: list[dict]) -> None:
    size = len(seen)
    weights = range(1, size + 1)
    shared = sum(weight * (weight - 1) for weight in weights) / sum(weights)
    expected = {"shared": shared} | {f"only/{rank}": 7.5 for rank in range(size)}
    for rank in seen:
        assert rank["averages"] == pytest.approx(expected)


def test_all_stop_when_one_is_asked_to(seen: list[dict]) -> None:
    assert [rank["stopped"] for rank in seen] == [[False, True, True]] * len(seen)


def test_the_main_rank_builds_and_the_others_reuse(seen: list[dict]) -> None:
    assert [rank["built"] for rank in seen] == ["built once"] * len(seen)


def test_no_rank_is_left_waiting_for_one_that_failed(seen: list[dict]) -> None:
    last = len(seen) - 1
    for number, rank in enumerate(seen):
        foreign = ("ZeroDivisionError", "oops")
        told = ("PeerFailedError", "rank 0 failed: ZeroDivisionError: oops")
        odd = ("PeerFailedError", f"rank {last} failed: ValueError: odd")
        assert rank["errors"] == [
            ("", ""),
            ("DataError", "a.jsonl:3: no 'text'"),
            foreign if number == 0 else told,
            ("OptionError", f"{last}"),
            ("", ""),
            ("DataError", "last"),
            ("DataError", "rank 0's"),
            ("ValueError", "odd") if number == last else odd,
        ]
