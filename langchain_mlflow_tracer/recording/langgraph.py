"""Records that a LangGraph run waits for a person, and which run resumes it.

LangGraph reports this only to handlers that derive from its own class (langgraph 1.2). LangGraph is no
dependency, and this package does not import it: the class of a tracer is replaced once the application has
loaded LangGraph.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Final

from langchain_mlflow_tracer.core.record import Outcome, SpanLink, SpanRecord, TraceRecord

__all__ = ["add_interrupts", "graph_handler", "interrupted", "resumed"]

REMEMBERED: Final = 10_000
"""Waiting runs that are kept, two megabytes. A run that resumes an older one is not linked to its trace."""

_waiting: dict[str, tuple[str, SpanLink]] = {}
"""The trace and span of each waiting run, by the id of its checkpoint."""


def graph_handler(kind: type) -> type:
    """Return a subclass of `kind` to which LangGraph reports, once LangGraph is loaded."""
    base = getattr(sys.modules.get("langgraph.callbacks"), "GraphCallbackHandler", None)
    return kind if base is None or issubclass(kind, base) else _graph_handler(kind, base)


@lru_cache
def _graph_handler(kind: type, base: type) -> type:
    namespace = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind, base), namespace)


def interrupted(span: SpanRecord, trace: TraceRecord, checkpoint_id: str, waits_for: object) -> None:
    """Record that a run waits for a person, and keep its trace for the run that resumes it."""
    span.outcome = Outcome.INTERRUPTED
    span.attributes["langgraph.checkpoint_id"] = checkpoint_id
    if waits_for:
        span.attributes["langgraph.interrupts"] = waits_for
    trace.tags["langgraph.checkpoint_id"] = checkpoint_id
    _waiting[checkpoint_id] = trace.mlflow_id, SpanLink(trace.trace_id, span.span_id)
    while len(_waiting) > REMEMBERED:
        _waiting.pop(next(iter(_waiting)), None)


def add_interrupts(span: SpanRecord) -> None:
    """Add what a graph waits for to its outputs, as `invoke` returns it; LangChain's callback lacks it."""
    if (waits_for := span.attributes.get("langgraph.interrupts")) and isinstance(span.outputs, dict):
        span.outputs = {**span.outputs, "__interrupt__": waits_for}


def resumed(span: SpanRecord, trace: TraceRecord, checkpoint_id: str) -> None:
    """Record that a run resumes from a checkpoint, and link it to the run that waited there."""
    facts = {"langgraph.resumed_from": checkpoint_id}
    waited = _waiting.pop(checkpoint_id, None)
    if waited is not None:
        facts["langgraph.resumes_trace"], link = waited
        span.links += (link,)
    span.attributes.update(facts)
    trace.tags.update(facts)
