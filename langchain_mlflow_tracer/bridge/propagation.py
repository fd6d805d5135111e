"""Lets OpenTelemetry's own `inject` carry traces of ours: to a service that is called inside a run.

A run is no span of OpenTelemetry's: in its context it would become the parent of what other people record
elsewhere. So its ids are written where a call leaves, by the class that writes W3C's headers, changed once
(seen in opentelemetry-api 1.45): the mark always, `traceparent` only where there would be none. Where a span
of MLflow's inside the run makes the call, its ids are in both.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.propagators.textmap import default_setter
from opentelemetry.trace import Span, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from langchain_mlflow_tracer.core.attributes import REQUEST_ID
from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.recording import run_info, trace_context
from langchain_mlflow_tracer.recording.recorder import Recorder
from langchain_mlflow_tracer.recording.trace_context import HEADER, MARK, STATE

__all__ = ["carry"]

_recorders: Final[weakref.WeakSet[Recorder]] = weakref.WeakSet()
_changed: Final[set[type]] = set()


def carry(recorder: Recorder) -> None:
    """Let the runs of a recorder be known to whoever is called inside of them."""
    _recorders.add(recorder)
    if TraceContextTextMapPropagator not in _changed:
        _changed.add(TraceContextTextMapPropagator)
        injecting = _injecting(TraceContextTextMapPropagator.inject)
        TraceContextTextMapPropagator.inject = injecting  # type: ignore[method-assign]


def _injecting(inject: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(inject)
    def injecting(self: Any, carrier: Any, context: Any = None, setter: Any = default_setter) -> None:
        said: dict[str, str] = {}
        inject(self, said, context)
        for name, value in {**said, **attempt(lambda: _ours(said, context), lambda _: {})}.items():
            setter.set(carrier, name, value)

    return injecting


def _ours(said: dict[str, str], context: Context | None) -> dict[str, str]:
    """Return what is to be said beside, or in place of, what OpenTelemetry says."""
    state, ours = said.get(STATE, ""), _of_run()
    known = ours or trace_context.mark_in(state)
    if known is None:
        return {}
    theirs = said.get(HEADER, known)
    if _is_mlflows(get_current_span(context)) and trace_context.is_same_trace(theirs, known):
        ours = theirs
    return {} if ours is None else {HEADER: theirs, STATE: _beside(state, ours)}


def _of_run() -> str | None:
    """Return the `traceparent` of the run of ours that is at work here."""
    run_id = run_info.named_parent()
    for recorder in list(_recorders) if run_id is not None else ():
        if found := trace_context.headers_of(recorder, run_id):
            return found[HEADER]
    return None


def _is_mlflows(span: Span) -> bool:
    """Whether MLflow will have a span: of the trace that it is in, it is who makes the call."""
    return span.is_recording() and REQUEST_ID in (getattr(span, "attributes", None) or {})


def _beside(others: str, mine: str) -> str:
    """Put the mark first, as W3C wants it of who wrote last, and leave out an older one."""
    kept = [member for member in others.split(",") if member and member.partition("=")[0].strip() != MARK]
    return ",".join([f"{MARK}={mine}", *kept])
