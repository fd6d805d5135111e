"""Empties a spool: one forwarder at a time, the one that holds the drain lock.

Each destination has a lane, which is a thread, so that a destination that hangs does not delay the others.
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
from langchain_mlflow_tracer.spool.rows import Item
from langchain_mlflow_tracer.spool.spool import Spool

__all__ = ["Forwarder"]

IDLE: Final = 0.25
"""Seconds after which an idle forwarder checks whether another process has put a trace, or has died."""

GROUP: Final = 500
"""Items in one statement: SQLite takes some thousands."""

GAP: Final = 0.02
"""Seconds between two checks, however often it is woken: each takes the GIL from the application."""

MakeExporter = Callable[[str], Exporter]
"""Makes the exporter for a destination, by its text in the spool."""


class Forwarder:
    """Sends the pending traces of `spool`, in a background thread, until it is stopped."""

    def __init__(self, spool: Spool, make_exporter: MakeExporter, log: Log) -> None:
        self._spool = spool
        self._make_exporter = make_exporter
        self._log = log
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._lanes: dict[str, Lane] = {}
        self._drain: FileLock | None = None
        self._next_survey = 0.0
        self._thread = Worker("forwarder", self._run)

    def start(self) -> None:
        """Start to send."""
        self._thread.start()

    def wake(self) -> None:
        """Check the spool now: something was put."""
        self._woken.set()

    def add_credentials(self) -> None:
        """Do nothing: `make_exporter` knows credentials that were added later."""

    def retry_now(self) -> None:
        """Let lanes that wait make their next attempt now: the application flushes."""
        self._woken.set()
        for lane in list(self._lanes.values()):
            lane.retry_now()

    def stop(self, timeout: float) -> bool:
        """Stop, and wait at most `timeout` seconds; True if its thread has ended.

        A lane that hangs in a request runs until the process ends; its traces stay in the spool.
        """
        self._stopping.set()
        self.retry_now()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def holds_drain_lock(self) -> bool:
        """Whether this forwarder is the one that empties the spool now."""
        return self._drain is not None

    @property
    def is_ours(self) -> bool:
        """Whether this process, or a child of its own, empties the spool now."""
        return self.holds_drain_lock

    @property
    def outlives_process(self) -> bool:
        """Whether pending traces are sent even if this process ends: no."""
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
            if now >= self._next_survey:
                self._next_survey = now + IDLE
                self._survey()
            if self._drain is not None:
                for destination in self._spool.destinations():
                    attempt(self._wake_lane, self._failed, destination)
        except SpoolError as error:
            self._log.report("spool_failed", "no trace can be sent now: %s", error)
        except BaseException as error:  # noqa: BLE001 - the law: a thread's loop survives every exception
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        self._log.report("forwarder_failed", "the forwarder failed: %s: %s", type(error).__name__, error)

    def _survey(self) -> None:
        """Take the drain lock, again if its file was deleted; close the traces of processes that died."""
        if self._drain is not None and not self._drain.is_valid:
            self._drain.release()
            self._drain = None
        if self._drain is None and (drain := self._spool.drain()) is not None:
            self._drain = drain
            self._spool.running.remove_stale_locks()
        if self._drain is not None:
            self._close_left_running()

    def _close_left_running(self) -> None:
        """Put traces that were running when their process died, cut off, among the pending ones."""
        left = self._spool.running.of_dead_processes()
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
    return replace(item, payload=unfinished.as_cut_off(item.payload))
