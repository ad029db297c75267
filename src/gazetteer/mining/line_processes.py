"""Processes that share the work of building lines; what they build comes in order."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process

from gazetteer.errors import GazetteerError
from gazetteer.mining.filter_settings import FilterSettings, build_filters
from gazetteer.mining.line_builder import LineBuilder, LineSettings, Work

Built = tuple[list[str], Counter[str]]
WAITING_PER_PROCESS = 2
"""One in work and one waiting: memory does not grow with the number of queries."""

_builder: LineBuilder | None = None
"""Of a process that only builds."""


def build_here(
    parts: Iterable[Sequence[Work]], settings: LineSettings, filters: FilterSettings
) -> Iterator[Built]:
    """Build part after part in this process."""
    builder = LineBuilder(settings, build_filters(filters))
    for part in parts:
        yield builder.build(part)


def build_in_processes(
    parts: Iterable[Sequence[Work]],
    settings: LineSettings,
    filters: FilterSettings,
    count: int,
) -> Iterator[Built]:
    """Build parts side by side; what becomes of them comes in their order.

    Raises:
        GazetteerError: what one of the processes raised, or that one ended in the middle.
    """
    pool = ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=_begin, initargs=(settings, filters)
    )
    waiting: deque[Future[Built]] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(_build, settings, filters, tuple(part)))
            if len(waiting) == WAITING_PER_PROCESS * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise GazetteerError(
            "a process that builds lines ended in the middle, as for lack of memory; "
            "fewer of them need less (--processes)"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(settings: LineSettings, filters: FilterSettings) -> None:
    # Each of these has one core to itself.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Ctrl-C is for the program, which then ends these.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _build(settings: LineSettings, filters: FilterSettings, part: Sequence[Work]) -> Built:
    # Not in `_begin`: an error there would only break the pool.
    global _builder
    if _builder is None:
        _builder = LineBuilder(settings, build_filters(filters))
    return _builder.build(part)
