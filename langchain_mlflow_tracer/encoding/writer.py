"""Commits finished traces to the spool, in groups, from a queue in memory that is bounded in bytes."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from langchain_mlflow_tracer.core import forks
from langchain_mlflow_tracer.core.errors import SpoolError
from langchain_mlflow_tracer.core.guard import Worker, attempt
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import TraceRecord
from langchain_mlflow_tracer.encoding.trace_size import count_once
from langchain_mlflow_tracer.spool.spool import Item

__all__ = ["Writer"]

GROUP: Final = 64
"""Traces that are committed together at most: the first must not wait 50 ms for the last."""

FEW: Final = 8
"""Traces up to which there is time to wait, for more of them or for callers. A caller that is never idle
gives this thread a turn only every 5 ms: letting it go first would mean to fall behind."""

PILED: Final = 12
"""Traces that wait when a caller encodes them itself: so many pile up only where no caller is idle. This
thread would have its turn later, and take it from all of them, for longer. Whoever was called next finds the
caches cold: with 8 that was half of all invokes of a saturated loop, with 12 a third."""

LENT: Final = 0.0007
"""Seconds after which a caller leaves the rest to this thread: with what it is at, within a millisecond."""

SMALL: Final = 32 * 1024
"""Bytes of a trace that a caller may encode; larger ones take more than it should lend."""

GATHER: Final = 0.01
"""Seconds to wait for more before a group of few is taken: one wake-up and one commit for all of them."""

TURN: Final = 0.0005
"""Seconds of work before the thread lets callers go first; Python would hold them up for 5 ms."""

PAUSE: Final = 1.0
"""Seconds between two attempts while the spool cannot be written."""

TICK: Final = 1.0
"""Seconds between two looks at what runs."""

TICK_SHARE: Final = 50
"""How many times longer than a tick took the next one is away: what runs takes a fiftieth of a core."""

Encode = Callable[[TraceRecord], Item]
"""Redacts and encodes a trace."""

Put = Callable[[Sequence[Item]], None]
"""Commits items to the spool, or raises `SpoolError`."""


@dataclass(slots=True)
class _Waiting:
    """A trace in the queue, and the bytes it takes there; once it is encoded, its item instead."""

    trace: TraceRecord | None
    size: int
    item: Item | None = None


class Writer:
    """One thread between the callers and the disk: nobody else waits for the disk.

    Args:
        encode: makes an item of a trace.
        put: commits items.
        max_bytes: of traces that wait in memory; what does not fit is dropped and counted.
        log: gets what goes wrong.
        gather: seconds to wait for more before a group is taken.
        lends: whether callers encode what piles up: not where that runs code of others.
        at_once: whether a caller encodes what it hands over, since it waits for it anyway.
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
        lends: bool = True,
        at_once: bool = False,
        tick: Callable[[], None] = lambda: None,
        last: Callable[[], None] = lambda: None,
    ) -> None:
        self._encode = encode
        self._put = put
        self._max_bytes = max_bytes
        self._log = log
        self._gather = gather
        self._piled = 1 if at_once else PILED
        self._lends = lends
        self._tick = tick
        self._last = last
        self.reset()
        forks.enter(self, forks.Order.WRITER, in_child=Writer.reset)

    def reset(self) -> None:
        """Start anew, with an empty queue and no thread: as a forked child must."""
        atexit.unregister(self._stop_at_exit)  # which was the parent's
        self._lock = threading.RLock()  # the garbage collector may close a stream under it (see `recorder`)
        self._condition = threading.Condition(self._lock)
        self.encoding = threading.RLock()
        """Held by who encodes: one at a time, so that traces keep their order."""
        self._stop_within: float | None = None
        self._queue: deque[_Waiting] = deque()
        self._encoded = 0  # of those in the queue, the first ones
        self._bytes = 0
        self._written = self._failed = 0
        self._hurried = self._sleeps = False
        self._next_tick = 0.0
        self._stopping = False
        self._thread: Worker | None = None

    def start(self) -> None:
        """Start the thread, if it does not run yet."""
        if self._thread is None:
            with self._condition:
                self._start()

    def accept(self, trace: TraceRecord) -> int | None:
        """Take a trace over and return its number, unless the queue is full; never waits."""
        size = count_once(trace)
        with self._lock:
            is_full = self._bytes + size > self._max_bytes and self._bytes > 0
            if not is_full:
                self._queue.append(_Waiting(trace, size))
                self._bytes += size
                waiting = len(self._queue)
                number, piled = self._written + waiting, waiting - self._encoded
                if self._thread is None:
                    self._start()
        if is_full:
            self._log.report(
                "dropped_queue_full", "a trace was dropped: %d MiB wait for the spool already",
                self._bytes >> 20,
            )  # fmt: skip
            return None
        if piled >= self._piled and self._lends:
            self._lend()
        if self._sleeps:
            with self._condition:
                self._sleeps = False
                self._condition.notify_all()
        return number

    def _lend(self) -> None:
        """Encode what piles up on the caller's thread, unless somebody is at it."""
        if self._encodes():
            return
        try:
            if self.encoding.acquire(blocking=False):
                until = time.monotonic() + LENT
                while self._encode_next(SMALL) and time.monotonic() < until:
                    pass
        finally:
            if self._encodes():
                self.encoding.release()
            if self._stop_within is not None:
                self.stop(self._stop_within)

    def _encodes(self) -> bool:
        """Whether this thread holds the right to encode: known for sure wherever an interrupt comes."""
        return bool(self.encoding._is_owned())  # type: ignore[attr-defined]  # noqa: SLF001 - of CPython, for its Condition

    def _holds_up(self) -> bool:
        """Whether this very thread has traces in its hands: it would wait for itself.

        So it is within a signal's handler, or where the garbage collector closes a stream.
        """
        return self._encodes() or threading.current_thread() is self._thread

    def wait_for(self, number: int, timeout: float) -> bool:
        """Wait until the trace of that number is in the spool, at most `timeout` seconds."""
        timeout = 0.0 if self._holds_up() else timeout
        with self._condition:
            return self._condition.wait_for(lambda: self._written >= number, timeout)

    def wait_empty(self, timeout: float, *, patient: bool = True) -> bool:
        """Wait until everything that was accepted is in the spool, at most `timeout` seconds.

        Who is not `patient` lets a disk that fails try once more, at once, and waits no longer.
        """
        timeout = 0.0 if self._holds_up() else timeout
        with self._condition:
            failed_before, self._hurried = self._failed, not patient
            self._condition.notify_all()
            self._condition.wait_for(
                lambda: not self._queue or (not patient and self._failed > failed_before), timeout
            )
            return not self._queue

    def stop(self, timeout: float) -> None:
        """Write what is there and end the thread; what cannot be written within `timeout` is dropped.

        Who is in the middle of encoding stops it afterwards; at the latest, the end of the process does.
        """
        self._stop_within = timeout if self._holds_up() else None
        if self._stop_within is not None:
            atexit.register(self._stop_at_exit)
            return
        atexit.unregister(self._stop_at_exit)
        deadline = time.monotonic() + timeout
        self.wait_empty(timeout, patient=False)
        with self._condition:
            self._stopping = True
            left = len(self._queue)
            self._condition.notify_all()
        if left:
            self._log.report(
                "dropped_at_close", "traces were dropped: the spool could not be written", count=left
            )
        if self._thread is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))

    def _stop_at_exit(self) -> None:
        """Stop after all, where an exception came just when the right to encode was to be given back."""
        while self._encodes():
            self.encoding.release()
        self.stop(self._stop_within or 0.0)

    @property
    def is_empty(self) -> bool:
        """Whether everything that was accepted is in the spool."""
        return not self._queue

    def _start(self) -> None:
        if self._thread is None and not self._stopping:
            self._thread = Worker("writer", self._run)
            self._thread.start()

    def _run(self) -> None:
        while not self._is_over():
            self._survives(self._look)  # whatever comes of it, finished traces are written
            if not self._survives(self._write_group):
                self._pause()
        with contextlib.suppress(SpoolError):
            self._last()
        atexit.unregister(self._stop_at_exit)

    def _is_over(self) -> bool:
        """Whether it is told to stop; what this very thread was told it does once nothing is left."""
        if self._stop_within is not None and not self._queue:
            self._stopping = True
        return self._stopping

    def _survives(self, step: Callable[[], None]) -> bool:
        try:
            step()
        except SpoolError as error:
            self._log.report("spool_failed", "traces wait in memory: %s", error)
        except BaseException as error:  # noqa: BLE001 - the law: a thread's loop survives what it meets
            self._log.report("writer_failed", "the writer met %s: %s", type(error).__name__, error)
        else:
            return True
        return False

    def _look(self) -> None:
        """Tick, if it is time; the more a tick takes, the rarer it is. The first opens the disk."""
        began = time.monotonic()
        if began >= self._next_tick:
            is_first, self._next_tick = self._next_tick == 0.0, began + PAUSE  # if it fails
            self._tick()
            took = 0.0 if is_first else time.monotonic() - began
            self._next_tick = began + max(TICK, TICK_SHARE * took)

    def _write_group(self) -> None:
        self._wait_for_work()
        self._encode_waiting()
        group = [self._queue[place] for place in range(min(GROUP, self._encoded))]
        items = [one.item for one in group if one.item is not None]
        if items:
            self._put(items)
        with self._condition:
            for one in group:
                self._queue.popleft()
                self._bytes -= one.size
            self._encoded -= len(group)
            self._written += len(group)
            self._condition.notify_all()

    def _wait_for_work(self) -> None:
        """Wait for traces, or the next tick; where there are few, for more of them."""
        with self._condition:
            while not (self._queue or self._stopping):
                due = self._next_tick - time.monotonic()
                if due <= 0:
                    return
                self._sleeps = True
                self._condition.wait(due)
            self._sleeps = False
        if self._gather and len(self._queue) < FEW:
            time.sleep(self._gather)

    def _encode_waiting(self) -> None:
        """Encode a group, and let callers go first now and then."""
        while self._encoded < min(GROUP, len(self._queue)):
            turn = time.monotonic() + TURN
            with self.encoding:
                while self._encoded < GROUP and self._encode_next() and time.monotonic() < turn:
                    pass
            if len(self._queue) - self._encoded < FEW:
                time.sleep(0)

    def _encode_next(self, largest: int | None = None) -> bool:
        """Encode the trace that waits longest; False where there is none, or it is larger than that.

        An interrupt may come between any two steps, and leave with an exception.
        """
        with self._lock:
            if len(self._queue) <= self._encoded:
                return False
            one = self._queue[self._encoded]
        if largest is not None and one.size > largest:
            return False
        if one.trace is not None and not one.trace.is_encoded:
            one.item = self._encode_one(one.trace)
            one.trace.is_encoded = True
        taken = 0 if one.item is None else len(one.item.payload)
        with self._lock:
            self._bytes += taken - one.size
            one.size = taken
            self._encoded += 1
            one.trace = None
        return True

    def _encode_one(self, trace: TraceRecord) -> Item | None:
        def drop(error: BaseException) -> None:
            self._log.report(
                "dropped_not_encoded", "a trace was dropped: %s: %s", type(error).__name__, error
            )

        # One trace that cannot be encoded must not cost the others.
        return attempt(self._encode, drop, trace)

    def _pause(self) -> None:
        with self._condition:
            self._failed += 1
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._stopping or self._hurried, PAUSE)
            self._hurried = False
