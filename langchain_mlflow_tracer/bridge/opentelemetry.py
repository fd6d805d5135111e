"""Reads OpenTelemetry's own context where a root begins: the calling run, and the span around the root.

A span there belongs to the application, to a gateway or a mesh: of its trace MLflow may never see the root.
So one of ours joins it only if the mark is there (see `trace_context`); else it is linked.
"""

from __future__ import annotations

from uuid import UUID

from opentelemetry import context as otel_context

from langchain_mlflow_tracer.bridge.current_span import open_span
from langchain_mlflow_tracer.bridge.span_facade import link_of
from langchain_mlflow_tracer.core.record import SpanRecord, TraceRecord
from langchain_mlflow_tracer.recording.trace_context import MARK, Caller, parsed

__all__ = ["Plain", "caller", "link_to_what_is_around"]


def caller() -> Caller | None:
    """Return the run of ours that called this process, however many others the call went through."""
    span, _ = open_span(otel_context.get_current())
    return None if span is None else parsed(span.get_span_context().trace_state.get(MARK) or "")


def link_to_what_is_around(root: SpanRecord) -> None:
    """Link a root that joins nothing to the span in which it began, if somebody keeps that."""
    span, _ = open_span(otel_context.get_current())
    if span is None:
        return
    context = span.get_span_context()
    if context.trace_flags.sampled and (context.is_remote or span.is_recording()):
        root.links = (*root.links, link_of(context))


class Plain:
    """A bridge to OpenTelemetry alone: for an application that does not use MLflow itself."""

    def decided(self) -> Caller | None:
        """Return what is decided of a trace that begins here and now: by who called this process alone."""
        return caller()

    def dropped(self, run_id: UUID, span_type: str) -> None:
        """Note nothing: nobody makes spans in a run that is not recorded."""

    def started(self, run_id: UUID, span: SpanRecord, trace: TraceRecord | None) -> None:
        """Link a root that joins nothing."""
        if trace is not None and trace.host is None:
            link_to_what_is_around(span)

    def finished(self, trace: TraceRecord) -> TraceRecord:
        """Return the trace: it is delivered as it is."""
        return trace
