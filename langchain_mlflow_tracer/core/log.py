"""Logs at most one line a minute for each cause, with the number of times it happened."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from langchain_mlflow_tracer.core import forks
from langchain_mlflow_tracer.core.guard import attempt

__all__ = ["Notices"]

INTERVAL = 60.0
"""Seconds between two lines about one cause: enough for an operator, too few to fill a log."""

USUAL = 0.05
"""Seconds beyond which nobody sums up who was not interrupted: it takes microseconds."""

GATHERED = 100
"""Counts that are summed up together: whoever asks for them sums them up too."""

UNSUMMED = 10_000
"""Counts that are kept until they are summed up: a few, unless an exception cut off whoever summed up."""


class Notices:
    """Counts what happened, by cause, and says it now and then.

    `clock` gives seconds that never go back; it is injected so that tests need not wait.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        """Write to `logger`, which belongs to the package and has no handler of its own."""
        self._logger = logger
        self._clock = clock
        self.forget()
        forks.enter(self, forks.Order.NOTICES, in_child=Notices.forget)

    def forget(self) -> None:
        """Start anew in a forked child, whose locks somebody in the parent may have held."""
        self._saying = threading.RLock()  # the garbage collector may close a stream under it (see `recorder`)
        self._said: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}
        self._summing = threading.Lock()
        self._counted: deque[tuple[str, int]] = deque(maxlen=UNSUMMED)
        self._counts: dict[str, int] = {}

    def warn(self, cause: str, message: str, *arguments: object, count: int = 1) -> None:
        """Count `cause`, and log `message` unless it was logged within the last minute."""
        self.count(cause, count)
        with self._saying:
            unsaid = self._unsaid.get(cause, 0) + count
            now = self._clock()
            due = now - self._said.get(cause, -INTERVAL) >= INTERVAL
            self._unsaid[cause] = 0 if due else unsaid
            if due:
                self._said[cause] = now
        if due and unsaid > count:
            message, arguments = f"{message} (%d since the last such line)", (*arguments, unsaid)
        if due:  # the application's handlers and filters are foreign
            attempt(lambda: self._logger.warning(message, *arguments), lambda _: None)

    def waits(self, said: str) -> None:
        """Say why traces wait, though nothing has failed yet."""
        self.warn("no_answer", "%s: traces wait in the spool", said)

    def count(self, cause: str, count: int = 1) -> None:
        """Count `cause` without a line: expected, yet worth knowing.

        Waits for nobody: who counts may be interrupted by a signal's handler that waits for this thread.
        """
        self._counted.append((cause, count))
        if len(self._counted) >= GATHERED:
            self._sum_up(0)

    def counts(self) -> dict[str, int]:
        """Return how often each cause happened."""
        self._sum_up(USUAL)
        return self._counts.copy()

    def _sum_up(self, timeout: float) -> None:
        """Add what was counted; what comes while somebody is at it waits for who comes next."""
        if self._summing.acquire(timeout=timeout):
            try:
                while self._counted:
                    cause, count = self._counted.popleft()
                    self._counts[cause] = self._counts.get(cause, 0) + count
            finally:
                self._summing.release()
