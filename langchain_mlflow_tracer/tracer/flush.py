"""Waits until what has finished is in MLflow, and counts what is left."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from langchain_mlflow_tracer.delivery.protocol import ForwarderKind
from langchain_mlflow_tracer.spool.spool import Spool

__all__ = ["Sending"]

POLL: Final = 0.02
"""Seconds between two looks at the spool while somebody flushes."""


@dataclass(slots=True)
class Sending:
    """The spool and the forwarder of a pipeline, once there are any, and which traces are its own.

    `producer` is this process to the spool; `since` is when it began, in seconds since the epoch.
    """

    producer: str
    since: float
    spool: Spool | None = None
    forwarder: ForwarderKind | None = None

    def pending(self, *, of_all: bool = False) -> int:
        """Return how many traces of this process are in the spool; `of_all`, if this process sends them."""
        if self.spool is None:
            return 0
        if of_all and self.forwarder is not None and self.forwarder.holds_drain_lock:
            return self.spool.figures.waiting()
        return self.spool.figures.waiting_of(self.producer)

    def left_behind(self) -> int:
        """Return how many traces wait for the next process: none where one that works outlives this one."""
        outlives = self.spool is not None and self.forwarder is not None and self.forwarder.outlives_process
        return 0 if outlives and not self._fails(self.since) else self.pending()

    def wait(self, deadline: float, *, ending: bool) -> bool:
        """Wait until nothing is pending, or `deadline` of the monotonic clock; return whether nothing is.

        When the process is `ending`, what others left counts too if it is for us to send. Then a destination
        that fails once more is not waited for, nor is another process that sends.
        """
        began = time.time()
        if self.forwarder is not None and self.pending():
            self.forwarder.retry_now()
        while self.pending(of_all=ending):
            if time.monotonic() >= deadline or (ending and self._is_pointless(began)):
                return False
            time.sleep(min(POLL, max(0.0, deadline - time.monotonic())))
        return True

    def _is_pointless(self, began: float) -> bool:
        """Whether waiting any longer helps nobody: a destination fails, or another process sends."""
        if self.spool is None or self._fails(began):
            return True
        if self.forwarder is None or self.forwarder.is_ours:
            return False
        return self.spool.is_drained()

    def _fails(self, since: float) -> bool:
        return self.spool is not None and bool(self.spool.figures.fails(since))
