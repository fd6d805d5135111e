"""Encodes a trace as an OTLP export request: the bytes on disk are the bytes on the wire.

Serialized requests may be concatenated into one that holds all their traces (a property of protobuf's
repeated fields), so whoever forwards traces need not decode them. Attribute names are MLflow's (seen in
mlflow 3.17.2): dicts and lists travel as JSON text, text, numbers and booleans as themselves.

A trace's attachments come first, in fields that OTLP does not have: by its first byte, a payload says whether
there are any, and before the rest is sent they are cut off.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
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
from langchain_mlflow_tracer.encoding.attachments import Attachment

__all__ = ["attachments", "encode", "parted"]

SCOPE: Final = "langchain_mlflow_tracer"

MAX_TAG_KEY: Final = 250
MAX_TAG_VALUE: Final = 4096
MAX_ID: Final = 250
"""Characters that MLflow's stores take for tags, sessions and users; longer ones would be refused."""

ATTACHMENT: Final = bytes([15 << 3 | 2])
"""The tag of a field that holds an attachment: number 15 is the last whose tag is one byte, and the least
likely to be given another meaning. Whoever does not know it leaves it out."""

_ID: Final = 16
"""Bytes of the id of a trace, and of an attachment's: its field has both, and then the content."""

_CODES: Final = {
    Status.UNSET: SpanStatus.STATUS_CODE_UNSET,
    Status.OK: SpanStatus.STATUS_CODE_OK,
    Status.ERROR: SpanStatus.STATUS_CODE_ERROR,
}


def encode(trace: TraceRecord, attachments: Sequence[Attachment] = ()) -> bytes:
    """Return `trace` as the bytes of an `ExportTraceServiceRequest`, with those attachments it refers to.

    What nothing refers to was masked together with its reference, and is not to be kept.
    """
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    scope.scope.name = SCOPE
    for record in trace.spans:
        span = scope.spans.add()
        span.trace_id = trace.trace_id
        _fill(span, record)
        if record.parent_id is None and trace.host is not None:
            span.parent_span_id = trace.host.span_id  # whoever has the trace's root says what is known of it
        elif record.parent_id is None:
            _set(span, _trace_attributes(trace, record))
    payload: bytes = request.SerializeToString()
    kept = [part for one in attachments if str(one.id).encode() in payload for part in _field(one)]
    return b"".join([*kept, payload]) if kept else payload


def parted(payload: bytes) -> tuple[bytes, bytes]:
    """Return the attachments of an encoded trace, and the trace without them: both as they were encoded."""
    end = max((end for _start, end in _fields(payload)), default=0)
    return payload[:end], payload[end:]


def attachments(part: bytes) -> list[Attachment]:
    """Return what the first part of an encoded trace holds."""
    fields = [part[start:end] for start, end in _fields(part)]
    return [Attachment(one[:_ID], uuid.UUID(bytes=one[_ID : 2 * _ID]), one[2 * _ID :]) for one in fields]


def _field(one: Attachment) -> tuple[bytes, ...]:
    return ATTACHMENT, _varint(2 * _ID + len(one.content)), one.trace_id, one.id.bytes, one.content


def _fields(payload: bytes) -> Iterator[tuple[int, int]]:
    """Tell where each of the attachments that come first begins and ends, without its tag and length."""
    end = 0
    while payload[end : end + 1] == ATTACHMENT:
        start, size = _read_varint(payload, end + 1)
        end = start + size
        if size < 2 * _ID or end > len(payload):
            return  # not of our making
        yield start, end


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:  # noqa: PLR2004 - seven bits a byte
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def _read_varint(payload: bytes, at: int) -> tuple[int, int]:
    """Return where the number at `at` ends, and the number."""
    number = 0
    for place, byte in enumerate(payload[at : at + 5]):
        number |= (byte & 127) << (7 * place)
        if byte < 128:  # noqa: PLR2004 - the last
            return at + place + 1, number
    return at, 0


def _fill(span: Span, record: SpanRecord) -> None:
    span.span_id = record.span_id
    if record.parent_id is not None:
        span.parent_span_id = record.parent_id
    span.name = utf8_text(record.name)
    span.start_time_unix_nano = record.start_ns
    if record.end_ns is not None:
        # A span may not end before it began, whatever the clocks said.
        span.end_time_unix_nano = max(record.end_ns, record.start_ns)
    span.status.code = _CODES[record.status]
    if record.status_message:
        span.status.message = utf8_text(record.status_message)
    _set(span, _span_attributes(record))
    for link in record.links:
        span.links.add(trace_id=link.trace_id, span_id=link.span_id)
    for event in record.events:
        told = span.events.add()
        told.name = utf8_text(event.name)
        told.time_unix_nano = event.time_ns
        _set(told, event.attributes)


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
        one = add()
        try:
            one.key = key
            if type(value) is str:  # as most are
                one.value.string_value = value
                continue
        except ValueError:  # a lone surrogate
            one.key = utf8_text(key)
        _assign(one.value, value)


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
