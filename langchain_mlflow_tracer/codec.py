"""Encodes a trace as an OTLP export request: the bytes on disk are the bytes on the wire.

Serialized requests may be concatenated into one that holds all their traces (a property of protobuf's
repeated fields), so whoever forwards traces need not decode them. Attribute names are MLflow's (seen in
mlflow 3.17.2): dicts and lists travel as JSON text, text, numbers and booleans as themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.proto.trace.v1.trace_pb2 import Status as SpanStatus

from langchain_mlflow_tracer.record import JsonText, Outcome, SpanRecord, Status, TraceRecord

__all__ = ["METADATA_PREFIX", "OUTCOME_TAG", "TAG_PREFIX", "encode", "json_bytes"]

TAG_PREFIX: Final = "mlflow.traceTag."
METADATA_PREFIX: Final = "metadata."
SCOPE: Final = "langchain_mlflow_tracer"

OUTCOME_TAG: Final = "lc.outcome"
"""The tag of a trace, and attribute of a span, that tells how a run ended, or that it has not yet."""

MAX_TAG_KEY: Final = 250
MAX_TAG_VALUE: Final = 4096
MAX_ID: Final = 250
"""Characters that MLflow's stores take for tags, sessions and users; longer ones would be refused."""

MAX_DECIMAL: Final = 2_000
"""Bits of an integer that is written in decimal. Python may refuse more than 640 digits, and takes long."""

_INT64: Final = range(-(2**63), 2**63)
_OPTIONS: Final = orjson.OPT_PASSTHROUGH_SUBCLASS
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
        if record.parent_id is None:
            _set(span, _trace_attributes(trace, record))
    payload: bytes = request.SerializeToString()
    return payload


def _fill(span: Span, record: SpanRecord) -> None:
    span.span_id = record.span_id
    if record.parent_id is not None:
        span.parent_span_id = record.parent_id
    span.name = _clean(record.name)
    span.start_time_unix_nano = record.start_ns
    if record.end_ns is not None:
        # A span may not end before it began, whatever the clocks said.
        span.end_time_unix_nano = max(record.end_ns, record.start_ns)
    span.status.code = _CODES[record.status]
    span.status.message = _clean(record.status_message)
    _set(span, _span_attributes(record))
    for link in record.links:
        span.links.add(trace_id=link.trace_id, span_id=link.span_id)
    for event in record.events:
        told = span.events.add()
        told.name = _clean(event.name)
        told.time_unix_nano = event.time_ns
        _set(told, event.attributes)


def _span_attributes(record: SpanRecord) -> dict[str, object]:
    shown: dict[str, object] = {"mlflow.spanType": record.span_type}
    if record.inputs is not None:
        shown["mlflow.spanInputs"] = record.inputs
    if record.outputs is not None:
        shown["mlflow.spanOutputs"] = record.outputs
    if record.outcome not in {None, Outcome.COMPLETED}:
        shown[OUTCOME_TAG] = str(record.outcome)
    return {**shown, **record.attributes}


def _trace_attributes(trace: TraceRecord, root: SpanRecord) -> dict[str, object]:
    """What MLflow (3.15 and later) reads off a root span to fill in the trace."""
    tags = {**trace.tags, **({OUTCOME_TAG: root.outcome.value} if root.outcome else {})}
    tags |= {"mlflow.traceName": trace.name}
    shown: dict[str, object] = {
        f"{TAG_PREFIX}{_cut(key, MAX_TAG_KEY)}": _cut(value, MAX_TAG_VALUE) for key, value in tags.items()
    }
    shown |= {f"{METADATA_PREFIX}{key}": value for key, value in trace.metadata.items()}
    if trace.session_id:
        shown["session.id"] = _cut(trace.session_id, MAX_ID)
    if trace.user_id:
        shown["user.id"] = _cut(trace.user_id, MAX_ID)
    return shown


def _set(target: Span | Span.Event, attributes: Mapping[str, object]) -> None:
    for key, value in list(attributes.items()):
        one = target.attributes.add()
        one.key = _clean(key)
        _assign(one.value, value)


def _assign(target: AnyValue, value: object) -> None:
    if isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int) and value in _INT64:
        target.int_value = value
    elif isinstance(value, float):
        target.double_value = value
    elif isinstance(value, dict | list):
        target.string_value = json_bytes(value).decode()
    else:
        target.string_value = _decimal(value) if isinstance(value, int) else _clean(str(value))


def json_bytes(value: object) -> bytes:
    """Return plain data as JSON; what JSON cannot hold is written as text."""
    try:
        return orjson.dumps(value, default=_default, option=_OPTIONS)
    except (TypeError, ValueError):  # a lone surrogate, an integer over 64 bits
        return orjson.dumps(_writable(value), default=_default, option=_OPTIONS)


def _default(value: object) -> object:
    return json_bytes(dict(value)).decode() if isinstance(value, JsonText) else str(value)


def _writable(value: object) -> object:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, int) and value not in _INT64:
        return _decimal(value)
    if isinstance(value, dict):
        return type(value)({_clean(key): _writable(item) for key, item in value.items()})
    if isinstance(value, list):
        return [_writable(item) for item in value]
    return value


def _decimal(value: int) -> str:
    return str(value) if value.bit_length() <= MAX_DECIMAL else hex(value)


def _cut(text: str, most: int) -> str:
    return _clean(text)[:most]


def _clean(text: str) -> str:
    """UTF-8 has no lone surrogates: they are written as Python would escape them."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
