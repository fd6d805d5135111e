"""Counts what happens, by cause, and logs at most one line a minute for each cause."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from langchain_mlflow_tracer.core import forks
from langchain_mlflow_tracer.core.guard import attempt

__all__ = ["Log"]

INTERVAL = 60.0
"""Seconds between two lines about one cause: enough for an operator, too few to fill a log."""

SUM_TIMEOUT = 0.05
"""Seconds to wait for a thread that adds counts up. It needs microseconds, unless a signal interrupted it."""

SUM_AT = 100
"""Counts after which `count` adds them up, so that few are kept if nobody calls `counts`."""

MAX_UNSUMMED = 10_000
"""The most counts that are kept until they are added up: a few, unless an exception stopped that thread."""


class Log:
    """The log lines and the counters of one tracer, or of one process that sends.

    `clock` returns seconds that never go back; it is a parameter so that tests need not wait.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        """Write to `logger`, which belongs to the package and has no handler of its own."""
        self._logger = logger
        self._clock = clock
        self.forget()
        forks.enter(self, forks.Order.LOG, in_child=Log.forget)

    def forget(self) -> None:
        """Start again in a forked child: a thread of the parent may have held the locks at the fork."""
        # Reentrant: the garbage collector may close a stream while this thread holds it, and that may report.
        self._lines = threading.RLock()
        self._logged: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}
        self._sums = threading.Lock()
        # A deque: it is appended to and read without a lock.
        self._counted: deque[tuple[str, int]] = deque(maxlen=MAX_UNSUMMED)
        self._counts: dict[str, int] = {}

    def report(self, cause: str, message: str, *arguments: object, count: int = 1) -> None:
        """Count `cause`, and log `message` unless a line about it was logged within the last minute."""
        self.count(cause, count)
        with self._lines:
            unlogged = self._unlogged.get(cause, 0) + count
            now = self._clock()
            due = now - self._logged.get(cause, -INTERVAL) >= INTERVAL
            self._unlogged[cause] = 0 if due else unlogged
            if due:
                self._logged[cause] = now
        if due and unlogged > count:
            message, arguments = f"{message} (%d since the last such line)", (*arguments, unlogged)
        if due:  # outside the lock, and by `attempt`: the application's handlers and filters are foreign code
            attempt(lambda: self._logger.warning(message, *arguments), lambda _: None)

    def count(self, cause: str, count: int = 1) -> None:
        """Count `cause` without a log line: it is no problem, but the statistics show it.

        It never waits for a lock: the handler of a signal may have interrupted the thread that holds it, and
        may count too.
        """
        self._counted.append((cause, count))
        if len(self._counted) >= SUM_AT:
            self._sum_up(0)

    def counts(self) -> dict[str, int]:
        """Return how often each cause happened."""
        self._sum_up(SUM_TIMEOUT)
        return self._counts.copy()

    def _sum_up(self, timeout: float) -> None:
        """Add up what was counted; if another thread is doing so, wait for `timeout` seconds."""
        if self._sums.acquire(timeout=timeout):
            try:
                while self._counted:
                    cause, count = self._counted.popleft()
                    self._counts[cause] = self._counts.get(cause, 0) + count
            finally:
                self._sums.release()
