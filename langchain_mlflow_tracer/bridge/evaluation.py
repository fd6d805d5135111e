"""Puts a span of MLflow's around a chain that `mlflow.genai.evaluate` runs, where that puts none itself.

MLflow looks for the trace as soon as the function returns, and finds only what its own exporter has stored.
It puts a span around the function, unless a trial of it starts one; and in the trial, for which it switches
autolog on and tracing off, a model's client does (mlflow 3.12 to 3.17).
"""

from __future__ import annotations

from typing import Any, Final

from langchain_mlflow_tracer.core.record import SpanRecord, Status
from langchain_mlflow_tracer.mlflow_private.evaluation import is_evaluating
from langchain_mlflow_tracer.mlflow_private.tracing import Mlflow

__all__ = ["begin", "end"]

NAME: Final = "predict_fn"
"""The argument of `mlflow.genai.evaluate` that is called."""


def begin(mlflow: Mlflow, root: SpanRecord) -> Any | None:
    """Return a span of MLflow's for a root to hang in; None where nothing is evaluated."""
    if not is_evaluating():
        return None
    return mlflow.fluent.start_span_no_context(NAME, start_time_ns=root.start_ns)


def end(span: Any, root: SpanRecord) -> None:
    """End the span, and with it the trace: it is stored when this returns, as MLflow wants it."""
    span.set_inputs(root.inputs)
    status = "ERROR" if root.status is Status.ERROR else "OK"
    span.end(outputs=root.outputs, status=status, end_time_ns=root.end_ns)
