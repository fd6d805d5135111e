"""Tells of a trace that has not ended: as it stands while it runs, as cut off when its process has died.

Works on encoded traces (see `otlp`). A trace that runs has spans whose outcome is "running" and whose end is
the time at which it was written.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from langchain_mlflow_tracer.core.attributes import OUTCOME, TAG_PREFIX
from langchain_mlflow_tracer.core.record import Outcome
from langchain_mlflow_tracer.encoding.payload import spans_of, split_attachments

__all__ = ["CUT_OFF", "cut_off", "shown"]

CUT_OFF: Final = "cut off: its process ended while it ran; this is what was known"
"""The status message of a span whose process died."""

NOBODY: Final = b"\xff" * 8
"""The parent of a root that has not ended: no span has this id."""


def shown(payload: bytes) -> bytes:
    """Return a trace that runs as MLflow takes it without believing that it has ended.

    To MLflow a trace has ended when it has a root, whatever the root says; one whose spans all have a parent
    is in progress, and shown with its tree. The whole trace, sent later, corrects everything (seen with
    mlflow 3.17.2, in a server and an embedded store).
    """
    request = ExportTraceServiceRequest.FromString(payload)
    for span in spans_of(request):
        span.parent_span_id = span.parent_span_id or NOBODY
    result: bytes = request.SerializeToString()
    return result


def cut_off(payload: bytes) -> bytes:
    """Return a trace that ran when its process died as one that has ended, truthfully."""
    attachments, payload = split_attachments(payload)
    request = ExportTraceServiceRequest.FromString(payload)
    for span in spans_of(request):
        for attribute in span.attributes:
            name = attribute.key.removeprefix(TAG_PREFIX)
            if name == OUTCOME and attribute.value.string_value == Outcome.RUNNING:
                attribute.value.string_value = Outcome.CUT_OFF.value
                span.status.code, span.status.message = Status.STATUS_CODE_ERROR, CUT_OFF
    result: bytes = request.SerializeToString()
    return attachments + result
