"""Writes the run that makes a call into its headers, as a propagator that OpenTelemetry loads by its name.

A run is no span of OpenTelemetry's: in its context it would become the parent of what other people record
elsewhere. So its ids are written where a call leaves: the mark always, `traceparent` only if OpenTelemetry
has no current span. If a span of MLflow's inside the run makes the call, its ids are in both.
"""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.propagators.textmap import CarrierT, Setter, default_setter
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from langchain_mlflow_tracer.core.attributes import REQUEST_ID
from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.recording import trace_context
from langchain_mlflow_tracer.recording.trace_context import HEADER, MARK, parsed

__all__ = ["Propagator"]


class Propagator(TraceContextTextMapPropagator):
    """OpenTelemetry's propagator of W3C's headers, which also writes the mark; it reads them as that does.

    Loaded while OpenTelemetry is still being imported, so it imports neither its SDK nor LangChain.
    """

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        """Write the headers of the current span, with the mark if a run of ours makes the call."""
        marked = attempt(_marked, lambda _: None, context)
        if marked is not None:
            context = set_span_in_context(NonRecordingSpan(marked), context)
        super().inject(carrier, context, setter)


def _marked(context: Context | None) -> SpanContext | None:
    """Return the ids to write, with the mark; None if only OpenTelemetry knows of a caller here."""
    span = get_current_span(context)
    theirs = span.get_span_context()
    run = trace_context.headers_here().get(HEADER)
    caller = parsed(run or theirs.trace_state.get(MARK) or "")
    if caller is None:
        return None
    trace_id = int.from_bytes(caller.span.trace_id)
    if _is_mlflows(span) and theirs.trace_id == trace_id:
        run = f"00-{theirs.trace_id:032x}-{theirs.span_id:016x}-{theirs.trace_flags:02x}"
    elif run is None:
        return None
    elif not theirs.is_valid:
        span_id, flags = int.from_bytes(caller.span.span_id), TraceFlags(int(caller.is_sampled))
        theirs = SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags)
    return SpanContext(
        theirs.trace_id,
        theirs.span_id,
        theirs.is_remote,
        theirs.trace_flags,
        _with_mark(theirs.trace_state, run),
    )


def _with_mark(state: TraceState, run: str) -> TraceState:
    """Return the state with our mark in front, as W3C wants it of the last writer."""
    others = state.delete(MARK) if MARK in state else state
    return TraceState([(MARK, run), *others.items()])


def _is_mlflows(span: Span) -> bool:
    """Whether MLflow will have a span: of the trace that it is in, it is who makes the call."""
    return span.is_recording() and REQUEST_ID in (getattr(span, "attributes", None) or {})
