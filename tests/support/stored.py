"""Reads what MLflow has stored, as its own client shows it."""

from __future__ import annotations

import os
from typing import Any

from mlflow.entities import Experiment, Span, Trace
from mlflow.tracing.client import TracingClient

from langchain_mlflow_tracer import MlflowTracer
from langchain_mlflow_tracer.mlflow_private import configured

Shape = tuple[str, str, list[Any]]
"""A span's name, its type, and the shapes of its children, in the order in which they started."""


class Client(TracingClient):
    """MLflow's client as far as tests need it: there too where mlflow-tracing alone is installed."""

    def create_experiment(self, name: str, artifact_location: str | None = None) -> str:
        """Make an experiment, and return its id."""
        return str(self.store.create_experiment(name, artifact_location))

    def get_experiment_by_name(self, name: str) -> Experiment | None:
        """Return an experiment, if it is there."""
        found: Experiment | None = self.store.get_experiment_by_name(name)
        return found

    def delete_experiment(self, identity: str) -> None:
        """Delete an experiment."""
        self.store.delete_experiment(identity)


def own_experiment() -> str:
    """Return the id of the experiment of tests that name none."""
    return os.environ.get("MLFLOW_EXPERIMENT_ID", "0")


def told_uri() -> Any:
    """Return the URI last passed to `mlflow.set_tracking_uri`, to restore it later."""
    # mlflow.get_tracking_uri() looks for files too, and fails in mlflow-tracing alone (3.17).
    return configured.tracking_uri()


def stored_trace(uri: str, tracer: MlflowTracer) -> Trace:
    """Flush, and return the trace that ended last as MLflow stored it."""
    assert tracer.flush(timeout=60), tracer.stats()
    assert tracer.last_trace_id is not None
    trace: Trace = Client(uri).get_trace(tracer.last_trace_id)
    return trace


def stored_traces(uri: str, tracer: MlflowTracer, experiment_id: str | None = None) -> list[Trace]:
    """Flush, and return every trace of an experiment, by default the test's own, oldest first."""
    assert tracer.flush(timeout=60), tracer.stats()
    traces = Client(uri).search_traces(locations=[experiment_id or own_experiment()], max_results=500)
    return sorted(traces, key=lambda trace: (trace.info.request_time, min(map(_start, trace.data.spans))))


def _start(span: Span) -> int:
    return int(span.start_time_ns)


def experiment_id(uri: str, name: str) -> str:
    """Return the id of an experiment that is there."""
    experiment = Client(uri).get_experiment_by_name(name)
    assert experiment is not None
    return str(experiment.experiment_id)


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
