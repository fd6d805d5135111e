"""Holds finished traces in memory, numbered and bounded in bytes, until they are on disk.

A trace leaves the queue only when it is in the spool, so there is no moment at which nothing holds it.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from itertools import islice

from langchain_mlflow_tracer.core.record import TraceRecord
from langchain_mlflow_tracer.encoding.trace_size import count_once
from langchain_mlflow_tracer.spool.rows import Item

__all__ = ["Entry", "MemoryQueue"]


@dataclass(slots=True)
class Entry:
    """A trace in the queue, and the bytes it takes there; once it is encoded, its item instead."""

    trace: TraceRecord | None
    size: int
    item: Item | None = None


class MemoryQueue:
    """Traces in the order in which they finished; `max_bytes` is what they may take in memory."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        # Reentrant: within `append`, the garbage collector may close a stream, and a signal's handler may
        # close the tracer, both on the thread that holds the lock. Waiting for the condition gives it up.
        self._condition = threading.Condition(threading.RLock())
        self._entries: deque[Entry] = deque()
        self.bytes = 0
        """Bytes that the traces take."""
        self.written = 0
        """Traces that have left for the disk: the number of the last of them."""
        self.is_closed = False
        """Whether the writer ends."""
        self._is_left = False
        self._failures = 0
        self._is_urgent = self._sleeps = False

    def __len__(self) -> int:
        """Return how many traces are not on disk yet."""
        return len(self._entries)

    def append(self, trace: TraceRecord) -> int | None:
        """Take a trace and return its number, or None if the queue is full; never waits for the writer."""
        size = count_once(trace)
        with self._condition:
            if self.bytes and self.bytes + size > self._max_bytes:
                return None
            self._entries.append(Entry(trace, size))
            self.bytes += size
            if self._sleeps:  # waking a thread that works would cost every caller a system call
                self._sleeps = False
                self._condition.notify_all()
            return self.written + len(self._entries)

    def first(self, count: int) -> list[Entry]:
        """Return the traces that wait longest, `count` at most."""
        with self._condition:
            return list(islice(self._entries, count))

    def replace(self, entry: Entry, item: Item | None) -> None:
        """Keep what a trace was encoded to in its place; nothing where it could not be encoded."""
        with self._condition:
            size = 0 if item is None else len(item.payload)
            self.bytes += size - entry.size
            entry.trace, entry.item, entry.size = None, item, size

    def remove(self, count: int) -> None:
        """Remove the first `count` traces, which are on disk, and wake the callers that wait for them."""
        with self._condition:
            for _ in range(count):
                self.bytes -= self._entries.popleft().size
            self.written += count
            self._condition.notify_all()

    # Waiting: `timeout` is in seconds.

    def wait_for_work(self, timeout: float) -> None:
        """Wait until there is a trace, or the queue is closed."""
        with self._condition:
            self._sleeps = True
            self._condition.wait_for(lambda: self._entries or self.is_closed, max(0.0, timeout))
            self._sleeps = False

    def wait_for(self, number: int, timeout: float) -> bool:
        """Wait until the trace of that number is on disk; return False if that takes longer.

        Where the writing thread has ended, there is nothing to wait for: a signal's handler closed the tracer
        while this thread handed the trace over, and handed over the same trace before.
        """
        with self._condition:
            return self._condition.wait_for(lambda: self.written >= number or self._is_left, timeout)

    def wait_empty(self, timeout: float, *, patient: bool) -> bool:
        """Wait until every trace is on disk; return whether they are.

        Not `patient`: let a disk that fails try once more, at once, and wait no longer.
        """
        with self._condition:
            before, self._is_urgent = self._failures, not patient
            self._condition.notify_all()
            self._condition.wait_for(
                lambda: not self._entries or self._is_left or (not patient and self._failures > before),
                timeout,
            )
            return not self._entries

    def pause(self, timeout: float) -> None:
        """Wait after a failure before the next attempt, unless a caller asked for an attempt now."""
        with self._condition:
            self._failures += 1
            self._condition.notify_all()
            self._condition.wait_for(lambda: self.is_closed or self._is_urgent, timeout)
            self._is_urgent = False

    def close(self) -> int:
        """End the waits of the writer; return how many traces are left."""
        with self._condition:
            self.is_closed = True
            self._condition.notify_all()
            return len(self._entries)

    def leave(self) -> None:
        """Note that the writer's thread has ended."""
        with self._condition:
            self._is_left = True
            self._condition.notify_all()

    def wait_until_left(self, timeout: float) -> None:
        """Wait for the end of the thread that writes.

        Not by `join`: within a signal's handler, a caller holds the lock that the thread needs to end.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._is_left, timeout)
