"""Reads what MLflow has stored, as its own client shows it."""

from __future__ import annotations

from typing import Any

from mlflow.entities import Span, Trace
from mlflow.tracking import MlflowClient

from langchain_mlflow_tracer import MlflowTracer

Shape = tuple[str, str, list[Any]]
"""A span's name, its type, and the shapes of its children, in the order in which they started."""


def stored_trace(uri: str, tracer: MlflowTracer) -> Trace:
    """Flush, and return the trace that ended last as MLflow stored it."""
    assert tracer.flush(timeout=60), tracer.stats()
    assert tracer.last_trace_id is not None
    trace: Trace = MlflowClient(uri).get_trace(tracer.last_trace_id)
    return trace


def stored_traces(uri: str, tracer: MlflowTracer, experiment_id: str = "0") -> list[Trace]:
    """Flush, and return every trace of an experiment, oldest first."""
    assert tracer.flush(timeout=60), tracer.stats()
    found = MlflowClient(uri).search_traces(locations=[experiment_id], max_results=500)
    return sorted(found, key=lambda trace: trace.info.request_time)


def experiment_id(uri: str, name: str) -> str:
    """Return the id of an experiment that is there."""
    found = MlflowClient(uri).get_experiment_by_name(name)
    assert found is not None
    return str(found.experiment_id)


def root(trace: Trace) -> Span:
    """Return the one root span of a trace."""
    (found,) = [span for span in trace.data.spans if span.parent_id is None]
    return found


def named(trace: Trace, name: str) -> Span:
    """Return the one span of that name."""
    (found,) = [span for span in trace.data.spans if span.name == name]
    return found


def attribute(span: Span, key: str) -> Any:
    """Return an attribute of a span, decoded."""
    return span.get_attribute(key)


def shape(trace: Trace) -> Shape:
    """Return the tree of a trace: names, types and children."""
    return _shape(trace, root(trace))


def _shape(trace: Trace, span: Span) -> Shape:
    children = sorted(
        (one for one in trace.data.spans if one.parent_id == span.span_id), key=lambda one: one.start_time_ns
    )
    return (span.name, span.span_type, [_shape(trace, one) for one in children])
