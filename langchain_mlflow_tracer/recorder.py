"""Records runs as spans by run id: start, event, end, fail; hands a trace over when its root ends.

Knows neither LangChain, MLflow nor the disk. Parents come from the parent run id alone, never from
ambient context. Run ids are any hashable values.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace

from langchain_mlflow_tracer.record import Gathered, Outcome, SpanEvent, SpanRecord, Status, TraceRecord

__all__ = ["Failure", "Finish", "Recorder"]

Finish = Callable[[SpanRecord], None]
"""Fills a span that is about to end."""

UNFINISHED = "did not end before its root"
"""The status message of a span that its root left open."""

CUT_OFF = "cut off: the tracer was closed, or its process ended, while it ran"
"""The status message of a root that was open at the end."""

_FAILURES = frozenset({Outcome.ERROR, Outcome.CANCELLED, Outcome.CUT_OFF})

_SHARED_FATES = frozenset({Outcome.CANCELLED, Outcome.INTERRUPTED, Outcome.CUT_OFF})


@dataclass(frozen=True, slots=True)
class Failure:
    """How a run failed. `cause` tells one raised exception from another while it passes up the runs."""

    outcome: Outcome
    message: str
    cause: Hashable
    event: Callable[[], dict[str, object]] | None = None
    """Makes the attributes of the exception event, where the outcome deserves one."""


@dataclass(slots=True)
class _OpenTrace:
    """A trace whose root has not ended; `trace` is None when it is not sampled."""

    root_id: Hashable
    trace: TraceRecord | None
    wall_offset: int
    spans: dict[Hashable, SpanRecord] = field(default_factory=dict)
    run_ids: list[Hashable] = field(default_factory=list)
    raised: set[tuple[bytes | None, Hashable]] = field(default_factory=set)
    written: tuple[int, ...] = ()
    """How far it had come when it was last written as it stood."""


class Recorder:
    """Turns runs into traces.

    The lock guards the tables only: no foreign code runs under it, and nothing waits for anything.
    """

    def __init__(
        self,
        hand_over: Callable[[TraceRecord], None],
        *,
        sample: Callable[[], bool] = lambda: True,
        count: Callable[[str], None] = lambda _cause: None,
        wall_clock: Callable[[], int] = time.time_ns,
        monotonic_clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """Give finished traces to `hand_over`; ask `sample` at each root; tell `count` what was odd."""
        self._hand_over = hand_over
        self._sample = sample
        self._count = count
        self._wall_clock = wall_clock
        self._clock = monotonic_clock
        self.forget()

    def start(
        self, run_id: Hashable, parent_run_id: Hashable | None, name: str, span_type: str
    ) -> tuple[SpanRecord, TraceRecord | None] | None:
        """Open a span for a run, and return it to be filled; a run whose parent is unknown is a root.

        With a root comes its trace. None when there is nothing to fill: the trace is not sampled, or the run
        was started before.
        """
        with self._lock:
            if run_id in self._runs:
                self._count("started_twice")
                return None
            opened = self._runs.get(parent_run_id) if parent_run_id is not None else None
            is_root = opened is None
            if opened is None:
                opened = self._open_trace(run_id, name)
                self._roots[run_id] = None
            self._runs[run_id] = opened
            opened.run_ids.append(run_id)
            if opened.trace is None:
                return None
            parent_id = None if is_root else opened.spans[parent_run_id].span_id
            now = self._clock() + opened.wall_offset
            span = opened.spans[run_id] = SpanRecord(self._identify(8), parent_id, name, span_type, now)
        return span, opened.trace if is_root else None

    def gathered(self, run_id: Hashable) -> Gathered | None:
        """Return what an open run has gathered so far; asked for with every token, so without the lock."""
        opened = self._runs.get(run_id)
        span = None if opened is None else opened.spans.get(run_id)
        return None if span is None else span.gathered

    def event(self, run_id: Hashable, name: str, attributes: dict[str, object], size: int = 0) -> None:
        """Add an event to an open run; `size` is roughly the bytes its attributes take in memory."""
        found = self._find(run_id)
        if found is not None:
            opened, span = found
            span.events.append(SpanEvent(name, self._clock() + opened.wall_offset, attributes))
            span.size += size

    def end(self, run_id: Hashable, finish: Finish) -> None:
        """Close a run that completed; with a root, its trace is handed over."""
        found = self._find(run_id, ends=True)
        if found is None:
            return
        opened, span = found
        try:
            finish(span)
        finally:
            self._close(span, opened, Outcome.COMPLETED)
            if span.parent_id is None:
                self._release(opened)

    def fail(self, run_id: Hashable, failure: Failure, finish: Finish) -> None:
        """Close a run that raised. The exception is told once: on the span that raised it first."""
        found = self._find(run_id, ends=True)
        if found is None:
            return
        opened, span = found
        try:
            self._tell(failure, span, opened)
            finish(span)
            _fill(span)
        finally:
            span.status_message = failure.message
            self._close(span, opened, failure.outcome)
            if span.parent_id is None:
                self._release(opened)

    def finish_all(self) -> None:
        """Hand over every open trace as it stands: the process ends, or the tracer is closed."""
        with self._lock:
            opened = {id(one): one for one in self._runs.values()}.values()
        for one in list(opened):
            root = one.spans.get(one.root_id)
            if root is not None and root.end_ns is None:
                root.status_message = CUT_OFF
                self._close(root, one, Outcome.CUT_OFF)
            self._release(one)

    @property
    def is_recording(self) -> bool:
        """Whether a run is open."""
        return bool(self._roots)

    def running(self, seconds: float) -> list[TraceRecord]:
        """Return copies, as they stand, of traces that run for more than `seconds` and have come further."""
        with self._lock:
            opened = [self._runs[root_id] for root_id in self._roots if root_id in self._runs]
        copies = (self._as_it_stands(one, seconds) for one in opened)
        return [copy for copy in copies if copy is not None]

    def _as_it_stands(self, opened: _OpenTrace, seconds: float) -> TraceRecord | None:
        spans = list(opened.spans.values())
        now = self._clock() + opened.wall_offset
        if opened.trace is None or not spans or now - spans[0].start_ns < seconds * 1e9:
            return None
        come = (len(spans), sum(span.end_ns is not None for span in spans), sum(len(s.events) for s in spans))
        if come == opened.written:
            return None
        opened.written = come
        return replace(opened.trace, spans=[_copied(span, now) for span in spans])

    def forget(self) -> None:
        """Drop every open run and start with a fresh lock: a forked child does not own its parent's."""
        self._lock = threading.Lock()
        self._runs: dict[Hashable, _OpenTrace] = {}
        self._roots: dict[Hashable, None] = {}
        # A generator of our own, seeded by the system: an application that seeds Python's, or a parent
        # process, must not make two traces one.
        self._random = random.Random()  # noqa: S311 - ids, not secrets

    def _identify(self, size: int) -> bytes:
        return self._random.getrandbits(8 * size).to_bytes(size, "big")

    def _open_trace(self, root_id: Hashable, name: str) -> _OpenTrace:
        trace = TraceRecord(self._identify(16), name) if self._sample() else None
        # Within a trace time comes from one clock that never jumps; the wall clock only says where it began.
        return _OpenTrace(root_id, trace, self._wall_clock() - self._clock())

    def _find(self, run_id: Hashable, *, ends: bool = False) -> tuple[_OpenTrace, SpanRecord] | None:
        """Return an open run that is recorded. A trace that is not sampled is known until its root `ends`."""
        with self._lock:
            opened = self._runs.get(run_id)
            if opened is None:
                self._count("unknown_run")
                return None
            if opened.trace is None:
                if ends and run_id == opened.root_id:
                    self._forget(opened)
                return None
            span = opened.spans[run_id]
            if span.end_ns is not None:
                self._count("ended_twice")
                return None
            return opened, span

    def _tell(self, failure: Failure, span: SpanRecord, opened: _OpenTrace) -> None:
        key = failure.cause
        first = (span.span_id, key) not in opened.raised
        opened.raised.add((span.parent_id, key))
        if first and failure.event is not None:
            span.events.append(SpanEvent("exception", self._clock() + opened.wall_offset, failure.event()))

    def _close(self, span: SpanRecord, opened: _OpenTrace, outcome: Outcome) -> None:
        span.gathered = None
        span.outcome = outcome
        span.status = Status.ERROR if outcome in _FAILURES else Status.OK
        span.end_ns = self._clock() + opened.wall_offset

    def _release(self, opened: _OpenTrace) -> None:
        with self._lock:
            if opened.trace is None or self._runs.get(opened.root_id) is not opened:
                return  # not sampled, or another thread released it first
            self._forget(opened)
            spans = list(opened.spans.values())
        root = spans[0]
        self._close_descendants(opened, spans, root)
        opened.trace.spans = spans
        self._hand_over(opened.trace)

    def _close_descendants(self, opened: _OpenTrace, spans: list[SpanRecord], root: SpanRecord) -> None:
        """Close what the root left open: it shares the root's fate, or was left behind by it."""
        outcome = root.outcome if root.outcome in _SHARED_FATES else Outcome.ABANDONED
        unfinished = [span for span in spans if span.end_ns is None]
        for span in unfinished:
            span.status_message = UNFINISHED
            _fill(span)
            self._close(span, opened, outcome)
        if unfinished and root.outcome is Outcome.COMPLETED:
            root.outcome = Outcome.ABANDONED

    def _forget(self, opened: _OpenTrace) -> None:
        self._roots.pop(opened.root_id, None)
        for run_id in opened.run_ids:
            self._runs.pop(run_id, None)


def _copied(span: SpanRecord, now: int) -> SpanRecord:
    """Return a span as it stands: an open one is running, and has lasted until now."""
    copy = replace(span, attributes=dict(span.attributes), events=list(span.events))
    if copy.end_ns is None:
        copy.end_ns, copy.outcome = now, Outcome.RUNNING
        _fill(copy)
    return copy


def _fill(span: SpanRecord) -> None:
    if span.gathered is not None:
        span.gathered.fill(span)
