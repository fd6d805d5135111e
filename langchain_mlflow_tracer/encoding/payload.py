"""Puts the attachments of a trace in front of its spans, in one payload, and takes them apart again.

A payload without attachments is OTLP and nothing else. One with attachments begins with a byte that OTLP
cannot begin with, and the length of what stands before the spans.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator, Sequence
from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from langchain_mlflow_tracer.encoding.attachments import Attachment

__all__ = ["join_attachments", "read_attachments", "read_spans", "spans_of", "split_attachments"]

MARK: Final = 0
"""The first byte before attachments. In protobuf it would be field number 0, which there is not."""

_FRONT: Final = struct.Struct(">BQ")
"""The mark, and the bytes that all attachments take."""

_HEAD: Final = struct.Struct(">16s16sQ")
"""Of each attachment: the id of its trace, its own id, and the bytes of its content, which follows."""


def join_attachments(attachments: Sequence[Attachment], spans: bytes) -> bytes:
    """Return one payload of a trace's spans and those attachments that they refer to.

    An attachment without a reference is dropped: masking removed the reference, so the content is secret.
    """
    kept = [attachment for attachment in attachments if str(attachment.id).encode() in spans]
    if not kept:
        return spans
    parts = [
        part
        for item in kept
        for part in (_HEAD.pack(item.trace_id, item.id.bytes, len(item.content)), item.content)
    ]
    return b"".join([_FRONT.pack(MARK, sum(map(len, parts))), *parts, spans])


def split_attachments(payload: bytes) -> tuple[bytes, bytes]:
    """Return what stands before the spans, and the spans; bytes that are damaged are all spans."""
    if len(payload) < _FRONT.size or payload[0] != MARK:
        return b"", payload
    _, size = _FRONT.unpack_from(payload)
    end = _FRONT.size + size
    return (payload[:end], payload[end:]) if end <= len(payload) else (b"", payload)


def read_attachments(front: bytes) -> list[Attachment]:
    """Return the attachments in what stands before the spans, up to the first that is damaged."""
    attachments = []
    start = _FRONT.size
    while start + _HEAD.size <= len(front):
        trace_id, identity, size = _HEAD.unpack_from(front, start)
        start += _HEAD.size
        content = front[start : start + size]
        if len(content) < size:
            break
        attachments.append(Attachment(trace_id, uuid.UUID(bytes=identity), content))
        start += size
    return attachments


def read_spans(payload: bytes) -> list[Span]:
    """Return the spans of a payload.

    Raises:
        DecodeError: they are damaged.
    """
    return list(spans_of(ExportTraceServiceRequest.FromString(split_attachments(payload)[1])))


def spans_of(request: ExportTraceServiceRequest) -> Iterator[Span]:
    """Return the spans of all traces in a request."""
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            yield from scope.spans
