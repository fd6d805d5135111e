"""Commits finished traces to the spool, in groups, from a queue in memory that is bounded in bytes."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from langchain_mlflow_tracer.errors import SpoolError
from langchain_mlflow_tracer.notices import Notices
from langchain_mlflow_tracer.record import TraceRecord
from langchain_mlflow_tracer.spool import Item

__all__ = ["Writer"]

GROUP: Final = 32
"""Traces that are committed together at most: the first must not wait 50 ms for the last."""

GATHER: Final = 0.01
"""Seconds to wait for more before a group is taken: one wake-up and one commit for all of them."""

TURN: Final = 0.001
"""Seconds of work before the thread lets callers go first; Python would hold them up for 5 ms. It does so
only while no second group waits: a busy caller gives it a turn only every 5 ms, and would starve it."""

PAUSE: Final = 1.0
"""Seconds between two attempts while the spool cannot be written."""

Encode = Callable[[TraceRecord], Item]
"""Redacts and encodes a trace."""

Put = Callable[[Sequence[Item]], None]
"""Commits items to the spool, or raises `SpoolError`."""


class Writer:
    """One thread between the callers and the disk. It starts with the first trace."""

    def __init__(self, encode: Encode, put: Put, max_bytes: int, notices: Notices) -> None:
        """Hold at most `max_bytes` of traces in memory; what does not fit is dropped and counted."""
        self._encode = encode
        self._put = put
        self._max_bytes = max_bytes
        self._notices = notices
        self.reset()

    def reset(self) -> None:
        """Start anew, with an empty queue and no thread: as a forked child must."""
        self._condition = threading.Condition()
        self._queue: deque[TraceRecord] = deque()
        self._bytes = 0
        self._encoded: list[Item] = []
        self._busy = False
        self._stopping = False
        self._thread: threading.Thread | None = None

    def accept(self, trace: TraceRecord) -> bool:
        """Take a trace over, unless the queue is full; never waits."""
        size = trace.size
        with self._condition:
            full = self._bytes + size > self._max_bytes and bool(self._queue)
            if not full:
                self._queue.append(trace)
                self._bytes += size
                self._start()
                self._condition.notify_all()
        if full:
            self._notices.warn(
                "dropped_queue_full",
                "a trace was dropped: %d MiB wait for the spool already",
                self._bytes >> 20,
            )
        return not full

    def wait_empty(self, timeout: float) -> bool:
        """Wait until everything that was accepted is in the spool, at most `timeout` seconds."""
        with self._condition:
            return self._condition.wait_for(self._is_empty, timeout)

    def stop(self, timeout: float) -> None:
        """Write what is there and end the thread; what cannot be written within `timeout` is dropped."""
        self.wait_empty(timeout)
        with self._condition:
            self._stopping = True
            left = len(self._queue) + len(self._encoded)
            self._condition.notify_all()
        if left:
            self._notices.warn(
                "dropped_at_close", "traces were dropped: the spool could not be written", count=left
            )

    def _is_empty(self) -> bool:
        return not (self._queue or self._encoded or self._busy)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mlflow-tracer-writer", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._write_group()
            except SpoolError as error:
                self._notices.warn("spool_failed", "traces wait in memory: %s", error)
                self._pause()
            except Exception as error:  # noqa: BLE001 - the law: a thread's loop survives what it meets
                self._notices.warn("writer_failed", "the writer met %s: %s", type(error).__name__, error)

    def _write_group(self) -> None:
        turn = time.monotonic() + TURN
        for trace in self._take():
            self._encode_one(trace)
            if time.monotonic() >= turn and len(self._queue) < GROUP:
                time.sleep(0)
                turn = time.monotonic() + TURN
        if self._encoded:
            self._put(self._encoded)
        with self._condition:
            self._encoded = []
            self._busy = False
            self._condition.notify_all()

    def _take(self) -> list[TraceRecord]:
        """Wait for traces and take the first of them; they count as held until they are encoded."""
        with self._condition:
            self._condition.wait_for(lambda: self._queue or self._encoded or self._stopping)
        time.sleep(GATHER)
        with self._condition:
            self._busy = True
            room = GROUP - len(self._encoded)
            taken = [self._queue.popleft() for _ in range(min(room, len(self._queue)))]
            self._bytes -= sum(trace.size for trace in taken)
            return taken

    def _encode_one(self, trace: TraceRecord) -> None:
        try:
            self._encoded.append(self._encode(trace))
        except Exception as error:  # noqa: BLE001 - one trace that cannot be encoded must not cost the others
            self._notices.warn(
                "dropped_not_encoded", "a trace was dropped: %s: %s", type(error).__name__, error
            )

    def _pause(self) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._stopping, PAUSE)
