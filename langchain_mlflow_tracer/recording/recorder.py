"""Records runs as spans by run id: start, event, end, fail; hands a trace over when its root ends.

Knows neither LangChain, MLflow nor the disk. Parents come from the parent run id alone, never from
ambient context. Run ids are any hashable values.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar, TypeVarTuple

from langchain_mlflow_tracer.core import forks
from langchain_mlflow_tracer.core.record import Outcome, SpanEvent, SpanLink, SpanRecord, TraceRecord
from langchain_mlflow_tracer.recording import endings
from langchain_mlflow_tracer.recording.endings import Failure, close
from langchain_mlflow_tracer.recording.lost_runs import GRACE, LostRuns
from langchain_mlflow_tracer.recording.open_trace import Failures, OpenTrace
from langchain_mlflow_tracer.recording.snapshots import snapshot

__all__ = ["Recorder"]

Id = TypeVar("Id", bound=Hashable)

Arguments = TypeVarTuple("Arguments")

USUAL = 0.01
"""Seconds to wait for the lock: threads need it for microseconds, unless a signal interrupts them."""

_COMPLETED = Outcome.COMPLETED
"""As a global: to look a member up in its enum takes Python twice as long."""

_UNKNOWN: tuple[None, None] = (None, None)

_create = SpanRecord.create


class Recorder:
    """Turns runs into traces.

    The lock guards the tables only: no foreign code runs under it, and nothing waits while it is held. But
    the garbage collector may run in the middle of anything and close a stream, whose run then ends here, on
    a thread that has the lock already. So the lock is reentrant.
    """

    def __init__(
        self,
        hand_over: Callable[[TraceRecord], None],
        *,
        sample: Callable[[], bool | SpanLink] = lambda: True,
        count: Callable[[str], None] = lambda _cause: None,
        wall_clock: Callable[[], int] = time.time_ns,
        monotonic_clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """Give finished traces to `hand_over`; ask `sample` at each root; `count` calls out of order.

        `sample` returns whether a trace is recorded, or a link where it is part of one of another process.
        """
        self._hand_over = hand_over
        self._sample = sample
        self._count = count
        self._wall_clock = wall_clock
        self._clock = monotonic_clock
        self.has_failures = False
        """Whether a run ever failed: else `failed_below` need not be called."""
        self.forget()
        forks.enter(self, forks.Order.RECORDER, in_child=Recorder.forget)

    def start(
        self,
        run_id: Hashable,
        parent_run_id: Hashable | None,
        name: str,
        span_type: str,
        watched: Hashable | None = None,
    ) -> tuple[SpanRecord, TraceRecord | None] | None:
        """Open a span for a run, and return it to be filled; a run whose parent is unknown is a root.

        With a root comes its trace. None when there is nothing to fill: the trace is not sampled, or the run
        was started before. `watched` is an object that is held as long as somebody may end the run: when it
        is gone, and the run did not end, the run was cancelled.
        """
        runs = self._runs
        # Before the lock is taken: whether a trace is recorded is decided by foreign code too.
        new = None if parent_run_id in runs or run_id in runs else self._open_trace(run_id, name)
        with self._lock:
            if run_id in runs:
                self._count("started_twice")
                return None
            opened, parent = runs.get(parent_run_id, (new, None))
            if opened is not None:
                span = self._add(run_id, opened, parent, name, span_type)
                if opened.root_id not in self._roots:  # the garbage collector has closed it meanwhile
                    del runs[run_id]
                    opened = None
        if opened is None:  # its parent's trace was handed over just now
            return self.start(run_id, None, name, span_type, watched)
        if span is None:
            return None
        span.life = self._lost.watch(run_id, watched)
        return span, (opened.trace if parent is None else None)

    def _add(
        self, run_id: Hashable, opened: OpenTrace, parent: SpanRecord | None, name: str, span_type: str
    ) -> SpanRecord | None:
        """Enter a run in the tables, with the lock held; its span is None where the trace is not sampled."""
        if run_id == opened.root_id:
            self._roots[run_id] = opened
        span = None
        if opened.trace is not None:
            parent_id = None if parent is None else parent.span_id
            start_ns = self._clock() + opened.wall_offset
            span = _create(self._bits(64).to_bytes(8), parent_id, name, span_type, start_ns, opened.memory)
        self._runs[run_id] = opened, span
        opened.runs[run_id] = span
        return span

    def find(self, run_id: Hashable) -> tuple[SpanRecord, TraceRecord] | None:
        """Return an open run that is recorded; without the lock, since this is called for every token."""
        opened, span = self._runs.get(run_id, _UNKNOWN)
        if opened is None or opened.trace is None or span is None or span.end_ns is not None:
            return None
        return span, opened.trace

    def now(self, run_id: Hashable) -> int | None:
        """Return the time within the trace of a run, in nanoseconds since the epoch."""
        opened, _ = self._runs.get(run_id, _UNKNOWN)
        return None if opened is None else self._clock() + opened.wall_offset

    def event(self, run_id: Hashable, name: str, attributes: dict[str, object], size: int = 0) -> None:
        """Add an event to an open run; `size` is roughly the bytes its attributes take in memory."""
        run = self._find(run_id)
        if run is not None:
            opened, span = run
            span.events.append(SpanEvent(name, self._clock() + opened.wall_offset, attributes))
            span.size += size

    def end(
        self, run_id: Hashable, finish: Callable[[SpanRecord, *Arguments], None], *arguments: *Arguments
    ) -> None:
        """Close a run that completed, filled by `finish`; with a root, its trace is handed over."""
        opened, span = self._runs.get(run_id, _UNKNOWN)
        if opened is None or span is None or span.end_ns is not None:
            self._find(run_id, ends=True)  # which counts what is out of order
            return
        try:
            finish(span, *arguments)
        finally:
            close(span, endings.success(span), self._clock() + opened.wall_offset)
            if span.parent_id is None:
                self._release(opened)

    def fail(self, run_id: Hashable, failure: Failure, finish: Callable[[SpanRecord], None]) -> None:
        """Close a run that raised. The exception is recorded once: on the span that raised it first."""
        run = self._find(run_id, ends=True)
        if run is None:
            return
        opened, span = run
        with self._lock:  # several runs of a trace may fail at once
            failures = opened.failures = opened.failures or Failures()
        try:
            if failures.is_first(span, failure.cause):
                endings.add_exception(span, failure, self._clock() + opened.wall_offset)
            finish(span)
            endings.fill(span)
        finally:
            span.status_message = failure.message
            close(span, failure.outcome, self._clock() + opened.wall_offset)
            with self._lock:
                failures.add(span)
            self.has_failures = True
            if failure.outcome is Outcome.INTERRUPTED:
                endings.interrupt_parent(span, opened.spans())
            if span.parent_id is None:
                self._release(opened)

    def resume(self, run_id: Hashable) -> bool:
        """Open a failed run again, for its next attempt. False if its trace was handed over already."""
        with self._lock:
            opened, span = self._runs.get(run_id, _UNKNOWN)
        if opened is None:
            return False
        if span is not None:
            endings.reopen(span)
            with self._lock:
                if opened.failures is not None:
                    opened.failures.remove(span)
        return True

    def failed_below(self, run_id: Hashable) -> tuple[str, Sequence[SpanRecord]]:
        """Return an open run's name, and the failed runs right below it; empty where no run failed."""
        opened, parent = self._runs.get(run_id, _UNKNOWN)
        if opened is None or parent is None or opened.failures is None:
            return "", ()
        below = opened.failures.below(parent)
        return parent.name, [span for span in below if span.outcome in endings.FAILURES]

    def is_open(self, run_id: Hashable) -> bool:
        """Whether a run has started and not ended; one that is not sampled ends with its root."""
        opened, span = self._runs.get(run_id, _UNKNOWN)
        return opened is not None and (span is None or span.end_ns is None)

    def innermost(self, run_ids: Iterable[Id]) -> Id | None:
        """Return the one of these runs that started last; None where none is known."""
        spans = {run_id: run[1] for run_id in run_ids if (run := self._runs.get(run_id)) is not None}
        return max(spans, key=lambda run_id: span.start_ns if (span := spans[run_id]) else 0, default=None)

    def sweep(self, grace: float = 0.0) -> None:
        """Cancel the runs that were lost more than `grace` seconds ago and have not ended."""
        for life in self._lost.due(grace):
            run = self.find(life.run_id)
            if run is not None and run[0].life is life:  # else it has ended, or its id is in use again
                self.fail(life.run_id, Failure(Outcome.CANCELLED, endings.LOST, id(life)), lambda _span: None)

    def finish_all(self) -> None:
        """Hand over every open trace as it is: the process ends, or the tracer is closed."""
        self.sweep()
        self._pass_on_interrupted()
        with self._lock:
            roots = list(self._roots.values())
        for opened in roots:
            _, root = self._runs.get(opened.root_id, _UNKNOWN)
            if root is not None and root.end_ns is None:
                root.status_message = endings.CUT_OFF
                close(root, Outcome.CUT_OFF, self._clock() + opened.wall_offset)
            self._release(opened)

    def _pass_on_interrupted(self) -> None:
        """Hand over what this very thread is handing over, where a signal's handler interrupted it.

        The handler may end the process, so this comes first; the interrupted code may hand the same trace
        over once more. Not a part of another process's trace: MLflow may have been given that already.
        """
        here = threading.get_ident()
        for opened, thread in list(self._releasing.values()):
            if thread == here and opened.trace is not None and opened.trace.host is None:
                self._pass_on(opened, opened.trace)

    @property
    def is_recording(self) -> bool:
        """Whether a run is open."""
        return bool(self._roots)

    def running(self, min_seconds: float) -> list[TraceRecord]:
        """Return copies of the traces that have run for `min_seconds`, and have come further since the last.

        The writer calls this, and must not wait for the lock: a thread that has it for longer than usual was
        interrupted by a signal's handler, and that may wait for the writer.
        """
        if self._lost and self._lock.acquire(timeout=USUAL):
            self._lock.release()
            self.sweep(GRACE)
        roots = self._roots.copy().values()  # one step, which needs no lock
        copies = [snapshot(opened, self._clock() + opened.wall_offset, min_seconds) for opened in roots]
        return [copy for copy in copies if copy is not None]

    def forget(self) -> None:
        """Drop every open run, in a forked child; make a new lock: a parent thread may hold the old one."""
        self._lock = threading.RLock()
        self._runs: dict[Hashable, tuple[OpenTrace, SpanRecord | None]] = {}
        self._roots: dict[Hashable, OpenTrace] = {}
        # Traces that are being handed over, and the thread that does it. An open trace is in `_roots` or here
        # until it is in the queue, so that one that a signal interrupts is not lost.
        self._releasing: dict[int, tuple[OpenTrace, int]] = {}
        self._lost = LostRuns(self._clock)
        # A generator of our own, seeded by the system: neither an application that seeds Python's, nor a
        # parent process, must make two traces have one id.
        self._bits = random.Random().getrandbits  # noqa: S311 - ids, not secrets

    def _open_trace(self, root_id: Hashable, name: str) -> OpenTrace:
        if self._lost:
            self.sweep(GRACE)
        sampled = self._sample()
        host = sampled if isinstance(sampled, SpanLink) else None
        trace_id = self._bits(128).to_bytes(16) if host is None else host.trace_id
        trace = TraceRecord(trace_id, name, host=host) if sampled else None
        # Within a trace all times come from one clock that never jumps; the wall clock gives its start only.
        return OpenTrace(root_id, trace, self._wall_clock() - self._clock())

    def _find(self, run_id: Hashable, *, ends: bool = False) -> tuple[OpenTrace, SpanRecord] | None:
        """Return an open run that is recorded. A trace that is not sampled is known until its root `ends`."""
        opened, span = self._runs.get(run_id, _UNKNOWN)
        if opened is None:
            self._count("unknown_run")
            return None
        if span is None:
            if ends and run_id == opened.root_id:
                with self._lock:
                    self._drop(opened)
            return None
        if span.end_ns is not None:
            self._count("ended_twice")
            return None
        return opened, span

    def _release(self, opened: OpenTrace) -> None:
        """Hand a trace over whose root has ended, once."""
        with self._lock:
            if opened.trace is None or self._roots.get(opened.root_id) is not opened:
                return  # not sampled; or another thread, or a signal's handler in between, released it first
            opened.trace.spans = opened.spans()
            # First into this table, then out of the others: a signal's handler may come between the two.
            self._releasing[id(opened)] = opened, threading.get_ident()
            self._drop(opened)
        try:
            self._pass_on(opened, opened.trace)
        finally:
            self._releasing.pop(id(opened), None)

    def _pass_on(self, opened: OpenTrace, trace: TraceRecord) -> None:
        spans = trace.spans
        left_open = [span for span in spans if span.end_ns is None]
        if left_open or spans[0].outcome is not _COMPLETED:
            endings.close_left_open(spans, left_open, self._clock() + opened.wall_offset)
        self._hand_over(trace)

    def _drop(self, opened: OpenTrace) -> None:
        self._roots.pop(opened.root_id, None)
        drop = self._runs.pop
        for run_id in list(opened.runs):
            drop(run_id, None)
