"""Copies traces that still run, as they are at the moment."""

from __future__ import annotations

from dataclasses import replace

from langchain_mlflow_tracer.core.record import Outcome, SpanRecord, TraceRecord
from langchain_mlflow_tracer.recording.endings import fill
from langchain_mlflow_tracer.recording.open_trace import OpenTrace

__all__ = ["snapshot"]


def snapshot(opened: OpenTrace, now_ns: int, min_seconds: float) -> TraceRecord | None:
    """Return a copy of a trace that has run for `min_seconds`; None if nothing is new since the last one."""
    spans = opened.spans()
    if opened.trace is None or not spans or now_ns - spans[0].start_ns < min_seconds * 1e9:
        return None
    if spans[0].end_ns is not None:  # it is being handed over
        return None
    progress = _progress(spans)
    if progress == opened.progress:
        return None
    opened.progress = progress
    return replace(opened.trace, spans=[_copied(span, now_ns) for span in spans])


def _progress(spans: list[SpanRecord]) -> tuple[int, ...]:
    return len(spans), sum(span.end_ns is not None for span in spans), sum(len(span.events) for span in spans)


def _copied(span: SpanRecord, now_ns: int) -> SpanRecord:
    """Return a copy of a span; that of an open one is running, and ends now."""
    copy = replace(span, attributes=dict(span.attributes), events=list(span.events))
    if copy.end_ns is None:
        copy.end_ns, copy.outcome = now_ns, Outcome.RUNNING
        fill(copy)
    return copy
