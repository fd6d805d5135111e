"""Changes encoded traces that have not ended: as MLflow shows them in progress, or cut off by a dead process.

The spans that run have the outcome "running", and end at the time at which the trace was written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from langchain_mlflow_tracer.core.attributes import OUTCOME, TAG_PREFIX
from langchain_mlflow_tracer.core.record import Outcome
from langchain_mlflow_tracer.encoding.payload import spans_of, split_attachments

__all__ = ["CUT_OFF", "as_cut_off", "as_running"]

CUT_OFF: Final = "cut off: its process ended while it ran; this is what was known"
"""The status message of a span whose process died."""

NO_SPAN: Final = b"\xff" * 8
"""The parent of a root that has not ended: no span has this id."""


def as_running(payload: bytes) -> bytes:
    """Return a running trace so that MLflow shows it in progress.

    To MLflow a trace has ended when it has a root, whatever the root's status is; one whose spans all have a
    parent is in progress, and shown with its tree. The whole trace, sent later, replaces it (seen with
    mlflow 3.17.2, in a server and an embedded store).
    """
    return _with_spans_changed(payload, _give_parent)


def as_cut_off(payload: bytes) -> bytes:
    """Return a trace that ran when its process died as one that has ended with the outcome "cut_off"."""
    attachments, spans = split_attachments(payload)
    return attachments + _with_spans_changed(spans, _cut_off)


def _with_spans_changed(payload: bytes, change: Callable[[Span], None]) -> bytes:
    try:
        request = ExportTraceServiceRequest.FromString(payload)
    except DecodeError:
        # Damaged on disk. An error here would keep all other traces from being sent; the destination
        # rejects this one alone.
        return payload
    for span in spans_of(request):
        change(span)
    result: bytes = request.SerializeToString()
    return result


def _give_parent(span: Span) -> None:
    span.parent_span_id = span.parent_span_id or NO_SPAN


def _cut_off(span: Span) -> None:
    for attribute in span.attributes:
        name = attribute.key.removeprefix(TAG_PREFIX)
        if name == OUTCOME and attribute.value.string_value == Outcome.RUNNING:
            attribute.value.string_value = Outcome.CUT_OFF.value
            span.status.code, span.status.message = Status.STATUS_CODE_ERROR, CUT_OFF
