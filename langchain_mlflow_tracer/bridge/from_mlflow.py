"""Copies what MLflow made inside a trace of ours into our record: its spans, tags and metadata.

MLflow keeps the attributes of a span as texts that never change, so the writer reads them later.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from typing import Any, Final

from langchain_mlflow_tracer.bridge.span_facade import decoded, link_of
from langchain_mlflow_tracer.core.attributes import (
    CLIENT_REQUEST_ID,
    REQUEST_ID,
    REQUEST_PREVIEW,
    RESPONSE_PREVIEW,
    SPAN_INPUTS,
    SPAN_OUTPUTS,
    SPAN_TYPE,
    STATE,
    TRACE_NAME,
    TRACE_SCHEMA,
    TRACE_SESSION,
    TRACE_TOKEN_USAGE,
    TRACE_USER,
)
from langchain_mlflow_tracer.core.record import (
    Outcome,
    SpanEvent,
    SpanRecord,
    Status,
    TraceRecord,
)
from langchain_mlflow_tracer.mlflow_private.span import files, otel_span

__all__ = ["HiddenSpans", "span_record", "take_trace"]


OWN: Final = (
    "mlflow.trace.cost",
    "mlflow.trace.sizeStats",
    TRACE_TOKEN_USAGE,
    "mlflow.traceInputs",
    "mlflow.traceOutputs",
    TRACE_SCHEMA,
)
"""Metadata that MLflow works out itself, from all spans, wherever the trace is stored."""

UNENDED: Final = "did not end before the chain in which it began"

_STATUSES: Final = {"OK": Status.OK, "ERROR": Status.ERROR, "UNSET": Status.UNSET}


class HiddenSpans(dict[str, Any]):
    """The spans of a trace as MLflow keeps them, by id; it does not give out those that we deliver.

    MLflow's exporter asks for each span that ends, and leaves out what it does not find. Ours to deliver is
    what hangs below a span of ours.
    """

    def __init__(self, spans: Mapping[str, Any] | None = None) -> None:
        super().__init__(spans or {})
        self.own: set[str] = set()
        self.below: set[str] = set()

    def __setitem__(self, span_id: str, span: Any) -> None:
        if span_id not in self.own and (span.parent_id in self.own or span.parent_id in self.below):
            self.below.add(span_id)
        super().__setitem__(span_id, span)

    def get(self, span_id: str, default: Any = None) -> Any:
        """Return a span, unless it is ours to deliver and has ended."""
        span = super().get(span_id)
        if span is None or (span_id in self.below and span.end_time_ns is not None):
            return default
        return span

    def take_hidden(self) -> list[Any]:
        """Return the spans that are ours to deliver, and give them up."""
        hidden = [span for span_id, span in list(self.items()) if span_id in self.below]
        for span in hidden:
            self.pop(span.span_id, None)
        return hidden


def span_record(span: Any, now: int) -> SpanRecord:
    """Return a span of MLflow's as one of ours; its attributes are read later."""
    otel = otel_span(span)
    attributes = dict(otel.attributes or {})
    status, message = _STATUSES[otel.status.status_code.name], otel.status.description or ""
    record = SpanRecord(
        otel.get_span_context().span_id.to_bytes(8),
        None if otel.parent is None else otel.parent.span_id.to_bytes(8),
        otel.name, "UNKNOWN", otel.start_time, otel.end_time, status, message,
        size=sum(len(text) for text in attributes.values() if isinstance(text, str)),
    )  # fmt: skip
    _set_outcome(record, now)
    record.events = [_event(event) for event in otel.events]
    record.links = tuple(link_of(link.context) for link in otel.links)
    record.deferred = (functools.partial(_read, attributes, dict(files(span))),)
    return record


def _set_outcome(record: SpanRecord, now: int) -> None:
    if record.end_ns is None:
        record.end_ns, record.outcome, record.status_message = now, Outcome.ABANDONED, UNENDED
    else:
        record.outcome = Outcome.ERROR if record.status is Status.ERROR else Outcome.COMPLETED


def _event(event: Any) -> SpanEvent:
    return SpanEvent(event.name, event.timestamp, dict(event.attributes or {}))


def _read(attributes: Mapping[str, Any], attached: Mapping[str, Any], record: SpanRecord) -> None:
    known = {
        key: decoded(_with_files(text, attached)) for key, text in attributes.items() if key != REQUEST_ID
    }
    record.span_type = str(known.pop(SPAN_TYPE, None) or "UNKNOWN")
    record.inputs, record.outputs = known.pop(SPAN_INPUTS, None), known.pop(SPAN_OUTPUTS, None)
    record.attributes = known


def _with_files(text: Any, attached: Mapping[str, Any]) -> Any:
    """Put files back where MLflow refers to them: they go our way, with the trace."""
    for file in attached.values():
        if isinstance(text, str) and file.id in text:
            start = text.index(f"mlflow-attachment://{file.id}")
            end = text.find('"', start)
            content = base64.b64encode(file.content_bytes).decode()
            uri = f"data:{file.content_type};base64,{content}"
            text = text[:start] + uri + (text[end:] if end >= 0 else "")
    return text


def take_trace(trace: TraceRecord, info: Any) -> None:
    """Copy what was set on a trace through MLflow; `info` was made from our record of it."""
    tags, metadata = _texts(info.tags), _texts(info.trace_metadata)
    trace.name = tags.pop(TRACE_NAME, trace.name)
    trace.session_id = metadata.pop(TRACE_SESSION, trace.session_id)
    trace.user_id = metadata.pop(TRACE_USER, trace.user_id)
    for key in OWN:
        metadata.pop(key, None)
    fields = {
        CLIENT_REQUEST_ID: info.client_request_id,
        REQUEST_PREVIEW: info.request_preview,
        RESPONSE_PREVIEW: info.response_preview,
        STATE: info.state.value if info.state.value in {"OK", "ERROR"} else None,
    }
    trace.tags = tags
    trace.metadata = metadata | {key: value for key, value in fields.items() if value}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): value if isinstance(value, str) else str(value) for key, value in values.items()}
