"""Decides how runs end, and ends the runs that a root leaves open: pure functions over spans."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from langchain_mlflow_tracer.core.record import Outcome, SpanEvent, SpanRecord, Status

__all__ = [
    "CUT_OFF", "FAILURES", "LOST", "UNFINISHED", "Failure", "add_exception", "close", "close_left_open",
    "fill", "interrupt_parent", "reopen", "success",
]  # fmt: skip

UNFINISHED = "still running when the root span ended"
"""The status message of a span that had not ended when its root did."""

CUT_OFF = "cut off: the tracer was closed, or its process ended, while it ran"
"""The status message of a root that was open at the end."""

LOST = "cancelled: nothing holds this run any more"
"""The status message of a lost run: LangChain reports no end of a model call, a tool or a retriever that was
cancelled (langchain-core 1.7)."""

_COMPLETED, _OK = Outcome.COMPLETED, Status.OK
"""As globals: to look a member up in its enum takes Python twice as long."""

FAILURES = frozenset({Outcome.ERROR, Outcome.TIMEOUT, Outcome.CANCELLED, Outcome.CUT_OFF})

_FATES: dict[Outcome | None, Outcome] = {
    Outcome.TIMEOUT: Outcome.CANCELLED,
    Outcome.CANCELLED: Outcome.CANCELLED,
    Outcome.INTERRUPTED: Outcome.INTERRUPTED,
    Outcome.CUT_OFF: Outcome.CUT_OFF,
}
"""The outcome of a span that its root left open, by the root's outcome; by default it is abandoned."""

_CUT_SHORT = frozenset({Outcome.TIMEOUT, Outcome.CANCELLED, Outcome.ABANDONED, Outcome.CUT_OFF})


@dataclass(frozen=True, slots=True)
class Failure:
    """How a run failed. `cause` identifies the exception while it passes up through the runs."""

    outcome: Outcome
    message: str
    cause: Hashable
    event: Callable[[], dict[str, object]] | None = None
    """Makes the attributes of the exception event; None for outcomes that are no errors."""
    add_facts: Callable[[SpanRecord], None] | None = None
    """Adds facts from the exception to the span that has the event."""


def close(span: SpanRecord, outcome: Outcome, end_ns: int) -> None:
    """End a span, and drop what only an open one needs."""
    span.gathered = span.life = span.memory = None
    span.outcome = outcome
    # The set is not asked about the usual outcome: the hash of an enum is computed in Python.
    span.status = _OK if outcome is _COMPLETED or outcome not in FAILURES else Status.ERROR
    # Last: other threads read a span that has an end without waiting, since nothing changes it any more.
    span.end_ns = end_ns


def reopen(span: SpanRecord) -> None:
    """Undo the failure of a run that is tried again."""
    span.end_ns, span.outcome, span.status, span.status_message = None, None, Status.UNSET, ""
    span.events = [event for event in span.events if event.name != "exception"]


def success(span: SpanRecord) -> Outcome:
    """Return the outcome of a run that reports success: a stream does so too when it is garbage collected."""
    return span.outcome or (Outcome.ABANDONED if span.is_stream and _is_lost(span) else _COMPLETED)


def add_exception(span: SpanRecord, failure: Failure, time_ns: int) -> None:
    """Add the exception of a failure to the span of the run that raised it."""
    if failure.event is not None:
        span.events.append(SpanEvent("exception", time_ns, failure.event()))
        if failure.add_facts is not None:
            failure.add_facts(span)


def interrupt_parent(span: SpanRecord, spans: Iterable[SpanRecord]) -> None:
    """Mark the parent of an interrupted run as interrupted too: LangGraph may report it as completed."""
    for other in spans:
        if other.span_id == span.parent_id:
            other.outcome = Outcome.INTERRUPTED


def close_left_open(spans: list[SpanRecord], left_open: list[SpanRecord], now_ns: int) -> None:
    """Close the spans that the root left open: it is the first of `spans`, and decides their outcome."""
    root = spans[0]
    has_unfinished = False
    for span in left_open:
        # When a stream is abandoned nothing holds its runs either: they are abandoned with it, not lost.
        if root.outcome is not Outcome.ABANDONED and _is_lost(span):
            _close_unreported(span, Outcome.CANCELLED, LOST, now_ns)
        else:
            _close_unreported(span, _FATES.get(root.outcome, Outcome.ABANDONED), UNFINISHED, now_ns)
            has_unfinished = True
    if has_unfinished and root.is_stream and root.outcome is _COMPLETED:
        root.outcome = Outcome.ABANDONED
    if root.outcome in _CUT_SHORT and root.outputs is None:
        root.outputs = _partial_outputs(spans)


def _close_unreported(span: SpanRecord, outcome: Outcome, message: str, now_ns: int) -> None:
    span.status_message = message
    fill(span)
    close(span, outcome, now_ns)


def fill(span: SpanRecord) -> None:
    """Fill a span whose end is not reported from what was gathered of its run."""
    if span.gathered is not None:
        span.run_deferred()
        span.gathered.fill(span)


def _is_lost(span: SpanRecord) -> bool:
    return span.life is not None and span.life() is None


def _partial_outputs(spans: list[SpanRecord]) -> object:
    """Return the last outputs of a run that was cut short with the root: the root's own answer so far."""
    partial = (span.outputs for span in reversed(spans) if span.outcome in _CUT_SHORT)
    return next((outputs for outputs in partial if outputs is not None), None)
