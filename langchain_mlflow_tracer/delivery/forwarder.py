"""Empties a spool: lease, export under retry, acknowledge. One forwarder at a time, whoever holds the right.

Every destination has a lane, a thread of its own, so that one that hangs holds up no other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from langchain_mlflow_tracer.core.errors import SpoolError
from langchain_mlflow_tracer.core.guard import Worker, attempt
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.delivery.exporter import Exporter
from langchain_mlflow_tracer.delivery.lane import Lane
from langchain_mlflow_tracer.encoding import unfinished
from langchain_mlflow_tracer.spool.file_lock import FileLock
from langchain_mlflow_tracer.spool.spool import Item, Spool

__all__ = ["Forwarder"]

IDLE: Final = 0.25
"""Seconds after which an idle forwarder looks whether another process has put something, or has died."""

GROUP: Final = 500
"""Items that are put at once: SQLite takes some thousands."""

GAP: Final = 0.02
"""Seconds between two looks, however often it is woken: each takes turns from the application's threads."""

MakeExporter = Callable[[str], Exporter]
"""Makes the exporter for a destination, as the spool knows it."""


class Forwarder:
    """Delivers what waits in `spool`, in a background thread, until it is stopped."""

    def __init__(self, spool: Spool, make_exporter: MakeExporter, log: Log) -> None:
        self._spool = spool
        self._make_exporter = make_exporter
        self._log = log
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._lanes: dict[str, Lane] = {}
        self._drain: FileLock | None = None
        self._survey_again = 0.0
        self._thread = Worker("forwarder", self._run)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def wake(self) -> None:
        """Look for work at once: something was put."""
        self._woken.set()

    def learn(self) -> None:
        """Do nothing: what makes the exporters knows credentials that came later."""

    def hurry(self) -> None:
        """Try again at once where a lane waits before its next attempt: somebody flushes."""
        self._woken.set()
        for lane in list(self._lanes.values()):
            lane.hurry()

    def stop(self, timeout: float) -> bool:
        """Stop, and wait for the end at most `timeout` seconds; True when nothing of it runs any more.

        A lane that hangs in a request is left to the end of the process; its lease stays in the spool.
        """
        self._stopping.set()
        self.hurry()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def drains(self) -> bool:
        """Whether this forwarder is the one that empties the spool now."""
        return self._drain is not None

    @property
    def is_ours(self) -> bool:
        """Whether this process, or a child of its own, empties the spool now."""
        return self.drains

    @property
    def goes_on(self) -> bool:
        """Whether what waits is delivered although this process ends: it is not."""
        return False

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._look()
                self._stopping.wait(GAP)
                self._woken.wait(IDLE)
                self._woken.clear()
        finally:
            self._end_lanes()

    def _look(self) -> None:
        try:
            now = time.monotonic()
            if now >= self._survey_again:
                self._survey_again = now + IDLE
                self._survey()
            if self._drain is not None:
                for destination in self._spool.destinations():
                    attempt(self._wake_lane, self._failed, destination)
        except SpoolError as error:
            self._log.report("spool_failed", "nothing can be delivered: %s", error)
        except BaseException as error:  # noqa: BLE001 - the law: a thread's loop survives what it meets
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._log.report("forwarder_failed", "the forwarder met %s: %s", type(error).__name__, error)

    def _survey(self) -> None:
        """See to the right to empty the spool, void when its file was deleted, and to what the dead left."""
        if self._drain is not None and not self._drain.stands:
            self._drain.release()
            self._drain = None
        if self._drain is None and (drain := self._spool.drain()) is not None:
            self._drain = drain
            self._spool.sweep()
        if self._drain is not None:
            self._close_left_running()

    def _close_left_running(self) -> None:
        """Let traces that ran when their process died wait for delivery, as far as they are known."""
        left = self._spool.left_running()
        for first in range(0, len(left), GROUP):
            self._spool.put([_cut_off(item) for item in left[first : first + GROUP]])
        if left:
            self._log.count("cut_off", len(left))

    def _wake_lane(self, destination: str) -> None:
        if destination not in self._lanes:
            exporter = self._make_exporter(destination)
            self._lanes[destination] = Lane(destination, exporter, self._spool, self._log)
        self._lanes[destination].wake()

    def _end_lanes(self) -> None:
        for lane in self._lanes.values():
            lane.stop()
        if self._drain is not None and all(lane.ended() for lane in self._lanes.values()):
            self._drain.release()
            self._drain = None


def _cut_off(item: Item) -> Item:
    return replace(item, payload=unfinished.cut_off(item.payload))
