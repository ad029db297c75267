"""One piece of work at a time beside training, in a thread; its failure is not lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

from gazetteer.errors import GazetteerError

Work = Callable[[], GazetteerError | None]
"""Returns what went wrong that training can go on with, if anything; raises what it cannot."""


class BackgroundWork:
    """Runs one function at a time in a thread.

    The thread does not keep a process alive: call `wait` before leaving.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._problem: GazetteerError | None = None

    def start(self, work: Work) -> None:
        """Begin, after what was begun before has ended.

        Raises:
            Exception: what that raised.
        """
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what the work raised, if it has; does not wait for it."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def wait(self) -> GazetteerError | None:
        """Wait until the work has ended; what it returned, once.

        Raises:
            Exception: what it raised, where `check` has not raised it before.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()
        problem, self._problem = self._problem, None
        return problem

    def _run(self, work: Work) -> None:
        try:
            self._problem = work()
        except Exception as error:
            self._failure = error
