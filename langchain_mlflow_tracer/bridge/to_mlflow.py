"""Hands spans of ours over to MLflow, as spans that have ended, for a trace that began in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

from langchain_mlflow_tracer.bridge.span_facade import Facade
from langchain_mlflow_tracer.core.record import SpanRecord, mlflow_id
from langchain_mlflow_tracer.mlflow_private.tracing import Mlflow

__all__ = ["hand_over"]


class _Ended(ReadableSpan):
    """A span as it was; MLflow writes to one when it takes it, what is known already."""

    def set_attribute(self, _key: str, _value: Any) -> None:
        """Nothing new."""


def hand_over(mlflow: Mlflow, kept: Any, trace_id: bytes, spans: Sequence[SpanRecord]) -> None:
    """Give MLflow these spans of a trace that it keeps; it exports them together with its own."""
    ended = [_ended(trace_id, span) for span in spans]
    known_as = mlflow_id(trace_id)
    for record, span in zip(spans, ended, strict=True):
        kept.span_dict[record.span_id.hex()] = mlflow.live_span(span, known_as, record.span_type)
    for span in ended:
        mlflow.ended(span)


def _ended(trace_id: bytes, record: SpanRecord) -> _Ended:
    shown = Facade(trace_id, record, record.parent_id)
    return _Ended(
        shown.name, shown.get_span_context(), shown.parent, attributes=shown.attributes, events=shown.events,
        links=shown.links, kind=shown.kind, status=shown.status, start_time=record.start_ns,
        end_time=record.end_ns, instrumentation_scope=shown.instrumentation_scope, resource=shown.resource,
    )  # fmt: skip
