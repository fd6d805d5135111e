"""Loads prompts of MLflow's registry inside chains, and finds the traces by them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import mlflow
import pytest
from langchain_core.runnables import RunnableLambda
from mlflow.tracing.trace_manager import InMemoryTraceManager
from mlflow.tracking import MlflowClient

from langchain_mlflow_tracer import MlflowTracer
from tests.conftest import MakeTracer


@pytest.fixture(params=["store", "server"])
def uri(request: pytest.FixtureRequest) -> Iterator[str]:
    found = str(request.getfixturevalue("store_uri" if request.param == "store" else "server"))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(found)
    mlflow.set_registry_uri(found)
    yield found
    mlflow.tracing.reset()  # type: ignore[no-untyped-call]
    InMemoryTraceManager.reset()  # type: ignore[no-untyped-call]
    mlflow.set_registry_uri("")
    mlflow.set_tracking_uri(before)


@pytest.fixture
def tracer(make_tracer: MakeTracer, uri: str) -> MlflowTracer:
    return make_tracer(uri)


def found_by(uri: str, filter_string: str) -> list[str]:
    found = MlflowClient(uri).search_traces(locations=["0"], filter_string=filter_string)
    return [trace.info.trace_id for trace in found]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_prompt_that_is_loaded_in_a_chain_finds_its_trace(
    uri: str, tracer: MlflowTracer, *, is_async: bool
) -> None:
    name = f"greeting-{is_async}"
    mlflow.genai.register_prompt(name=name, template="Hello {{name}}")

    def greet(who: str) -> str:
        prompt: Any = mlflow.genai.load_prompt(f"prompts:/{name}/1")
        return str(prompt.format(name=who))

    chain = RunnableLambda(greet)
    for who in ("Ada", "Bob"):
        config: Any = {"callbacks": [tracer]}
        said = await chain.ainvoke(who, config) if is_async else chain.invoke(who, config)
        assert said == f"Hello {who}"
    assert await tracer.aflush(timeout=60)
    found = await asyncio.to_thread(found_by, uri, f"prompt = '{name}/1'")
    assert len(found) == 2
    assert tracer.last_trace_id in found
    stored = await asyncio.to_thread(MlflowClient(uri).get_trace, found[0])
    assert name in stored.info.tags["mlflow.linkedPrompts"]


def test_the_page_of_a_logged_model_lists_its_traces(uri: str, tracer: MlflowTracer) -> None:
    mlflow.set_experiment(experiment_id="0")
    model = mlflow.set_active_model(name="agent")
    RunnableLambda(lambda one: one).invoke(1, {"callbacks": [tracer]})
    mlflow.clear_active_model()
    assert tracer.flush(timeout=60)
    found = MlflowClient(uri).search_traces(locations=["0"], model_id=model.model_id)
    assert [trace.info.trace_id for trace in found] == [tracer.last_trace_id]
