"""Encodes a trace as an OTLP export request: the bytes on disk are the bytes on the wire.

Serialized requests may be concatenated into one that holds all their traces (a property of protobuf's
repeated fields), so a forwarder need not decode them. Attribute names are MLflow's (seen in
mlflow 3.17.2): dicts and lists travel as JSON text, text, numbers and booleans as themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.proto.trace.v1.trace_pb2 import Status as SpanStatus

from langchain_mlflow_tracer.core.attributes import (
    METADATA_PREFIX,
    OUTCOME,
    SESSION_ID,
    SPAN_INPUTS,
    SPAN_OUTPUTS,
    SPAN_TYPE,
    TAG_PREFIX,
    TRACE_NAME,
    USER_ID,
)
from langchain_mlflow_tracer.core.json_text import INT64, decimal, json_bytes, utf8_text
from langchain_mlflow_tracer.core.record import Outcome, SpanRecord, Status, TraceRecord

__all__ = ["encode"]

SCOPE: Final = "langchain_mlflow_tracer"

MAX_TAG_KEY: Final = 250
MAX_TAG_VALUE: Final = 4096
MAX_ID: Final = 250
"""Characters that MLflow's stores take for tags, sessions and users; longer ones would be refused."""

_CODES: Final = {
    Status.UNSET: SpanStatus.STATUS_CODE_UNSET,
    Status.OK: SpanStatus.STATUS_CODE_OK,
    Status.ERROR: SpanStatus.STATUS_CODE_ERROR,
}


def encode(trace: TraceRecord) -> bytes:
    """Return `trace` as the bytes of an `ExportTraceServiceRequest`."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    scope.scope.name = SCOPE
    for record in trace.spans:
        span = scope.spans.add()
        span.trace_id = trace.trace_id
        _fill(span, record)
        if record.parent_id is None and trace.host is not None:
            span.parent_span_id = trace.host.span_id  # the process that has the trace's root writes its facts
        elif record.parent_id is None:
            _set(span, _trace_attributes(trace, record))
    payload: bytes = request.SerializeToString()
    return payload


def _fill(span: Span, record: SpanRecord) -> None:
    span.span_id = record.span_id
    if record.parent_id is not None:
        span.parent_span_id = record.parent_id
    span.name = utf8_text(record.name)
    span.start_time_unix_nano = record.start_ns
    if record.end_ns is not None:
        # A span may not end before it began, even if the clock was set back.
        span.end_time_unix_nano = max(record.end_ns, record.start_ns)
    span.status.code = _CODES[record.status]
    if record.status_message:
        span.status.message = utf8_text(record.status_message)
    _set(span, _span_attributes(record))
    for link in record.links:
        span.links.add(trace_id=link.trace_id, span_id=link.span_id)
    for event in record.events:
        added = span.events.add()
        added.name = utf8_text(event.name)
        added.time_unix_nano = event.time_ns
        _set(added, event.attributes)


def _span_attributes(record: SpanRecord) -> dict[str, object]:
    shown: dict[str, object] = {SPAN_TYPE: record.span_type}
    if record.inputs is not None:
        shown[SPAN_INPUTS] = record.inputs
    if record.outputs is not None:
        shown[SPAN_OUTPUTS] = record.outputs
    if record.outcome not in {None, Outcome.COMPLETED}:
        shown[OUTCOME] = str(record.outcome)
    return {**shown, **record.attributes}


def _trace_attributes(trace: TraceRecord, root: SpanRecord) -> dict[str, object]:
    """What MLflow (3.15 and later) reads off a root span to fill in the trace."""
    tags = {**trace.tags, **({OUTCOME: root.outcome.value} if root.outcome else {})}
    tags |= {TRACE_NAME: trace.name}
    shown: dict[str, object] = {
        f"{TAG_PREFIX}{_cut(key, MAX_TAG_KEY)}": _cut(value, MAX_TAG_VALUE) for key, value in tags.items()
    }
    shown |= {f"{METADATA_PREFIX}{key}": value for key, value in trace.metadata.items()}
    if trace.session_id:
        shown[SESSION_ID] = _cut(trace.session_id, MAX_ID)
    if trace.user_id:
        shown[USER_ID] = _cut(trace.user_id, MAX_ID)
    return shown


def _set(target: Span | Span.Event, attributes: Mapping[str, object]) -> None:
    add = target.attributes.add
    for key, value in list(attributes.items()):
        attribute = add()
        try:
            attribute.key = key
            if type(value) is str:  # as most are
                attribute.value.string_value = value
                continue
        except ValueError:  # a lone surrogate
            attribute.key = utf8_text(key)
        _assign(attribute.value, value)


def _assign(target: AnyValue, value: object) -> None:
    if isinstance(value, str):
        target.string_value = utf8_text(value)
    elif isinstance(value, dict | list):
        target.string_value = json_bytes(value).decode()
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int) and value in INT64:
        target.int_value = value
    elif isinstance(value, float):
        target.double_value = value
    else:
        target.string_value = decimal(value) if isinstance(value, int) else utf8_text(str(value))


def _cut(text: str, most: int) -> str:
    return utf8_text(text)[:most]
