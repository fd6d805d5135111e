"""Records runs as spans by run id: start, event, end, fail; hands a trace over when its root ends.

Knows neither LangChain, MLflow nor the disk. Parents come from the parent run id alone, never from
ambient context. Run ids are any hashable values.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, TypeVarTuple

from langchain_mlflow_tracer.core import forks
from langchain_mlflow_tracer.core.record import Outcome, SpanEvent, SpanLink, SpanRecord, Status, TraceRecord
from langchain_mlflow_tracer.recording.content.freeze import Memory

__all__ = ["Failure", "Recorder"]

Id = TypeVar("Id", bound=Hashable)

Told = TypeVarTuple("Told")
"""What is told of a run when it ends."""

UNFINISHED = "did not end before its root"
"""The status message of a span that its root left open."""

CUT_OFF = "cut off: the tracer was closed, or its process ended, while it ran"
"""The status message of a root that was open at the end."""

DROPPED = "cancelled: whoever ran it let go of it"
"""The status message of a run that was left without a word: LangChain does not tell that a model call, a tool
or a retriever was cancelled (langchain-core 1.7)."""

GRACE = 0.5
"""Seconds that a run which was let go of has to end itself: the garbage collector tells of a death before it
closes a generator, which then says that it ends."""

USUAL = 0.01
"""Seconds beyond which nobody has the lock who is not interrupted: they need microseconds."""

_COMPLETED, _OK = Outcome.COMPLETED, Status.OK
"""As globals: to look a member up in its enum takes Python twice as long."""

_FAILURES = frozenset({Outcome.ERROR, Outcome.TIMEOUT, Outcome.CANCELLED, Outcome.CUT_OFF})

_FATES = {
    Outcome.TIMEOUT: Outcome.CANCELLED,
    Outcome.CANCELLED: Outcome.CANCELLED,
    Outcome.INTERRUPTED: Outcome.INTERRUPTED,
    Outcome.CUT_OFF: Outcome.CUT_OFF,
}
"""What becomes of a span that its root left open, by the root's outcome; else it is abandoned."""

_UNKNOWN: tuple[None, None] = (None, None)

_create = SpanRecord.create

_CUT_SHORT = frozenset({Outcome.TIMEOUT, Outcome.CANCELLED, Outcome.ABANDONED, Outcome.CUT_OFF})


@dataclass(frozen=True, slots=True)
class Failure:
    """How a run failed. `cause` tells one raised exception from another while it passes up the runs."""

    outcome: Outcome
    message: str
    cause: Hashable
    event: Callable[[], dict[str, object]] | None = None
    """Makes the attributes of the exception event, where the outcome deserves one."""
    add_facts: Callable[[SpanRecord], None] | None = None
    """Adds what the exception holds to the span that has the event."""


class _Life(weakref.ref[Hashable]):
    """Tells a run whose id nobody holds any more: there is nobody left to say that it ended."""

    __slots__ = ("run_id",)
    run_id: Hashable


@dataclass(slots=True)
class _Failures:
    """What was raised below which span of a trace, and what failed, by the parent's span id."""

    raised: set[tuple[bytes | None, Hashable]] = field(default_factory=set)
    failed: dict[bytes | None, list[SpanRecord]] = field(default_factory=dict)


@dataclass(slots=True)
class _OpenTrace:
    """A trace whose root has not ended; `trace` is None when it is not sampled."""

    root_id: Hashable
    trace: TraceRecord | None
    wall_offset: int
    runs: dict[Hashable, SpanRecord | None] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    """What its spans remember of what they were given."""
    failures: _Failures | None = None
    written: tuple[int, ...] = ()
    """How far it had come when it was last written as it stood."""


class Recorder:
    """Turns runs into traces.

    The lock guards the tables only: no foreign code runs under it, and nothing waits for anything; but the
    garbage collector, in the middle of anything, may close a stream, which then ends here. So the thread that
    has the lock may take it again.
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
        """Give finished traces to `hand_over`; ask `sample` at each root; tell `count` what was odd.

        `sample` says whether a trace is recorded, by a link where it is part of one of another process.
        """
        self._hand_over = hand_over
        self._sample = sample
        self._count = count
        self._wall_clock = wall_clock
        self._clock = monotonic_clock
        self.has_failures = False
        """Whether a run ever failed, and is worth asking for."""
        self.forget()
        forks.enter(self, forks.Order.RECORDER, in_child=Recorder.forget)

    def start(
        self,
        run_id: Hashable,
        parent_run_id: Hashable | None,
        name: str,
        span_type: str,
        held: Hashable | None = None,
    ) -> tuple[SpanRecord, TraceRecord | None] | None:
        """Open a span for a run, and return it to be filled; a run whose parent is unknown is a root.

        With a root comes its trace. None when there is nothing to fill: the trace is not sampled, or the run
        was started before. `held` is an object that everybody holds who may yet end the run: when it is gone,
        and the run did not end, it was cancelled.
        """
        if parent_run_id is None and self._dropped:
            self.sweep(GRACE)
        runs = self._runs
        # Asked before the lock is held: what decides whether a trace is recorded is not ours alone.
        begun = None if parent_run_id in runs or run_id in runs else self._open_trace(run_id, name)
        with self._lock:
            if run_id in runs:
                self._count("started_twice")
                return None
            opened, parent = runs.get(parent_run_id, _UNKNOWN)
            if opened is None and begun is not None:
                self._roots[run_id] = opened = begun
            if opened is not None:
                trace, opened_at = opened.trace, opened.wall_offset
                if trace is None:
                    runs[run_id] = opened, None
                    opened.runs[run_id] = None
                    return None
                parent_id = None if parent is None else parent.span_id
                identity = self._bits(64).to_bytes(8)
                span = _create(identity, parent_id, name, span_type, self._clock() + opened_at, opened.memory)
                runs[run_id] = opened, span
                opened.runs[run_id] = span
                if opened.root_id not in self._roots:  # which the garbage collector has closed meanwhile
                    del runs[run_id]
                    opened = None
        if opened is None:  # its parent's trace was handed over just now
            return self.start(run_id, None, name, span_type, held)
        if held is not None:
            span.life = life = _Life(held, self._note_death)
            life.run_id = run_id
        return span, (trace if parent is None else None)

    def find(self, run_id: Hashable) -> tuple[SpanRecord, TraceRecord] | None:
        """Return an open run that is recorded; asked for with every token, so without the lock."""
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
        found = self._find(run_id)
        if found is not None:
            opened, span = found
            span.events.append(SpanEvent(name, self._clock() + opened.wall_offset, attributes))
            span.size += size

    def end(self, run_id: Hashable, finish: Callable[[SpanRecord, *Told], None], *told: *Told) -> None:
        """Close a run that completed, filled by `finish`; with a root, its trace is handed over."""
        opened, span = self._runs.get(run_id, _UNKNOWN)
        if opened is None or span is None or span.end_ns is not None:
            self._find(run_id, ends=True)  # which says what is odd
            return
        try:
            finish(span, *told)
        finally:
            # What was found out already stands: to LangChain, a graph that waits for a person has ended well.
            completed = _outcome(span) if span.is_stream else _COMPLETED
            self._close(span, opened, span.outcome or completed)
            if span.parent_id is None:
                self._release(opened)

    def fail(self, run_id: Hashable, failure: Failure, finish: Callable[[SpanRecord], None]) -> None:
        """Close a run that raised. The exception is told once: on the span that raised it first."""
        found = self._find(run_id, ends=True)
        if found is None:
            return
        opened, span = found
        with self._lock:  # several runs of a trace may fail at once
            failures = opened.failures = opened.failures or _Failures()
        try:
            self._tell(failure, span, failures, opened.wall_offset)
            finish(span)
            _fill(span)
        finally:
            span.status_message = failure.message
            self._close(span, opened, failure.outcome)
            with self._lock:
                failures.failed.setdefault(span.parent_id, []).append(span)
            self.has_failures = True
            if failure.outcome is Outcome.INTERRUPTED:
                _interrupt_parent(span, _spans(opened))
            if span.parent_id is None:
                self._release(opened)

    def resume(self, run_id: Hashable) -> bool:
        """Open a run again that failed, since it is tried again. False where its trace has gone its way."""
        with self._lock:
            opened, span = self._runs.get(run_id, _UNKNOWN)
        if opened is None:
            return False
        if span is not None:
            span.end_ns, span.outcome, span.status, span.status_message = None, None, Status.UNSET, ""
            span.events = [event for event in span.events if event.name != "exception"]
            with self._lock:
                failed = {} if opened.failures is None else opened.failures.failed
                failed[span.parent_id] = [one for one in failed.get(span.parent_id, ()) if one is not span]
        return True

    def failed_below(self, run_id: Hashable) -> tuple[str, Sequence[SpanRecord]]:
        """Return an open run's name, and the runs right below it that failed; nothing where none did."""
        opened, parent = self._runs.get(run_id, _UNKNOWN)
        if opened is None or parent is None or opened.failures is None:
            return "", ()
        below = list(opened.failures.failed.get(parent.span_id, ()))
        return parent.name, [span for span in below if span.outcome in _FAILURES]

    def is_open(self, run_id: Hashable) -> bool:
        """Whether a run has started and not ended; one that is not sampled ends with its root."""
        opened, span = self._runs.get(run_id, _UNKNOWN)
        return opened is not None and (span is None or span.end_ns is None)

    def innermost(self, run_ids: Iterable[Id]) -> Id | None:
        """Return the one of these runs that started last; None where none is known."""
        known = {run_id: run[1] for run_id in run_ids if (run := self._runs.get(run_id)) is not None}
        return max(known, key=lambda one: span.start_ns if (span := known[one]) else 0, default=None)

    def sweep(self, grace: float = 0.0) -> None:
        """Close the runs that were let go of, without a word, more than `grace` seconds ago."""
        until = self._clock() - grace * 1e9
        for _ in range(len(self._dropped)):
            try:
                died, life = self._dropped.popleft()
            except IndexError:  # another thread sweeps too
                return
            if died > until:
                self._dropped.appendleft((died, life))
                return
            found = self.find(life.run_id)
            if found is not None and found[0].life is life:
                self.fail(life.run_id, Failure(Outcome.CANCELLED, DROPPED, id(life)), lambda _span: None)

    def _note_death(self, life: _Life) -> None:
        # It may come in the middle of anything, with the lock held: it is only noted down.
        self._dropped.append((self._clock(), life))

    def finish_all(self) -> None:
        """Hand over every open trace as it stands: the process ends, or the tracer is closed."""
        self.sweep()
        self._pass_on_interrupted()
        with self._lock:
            opened = list(self._roots.values())
        for one in opened:
            _, root = self._runs.get(one.root_id, _UNKNOWN)
            if root is not None and root.end_ns is None:
                root.status_message = CUT_OFF
                self._close(root, one, Outcome.CUT_OFF)
            self._release(one)

    def _pass_on_interrupted(self) -> None:
        """Hand over what this very thread is handing over, where it was interrupted by a signal's handler.

        That may end the process, so it comes first; what it interrupted may hand the same over once more. Not
        a part of somebody else's trace, which MLflow may have been given already.
        """
        here = threading.get_ident()
        for opened, thread in list(self._leaving.values()):
            if thread == here and opened.trace is not None and opened.trace.host is None:
                self._pass_on(opened, opened.trace)

    @property
    def is_recording(self) -> bool:
        """Whether a run is open."""
        return bool(self._roots)

    def running(self, seconds: float) -> list[TraceRecord]:
        """Return copies, as they stand, of traces that run for more than `seconds` and have come further.

        The writer asks, and does not wait: whoever has the lock for longer than usual was interrupted by a
        signal's handler, which may wait for the writer.
        """
        if self._dropped and self._lock.acquire(timeout=USUAL):
            self._lock.release()
            self.sweep(GRACE)
        opened = self._roots.copy().values()  # one step, which needs no lock
        copies = (self._as_it_stands(one, seconds) for one in opened)
        return [copy for copy in copies if copy is not None]

    def _as_it_stands(self, opened: _OpenTrace, seconds: float) -> TraceRecord | None:
        spans = _spans(opened)
        now = self._clock() + opened.wall_offset
        if opened.trace is None or not spans or now - spans[0].start_ns < seconds * 1e9:
            return None
        if spans[0].end_ns is not None:  # it is handed over just now
            return None
        come = (len(spans), sum(span.end_ns is not None for span in spans), sum(len(s.events) for s in spans))
        if come == opened.written:
            return None
        opened.written = come
        return replace(opened.trace, spans=[_copied(span, now) for span in spans])

    def forget(self) -> None:
        """Drop every open run and start with a fresh lock: a forked child does not own its parent's."""
        self._lock = threading.RLock()
        self._runs: dict[Hashable, tuple[_OpenTrace, SpanRecord | None]] = {}
        self._roots: dict[Hashable, _OpenTrace] = {}
        # What is being handed over, by which thread: in one of the two tables until it is in the queue.
        self._leaving: dict[int, tuple[_OpenTrace, int]] = {}
        self._dropped: deque[tuple[int, _Life]] = deque()
        # A generator of our own, seeded by the system: an application that seeds Python's, or a parent
        # process, must not make two traces one.
        self._bits = random.Random().getrandbits  # noqa: S311 - ids, not secrets

    def _open_trace(self, root_id: Hashable, name: str) -> _OpenTrace:
        sampled = self._sample()
        host = sampled if isinstance(sampled, SpanLink) else None
        trace_id = self._bits(128).to_bytes(16) if host is None else host.trace_id
        trace = TraceRecord(trace_id, name, host=host) if sampled else None
        # Within a trace time comes from one clock that never jumps; the wall clock only says where it began.
        return _OpenTrace(root_id, trace, self._wall_clock() - self._clock())

    def _find(self, run_id: Hashable, *, ends: bool = False) -> tuple[_OpenTrace, SpanRecord] | None:
        """Return an open run that is recorded. A trace that is not sampled is known until its root `ends`."""
        opened, span = self._runs.get(run_id, _UNKNOWN)
        if opened is None:
            self._count("unknown_run")
            return None
        if span is None:
            if ends and run_id == opened.root_id:
                with self._lock:
                    self._forget(opened)
            return None
        if span.end_ns is not None:
            self._count("ended_twice")
            return None
        return opened, span

    def _tell(self, failure: Failure, span: SpanRecord, failures: _Failures, wall_offset: int) -> None:
        key = failure.cause
        first = (span.span_id, key) not in failures.raised
        failures.raised.add((span.parent_id, key))
        if first and failure.event is not None:
            span.events.append(SpanEvent("exception", self._clock() + wall_offset, failure.event()))
            if failure.add_facts is not None:
                failure.add_facts(span)

    def _close(self, span: SpanRecord, opened: _OpenTrace, outcome: Outcome) -> None:
        span.gathered = span.life = span.memory = None
        span.outcome = outcome
        # Not looked up where it is not needed: the hash of an enum is computed in Python.
        span.status = _OK if outcome is _COMPLETED or outcome not in _FAILURES else Status.ERROR
        span.end_ns = self._clock() + opened.wall_offset

    def _release(self, opened: _OpenTrace) -> None:
        with self._lock:
            if opened.trace is None or self._roots.get(opened.root_id) is not opened:
                return  # not sampled, or another thread, or what came in between here, released it first
            opened.trace.spans = _spans(opened)
            self._leaving[id(opened)] = opened, threading.get_ident()
            self._forget(opened)
        try:
            self._pass_on(opened, opened.trace)
        finally:
            self._leaving.pop(id(opened), None)

    def _pass_on(self, opened: _OpenTrace, trace: TraceRecord) -> None:
        spans = trace.spans
        left_open = [span for span in spans if span.end_ns is None]
        if left_open or spans[0].outcome is not Outcome.COMPLETED:
            self._close_descendants(opened, spans, left_open)
        self._hand_over(trace)

    def _close_descendants(
        self, opened: _OpenTrace, spans: list[SpanRecord], left_open: list[SpanRecord]
    ) -> None:
        """Close what the root left open: it shares the root's fate, or was left behind by it."""
        root = spans[0]
        fate = _FATES.get(root.outcome or Outcome.ERROR, Outcome.ABANDONED)
        left_behind = False
        for span in left_open:
            is_dropped = _is_gone(span) and root.outcome is not Outcome.ABANDONED
            left_behind |= not is_dropped
            span.status_message = DROPPED if is_dropped else UNFINISHED
            _fill(span)
            self._close(span, opened, Outcome.CANCELLED if is_dropped else fate)
        if left_behind and root.is_stream and root.outcome is Outcome.COMPLETED:
            root.outcome = Outcome.ABANDONED
        if root.outcome in _CUT_SHORT and root.outputs is None:
            root.outputs = _come_so_far(spans)

    def _forget(self, opened: _OpenTrace) -> None:
        self._roots.pop(opened.root_id, None)
        forget = self._runs.pop
        for run_id in list(opened.runs):
            forget(run_id, None)


def _spans(opened: _OpenTrace) -> list[SpanRecord]:
    """The spans of a trace that is recorded, root first."""
    return [span for span in list(opened.runs.values()) if span is not None]


def _copied(span: SpanRecord, now: int) -> SpanRecord:
    """Return a span as it stands: an open one is running, and has lasted until now."""
    copy = replace(span, attributes=dict(span.attributes), events=list(span.events))
    if copy.end_ns is None:
        copy.end_ns, copy.outcome = now, Outcome.RUNNING
        _fill(copy)
    return copy


def _outcome(span: SpanRecord) -> Outcome:
    """How a stream ended that says it completed: it says so too when the garbage collector closes it."""
    return Outcome.ABANDONED if _is_gone(span) else Outcome.COMPLETED


def _is_gone(span: SpanRecord) -> bool:
    return span.life is not None and span.life() is None


def _interrupt_parent(span: SpanRecord, spans: Iterable[SpanRecord]) -> None:
    """A run is interrupted with the one below it, also if it hides that from whoever called it."""
    for other in spans:
        if other.span_id == span.parent_id:
            other.outcome = Outcome.INTERRUPTED


def _come_so_far(spans: list[SpanRecord]) -> object:
    """The last that is known of what a root would have answered: what was cut short with it."""
    short = (span.outputs for span in reversed(spans) if span.outcome in _CUT_SHORT)
    return next((outputs for outputs in short if outputs is not None), None)


def _fill(span: SpanRecord) -> None:
    if span.gathered is not None:
        span.run_deferred()
        span.gathered.fill(span)
