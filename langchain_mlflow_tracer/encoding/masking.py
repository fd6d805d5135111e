"""Masks the secrets of a whole trace, wherever it holds text."""

from __future__ import annotations

from langchain_mlflow_tracer.core.record import SpanEvent, SpanRecord, TraceRecord
from langchain_mlflow_tracer.encoding.redaction import Redactor
from langchain_mlflow_tracer.encoding.scan import TraceScan

__all__ = ["mask"]


def mask(trace: TraceRecord, redactor: Redactor, scan: TraceScan | None = None) -> TraceRecord:
    """Mask the secrets of a trace in place, and return it. `scan` is a scan of it, if there is one."""
    if redactor.looks_for(scan or TraceScan.of(trace.texts())):
        mask_all(trace, redactor)
    redactor.forget()
    return trace


def mask_all(trace: TraceRecord, redactor: Redactor) -> None:
    """Search every text of a trace."""
    trace.name = redactor.text(trace.name)
    trace.session_id = trace.session_id and redactor.text(trace.session_id)
    trace.user_id = trace.user_id and redactor.text(trace.user_id)
    trace.tags = redactor.value(trace.tags)
    trace.metadata = redactor.value(trace.metadata)
    for span in trace.spans:
        _mask_span(span, redactor)


def _mask_span(span: SpanRecord, redactor: Redactor) -> None:
    span.name = redactor.text(span.name)
    span.status_message = redactor.text(span.status_message)
    span.inputs = redactor.value(span.inputs)
    span.outputs = redactor.value(span.outputs)
    span.attributes = redactor.value(dict(span.attributes))
    span.events = [
        SpanEvent(redactor.text(event.name), event.time_ns, redactor.value(event.attributes))
        for event in span.events
    ]
