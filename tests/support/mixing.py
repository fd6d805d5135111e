"""Makes small chains and graphs to mix with MLflow's own spans, and reads what both have left in a store."""

from __future__ import annotations

from typing import Any, Final, TypedDict

import mlflow
from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.graph import END, START, StateGraph
from mlflow.entities import Trace
from mlflow.tracing.provider import mlflow_runtime_context
from opentelemetry.trace import get_current_span

from langchain_mlflow_tracer import MlflowTracer
from langchain_mlflow_tracer.bridge.current_span import Ambient
from tests.support.stored import Client, Shape, stored_traces

__all__ = ["DOUBLE", "State", "count", "doubled", "graph", "own_trace", "places", "settled"]

DOUBLE: Final[Shape] = ("double", "CHAIN", [])
"""The shape of what `doubled` leaves."""


class State(TypedDict):
    """What a graph knows."""

    number: int


def doubled() -> Runnable[Any, Any]:
    """Return a chain that doubles a number."""
    return RunnableLambda[Any, Any](lambda number: number * 2).with_config(run_name="double")


def graph(node: Any) -> Runnable[State, Any]:
    """Return a graph of one node."""
    made = StateGraph(State)
    made.add_node("work", node)
    made.add_edge(START, "work")
    made.add_edge("work", END)
    return made.compile()


def own_trace(store_uri: str, trace_id: str) -> Trace:
    """Return a trace that MLflow's own exporter delivers."""
    mlflow.flush_trace_async_logging()
    trace: Trace = Client(store_uri).get_trace(trace_id)
    return trace


def settled(store_uri: str, tracer: MlflowTracer) -> list[Trace]:
    """Return the traces that are stored once everything is delivered, also by MLflow's own exporter."""
    mlflow.flush_trace_async_logging()
    return stored_traces(store_uri, tracer)


def count(store_uri: str, tracer: MlflowTracer) -> int:
    """Return how many traces are stored once everything is delivered."""
    return len(settled(store_uri, tracer))


def places() -> int:
    """Return how many places of ours stand one on the other in MLflow's context, here and now."""
    number, current = 0, get_current_span(mlflow_runtime_context.get_current())
    while isinstance(current, Ambient):
        number, current = number + 1, get_current_span(current.previous)
    return number
