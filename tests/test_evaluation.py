"""Evaluates chains with MLflow: over traces that are stored, and by running them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlflow
import mlflow.langchain
import pytest
from langchain_core.runnables import RunnableLambda
from mlflow.genai.scorers import scorer
from mlflow.tracing.trace_manager import InMemoryTraceManager

from langchain_mlflow_tracer import MlflowTracer, protect_mlflow_tracing, unprotect_mlflow_tracing
from tests.conftest import MakeTracer
from tests.stored import Shape, shape, stored_traces


@pytest.fixture
def tracer(make_tracer: MakeTracer, store_uri: str) -> Iterator[MlflowTracer]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store_uri)
    yield make_tracer(store_uri)
    unprotect_mlflow_tracing()
    mlflow.langchain.autolog(disable=True)  # an evaluation turns it on, and leaves it on
    mlflow.flush_trace_async_logging()
    mlflow.tracing.reset()  # type: ignore[no-untyped-call]
    InMemoryTraceManager.reset()  # type: ignore[no-untyped-call]
    mlflow.set_tracking_uri(before)


SHOUT = RunnableLambda[Any, Any](lambda asked: asked["question"].upper()).with_config(run_name="shout")
SHOUTED: Shape = ("shout", "CHAIN", [])


@scorer  # type: ignore[untyped-decorator, unused-ignore]
def is_loud(outputs: Any) -> bool:
    return str(outputs).isupper()


@scorer  # type: ignore[untyped-decorator, unused-ignore]
def spans(trace: Any) -> int:
    return len(trace.data.spans)


def test_stored_traces_can_be_evaluated(store_uri: str, tracer: MlflowTracer) -> None:
    for question in ("why?", "how?"):
        SHOUT.invoke({"question": question}, {"callbacks": [tracer]})
    assert tracer.flush(timeout=60)
    result = mlflow.genai.evaluate(data=mlflow.search_traces(locations=["0"]), scorers=[is_loud, spans])
    assert (result.metrics["is_loud/mean"], result.metrics["spans/mean"]) == (1.0, 1.0)
    for stored in stored_traces(store_uri, tracer):
        assert {one.name for one in stored.info.assessments} == {"is_loud", "spans"}


@pytest.mark.parametrize("is_protected", [False, True])
def test_a_chain_that_an_evaluation_runs_has_one_trace_a_row(
    store_uri: str, tracer: MlflowTracer, *, is_protected: bool
) -> None:
    if is_protected:
        protect_mlflow_tracing(tracer)

    def predict(question: str) -> Any:
        return SHOUT.invoke({"question": question}, {"callbacks": [tracer]})

    data = [{"inputs": {"question": question}} for question in ("why?", "how?", "who?")]
    result = mlflow.genai.evaluate(data=data, predict_fn=predict, scorers=[is_loud, spans])
    assert (result.metrics["is_loud/mean"], result.metrics["spans/mean"]) == (1.0, 2.0)
    mlflow.flush_trace_async_logging()
    stored = stored_traces(store_uri, tracer)
    assert [shape(one) for one in stored] == [("predict", "UNKNOWN", [SHOUTED])] * 3
