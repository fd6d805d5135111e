"""Hears LangGraph say that a graph waits for a person, or goes on, and knows which run goes on for which.

LangGraph tells only handlers of a class of its own (langgraph 1.2). It is no dependency, and imported by
nobody here: a tracer becomes such a handler when it meets LangGraph.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Final

from langchain_mlflow_tracer.core.record import Outcome, SpanLink, SpanRecord, TraceRecord

__all__ = ["add_interrupts", "hearing", "interrupted", "resumed"]

REMEMBERED: Final = 10_000
"""Runs that wait, of which the trace is known: two megabytes. Others are linked by the checkpoint."""

_waiting: dict[str, tuple[str, SpanLink]] = {}
"""The trace and span of runs that wait, by the checkpoint at which they do."""


def hearing(kind: type) -> type:
    """Return `kind` as LangGraph talks to it, once LangGraph is there."""
    base = getattr(sys.modules.get("langgraph.callbacks"), "GraphCallbackHandler", None)
    return kind if base is None or issubclass(kind, base) else _hearing(kind, base)


@lru_cache
def _hearing(kind: type, base: type) -> type:
    namespace = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind, base), namespace)


def interrupted(span: SpanRecord, trace: TraceRecord, checkpoint_id: str, waits_for: object) -> None:
    """Tell of a run that waits, and remember it."""
    span.outcome = Outcome.INTERRUPTED
    span.attributes["langgraph.checkpoint_id"] = checkpoint_id
    if waits_for:
        span.attributes["langgraph.interrupts"] = waits_for
    trace.tags["langgraph.checkpoint_id"] = checkpoint_id
    _waiting[checkpoint_id] = trace.mlflow_id, SpanLink(trace.trace_id, span.span_id)
    while len(_waiting) > REMEMBERED:
        _waiting.pop(next(iter(_waiting)), None)


def add_interrupts(span: SpanRecord) -> None:
    """Show what a graph waits for beside its state, as `invoke` returns it; LangChain's callback lacks it."""
    if (waits_for := span.attributes.get("langgraph.interrupts")) and isinstance(span.outputs, dict):
        span.outputs = {**span.outputs, "__interrupt__": waits_for}


def resumed(span: SpanRecord, trace: TraceRecord, checkpoint_id: str) -> None:
    """Tell of a run that goes on from a checkpoint, and link it to the one that waited there."""
    told = {"langgraph.resumed_from": checkpoint_id}
    waited = _waiting.pop(checkpoint_id, None)
    if waited is not None:
        told["langgraph.resumes_trace"], link = waited
        span.links += (link,)
    span.attributes.update(told)
    trace.tags.update(told)
