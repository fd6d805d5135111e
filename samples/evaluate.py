"""Trace a chain, then judge the stored traces with two scorers in code: offline, no model is asked."""

from __future__ import annotations

from typing import Any

import mlflow
from langchain_core.runnables import RunnableLambda
from mlflow.genai.scorers import scorer

from langchain_mlflow_tracer import MlflowTracer
from store import prepare_store, where_to_look

CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Peru": "Lima"}


@scorer  # type: ignore[untyped-decorator, unused-ignore]
def is_known(outputs: Any) -> bool:
    """Say whether the chain knew an answer."""
    return str(outputs) != "I do not know."


@scorer  # type: ignore[untyped-decorator, unused-ignore]
def is_short(outputs: Any) -> bool:
    """Say whether an answer fits on a card."""
    return len(str(outputs)) <= len("Buenos Aires")


def main() -> None:
    """Ask, wait until MLflow has the traces, and score them."""
    prepare_store()
    chain = RunnableLambda[Any, Any](lambda country: CAPITALS.get(country, "I do not know."))
    with MlflowTracer() as tracer:
        trace_ids = []
        for country in ("France", "Japan", "Peru", "Atlantis"):
            chain.invoke(country, {"callbacks": [tracer], "run_name": "capital"})
            trace_ids.append(tracer.last_trace_id)
        tracer.flush(timeout=60)
    traces = [trace for one in trace_ids if one and (trace := mlflow.get_trace(one))]
    result = mlflow.genai.evaluate(data=traces, scorers=[is_known, is_short])
    print({name: float(value) for name, value in result.metrics.items()})
    print(where_to_look())


if __name__ == "__main__":
    main()
