"""Copies traces that still run, in their present state."""

from __future__ import annotations

from dataclasses import replace

from langchain_mlflow_tracer.core.record import Outcome, SpanRecord, TraceRecord
from langchain_mlflow_tracer.recording.endings import fill
from langchain_mlflow_tracer.recording.open_trace import OpenTrace

__all__ = ["snapshot"]


def snapshot(opened: OpenTrace, now_ns: int, min_seconds: float) -> TraceRecord | None:
    """Return a copy of a trace that has run for `min_seconds`; None if nothing has changed since."""
    spans = opened.spans()
    if opened.trace is None or not spans or not _runs_since(spans[0], now_ns - min_seconds * 1e9):
        return None
    before, opened.progress = opened.progress, _progress(spans)
    if opened.progress == before:
        return None
    return replace(opened.trace, spans=[_copied(span, now_ns) for span in spans])


def _runs_since(root: SpanRecord, latest_start_ns: float) -> bool:
    # A root that has ended is being handed over.
    return root.end_ns is None and root.start_ns <= latest_start_ns


def _progress(spans: list[SpanRecord]) -> tuple[int, ...]:
    return len(spans), sum(span.end_ns is not None for span in spans), sum(len(span.events) for span in spans)


def _copied(span: SpanRecord, now_ns: int) -> SpanRecord:
    """Return a copy of a span; the copy of an open span has the outcome "running" and ends now."""
    copy = replace(span, attributes=dict(span.attributes), events=list(span.events))
    if copy.end_ns is None:
        copy.end_ns, copy.outcome = now_ns, Outcome.RUNNING
        fill(copy)
    return copy
