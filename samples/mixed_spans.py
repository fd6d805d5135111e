"""Combine chains with MLflow's own spans, in both directions, and print the two traces."""

from __future__ import annotations

from typing import Any

import mlflow
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_mlflow_tracer import MlflowTracer, protect_mlflow_tracing
from store import prepare_store
from trace_tree import show


@mlflow.trace(span_type="RETRIEVER")
def look_up(question: str) -> list[str]:
    """Find pages; this function does not use LangChain."""
    mlflow.update_current_trace(tags={"index": "pages"}, session_id="session-1")
    return [f"a page about {question}"]


def main() -> None:
    """Run a chain that calls a traced function, and a traced function that runs the chain."""
    prepare_store()
    with MlflowTracer() as tracer:
        protect_mlflow_tracing(tracer)  # traces that MLflow starts are sent through the queue on disk, too
        first: Runnable[Any, Any] = RunnableLambda(look_up).with_config(run_name="search")
        chain = first | RunnableLambda[Any, Any](lambda pages: pages[0])

        chain.invoke("capitals", {"callbacks": [tracer], "run_name": "chain around a span"})
        around = tracer.last_trace_id

        with mlflow.start_span("span around a chain") as span:
            span.set_inputs("rivers")
            span.set_outputs(chain.invoke("rivers", {"callbacks": [tracer]}))

        show(tracer, around, span.trace_id)


if __name__ == "__main__":
    main()
