"""Hears LangGraph say that a graph waits for a person, or goes on, and knows which run goes on for which.

LangGraph tells only handlers of a class of its own (langgraph 1.2). It is no dependency, and imported by
nobody here: a tracer becomes such a handler when it meets LangGraph.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Final

from langchain_mlflow_tracer.core.record import Outcome, SpanLink, SpanRecord, TraceRecord
from langchain_mlflow_tracer.recording.content.freeze import Freezer

__all__ = ["add_interrupts", "hearing", "interrupted", "interrupts", "is_command", "resumed"]

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


def is_command(kind: type) -> bool:
    """Whether it is what a node of a graph returns, or a graph is called with, to say where to go on."""
    return kind.__module__ == "langgraph.types" and kind.__name__ == "Command"


def interrupts(found: object, copy: Freezer | None) -> list[dict[str, object]]:
    """Return what a graph waits for: each question by its id, and with its payload if there is a `copy`."""
    listed = found if isinstance(found, list | tuple) else ()
    asked = [(getattr(one, "id", None), getattr(one, "value", None)) for one in listed]
    return [
        {"id": str(identity), **({} if copy is None else {"value": copy(value)})} for identity, value in asked
    ]


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
