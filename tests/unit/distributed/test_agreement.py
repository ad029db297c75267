from __future__ import annotations

import errno

import pytest

from gazetteer import errors
from gazetteer.distributed.agreement import (
    _describe,
    _revive,
    build_main_first,
    main_first,
    raise_together,
)
from gazetteer.errors import (
    DataError,
    DiskError,
    GazetteerError,
    LaunchError,
    PeerFailedError,
)
from gazetteer.records import Ranks

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, GazetteerError)
]


def test_one_rank_alone_does_the_work_and_goes_on() -> None:
    calls: list[int] = []
    main_first(lambda: calls.append(1), Ranks())
    main_first(lambda: calls.append(2), Ranks(), per_node=True)
    assert calls == [1, 2]
    raise_together(None, Ranks())


def test_one_rank_alone_builds_once() -> None:
    calls: list[int] = []
    assert build_main_first(lambda: calls.append(1) or "built", Ranks()) == "built"
    assert calls == [1]


@pytest.mark.parametrize("problem", [DataError("x.jsonl:3: bad"), ZeroDivisionError("oops")])
def test_one_rank_alone_raises_the_error_itself(problem: Exception) -> None:
    def fail() -> None:
        raise problem

    with pytest.raises(type(problem)) as caught:
        main_first(fail, Ranks())
    assert caught.value is problem


@pytest.mark.parametrize("kind", KINDS)
def test_our_errors_travel_with_class_message_and_exit_code(kind: type[GazetteerError]) -> None:
    arrived = _revive(_describe(kind('corpus "ä".jsonl:7'), rank=0))
    assert type(arrived) is kind
    assert str(arrived) == 'corpus "ä".jsonl:7'
    assert arrived.exit_code == kind.exit_code
    assert arrived.is_shared


def test_mistakes_of_ours_travel_with_their_rank_and_exit_code() -> None:
    """srun leaves with the highest code of all: peers must not make bad input (2) of it."""
    arrived = _revive(_describe(ZeroDivisionError("division by zero"), rank=2))
    assert type(arrived) is PeerFailedError and arrived.exit_code == 1
    assert str(arrived) == "rank 2 failed: ZeroDivisionError: division by zero"


def test_what_a_disk_does_not_do_is_a_line_for_all() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/x/run.log")
    arrived = _revive(_describe(full, rank=0))
    assert type(arrived) is DiskError
    assert str(arrived) == "/x/run.log: No space left on device"


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "annotations", "require_positive", "os"])
def test_a_class_that_is_not_ours_is_never_looked_up(name: str) -> None:
    assert type(_revive(f'["{name}", "x"]'.encode())) is LaunchError
