"""Commits finished traces to the spool, in groups, from a queue in memory that is bounded in bytes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from langchain_mlflow_tracer.core import forks
from langchain_mlflow_tracer.core.errors import SpoolError
from langchain_mlflow_tracer.core.guard import Worker, attempt
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import TraceRecord
from langchain_mlflow_tracer.encoding.memory_queue import Entry, MemoryQueue
from langchain_mlflow_tracer.spool.rows import Item

__all__ = ["Writer"]

GROUP: Final = 64
"""Traces that are committed together at most: the first must not wait 50 ms for the last."""

FEW: Final = 8
"""Traces up to which there is time to wait, for more of them or for callers. A caller that is never idle
gives this thread a turn only every 5 ms: letting it go first would mean to fall behind."""

GATHER: Final = 0.01
"""Seconds to wait for more before a group of few is taken: one wake-up and one commit for all of them."""

TURN: Final = 0.0005
"""Seconds of work before the thread lets callers go first; Python would hold them up for 5 ms."""

PAUSE: Final = 1.0
"""Seconds between two attempts while the spool cannot be written."""

TICK: Final = 1.0
"""Seconds between two looks at what runs."""

TICK_SHARE: Final = 50
"""Pause after a tick, as a multiple of its processor time: what runs takes at most a fiftieth of a core."""

Encode = Callable[[TraceRecord], Item]
"""Redacts and encodes a trace."""

Put = Callable[[Sequence[Item]], None]
"""Commits items to the spool, or raises `SpoolError`."""


class Writer:
    """One thread between the callers and the disk: nobody else waits for the disk.

    Args:
        encode: makes an item of a trace.
        put: commits items.
        max_bytes: of traces that wait in memory; what does not fit is dropped and counted.
        log: gets what goes wrong.
        gather: seconds to wait for more before a group is taken.
        tick: is called about once a second.
        last: is called when the thread ends.
    """

    def __init__(
        self,
        encode: Encode,
        put: Put,
        max_bytes: int,
        log: Log,
        *,
        gather: float = GATHER,
        tick: Callable[[], None] = lambda: None,
        last: Callable[[], None] = lambda: None,
    ) -> None:
        self._encode = encode
        self._put = put
        self._max_bytes = max_bytes
        self._log = log
        self._gather = gather
        self._tick = tick
        self._last = last
        forks.enter(self, forks.Order.WRITER, in_child=Writer.reset)
        self.reset()

    def reset(self) -> None:
        """Start with an empty queue and no thread, as a forked child must: threads are not forked."""
        self._queue = MemoryQueue(self._max_bytes)
        self._starting = threading.RLock()
        self._next_tick = 0.0
        self._ends_when_empty = False
        self._thread: Worker | None = None

    def start(self) -> None:
        """Start the thread, if it does not run yet."""
        if self._thread is None:
            with self._starting:
                self._start()

    def _start(self) -> None:
        if self._thread is None and not self._queue.is_closed:
            self._thread = Worker("writer", self._run)
            self._thread.start()

    def accept(self, trace: TraceRecord) -> int | None:
        """Take a trace over and return its number, unless the queue is full; never waits for the disk."""
        number = self._queue.append(trace)
        if number is None:
            self._log.report(
                "dropped_queue_full", "a trace was dropped: %d MiB wait for the spool already",
                self._queue.bytes >> 20,
            )  # fmt: skip
        self.start()
        return number

    def wait_for(self, number: int, timeout: float) -> bool:
        """Wait until the trace of that number is in the spool, at most `timeout` seconds."""
        return self._queue.wait_for(number, self._patience(timeout))

    def wait_empty(self, timeout: float, *, patient: bool = True) -> bool:
        """Wait until everything that was accepted is in the spool, at most `timeout` seconds.

        Without `patient`, a disk that fails is tried once more, at once, and not waited for after that.
        """
        return self._queue.wait_empty(self._patience(timeout), patient=patient)

    def _patience(self, timeout: float) -> float:
        """Return the timeout, or 0 on the writer's own thread, which would wait for itself.

        The garbage collector may close a stream there, or a tracer that nothing holds any more.
        """
        return 0.0 if threading.current_thread() is self._thread else timeout

    def stop(self, timeout: float) -> None:
        """Write what is there and end the thread; what cannot be written within `timeout` is dropped."""
        if threading.current_thread() is self._thread:
            self._ends_when_empty = True
            return
        deadline = time.monotonic() + timeout
        self.wait_empty(timeout, patient=False)
        if left := self._queue.close():
            self._log.report(
                "dropped_at_close", "traces were dropped: the spool could not be written", count=left
            )
        if self._thread is not None:
            self._queue.wait_until_left(max(0.0, deadline - time.monotonic()))

    @property
    def is_empty(self) -> bool:
        """Whether everything that was accepted is in the spool."""
        return not self._queue

    def _run(self) -> None:
        while not self._is_over():
            self._survives(self._look)  # even if it fails, finished traces are written
            if not self._survives(self._write_group):
                self._queue.pause(PAUSE)
        try:
            with contextlib.suppress(SpoolError):
                self._last()
        finally:
            self._queue.leave()

    def _is_over(self) -> bool:
        if self._ends_when_empty and not self._queue:
            self._queue.close()
        return self._queue.is_closed

    def _survives(self, step: Callable[[], None]) -> bool:
        try:
            step()
        except SpoolError as error:
            self._log.report("spool_failed", "traces wait in memory: %s", error)
        except BaseException as error:  # noqa: BLE001 - the law: a thread's loop survives what it meets
            self._log.report("writer_failed", "the writer failed: %s: %s", type(error).__name__, error)
        else:
            return True
        return False

    def _look(self) -> None:
        """Tick, if it is time; ticks that take much processor time are rare. The first opens the spool."""
        if time.monotonic() >= self._next_tick:
            is_first, self._next_tick = self._next_tick == 0.0, time.monotonic() + PAUSE  # if it fails
            # Not the duration: a tick that waits for Python's lock, which a busy application holds, costs
            # nothing, and must not delay the next one.
            began = time.thread_time()
            self._tick()
            took = 0.0 if is_first else time.thread_time() - began
            self._next_tick = time.monotonic() + max(TICK, TICK_SHARE * took)

    def _write_group(self) -> None:
        self._wait_for_work()
        group = self._queue.first(GROUP)
        self._encode_group(group)
        items = [entry.item for entry in group if entry.item is not None]
        if items:
            self._put(items)
        self._queue.remove(len(group))  # only now: if the disk fails, the traces are put again

    def _wait_for_work(self) -> None:
        """Wait for traces, or the next tick; where there are few, for more of them."""
        self._queue.wait_for_work(self._next_tick - time.monotonic())
        if self._gather and 0 < len(self._queue) < FEW:
            time.sleep(self._gather)

    def _encode_group(self, group: Sequence[Entry]) -> None:
        """Encode what is not encoded yet, and yield to callers now and then."""
        turn_ends = time.monotonic() + TURN
        for place, entry in enumerate(group, start=1):
            if entry.trace is not None:
                self._queue.replace(entry, self._encode_one(entry.trace))
            if time.monotonic() >= turn_ends:
                if len(self._queue) - place < FEW:
                    time.sleep(0)
                turn_ends = time.monotonic() + TURN

    def _encode_one(self, trace: TraceRecord) -> Item | None:
        def drop(error: BaseException) -> None:
            self._log.report(
                "dropped_not_encoded", "a trace was dropped: %s: %s", type(error).__name__, error
            )

        # A signal's handler may have handed the same trace over again. Its first encoding has used it up.
        if trace.is_encoded:
            return None
        trace.is_encoded = True
        # One trace that cannot be encoded must not cost the others.
        return attempt(self._encode, drop, trace)
