"""Leaves chains out by sampling, and looks at what MLflow itself makes in and around them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import mlflow
import mlflow.openai
import pytest
from langchain.agents import create_agent
from langchain_core.runnables import RunnableConfig, RunnableGenerator, RunnableLambda
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI
from opentelemetry.context import attach, detach
from opentelemetry.propagate import extract

from langchain_mlflow_tracer import MlflowTracer, install, join_trace
from tests.conftest import MakeTracer
from tests.support.mixing import State, graph, places, settled
from tests.support.stored import Shape, root, shape, stored_traces

pytestmark = pytest.mark.usefixtures("own_mlflow")

WORK: Shape = ("work", "CHAIN", [])


@pytest.fixture
def silent(make_tracer: MakeTracer, store_uri: str) -> MlflowTracer:
    """A tracer that leaves out every trace that begins with it."""
    return make_tracer(store_uri, sample_rate=0.0)


@pytest.fixture
def left_out(silent: MlflowTracer) -> RunnableConfig:
    return {"callbacks": [silent]}


def names(store_uri: str, tracer: MlflowTracer) -> list[str]:
    """Return the names of the roots that are stored once everything is delivered."""
    return [root(one).name for one in settled(store_uri, tracer)]


def work(number: int) -> int:
    with mlflow.start_span("stray"):
        mlflow.update_current_trace(tags={"color": "red"})
        return number


async def work_later(number: int) -> int:
    with mlflow.start_span("stray"):
        await asyncio.sleep(0)
        return number


CHAIN = RunnableLambda[Any, Any](work, work_later).with_config(run_name="work")


async def test_mlflow_spans_in_an_unsampled_chain_are_not_recorded(
    store_uri: str, silent: MlflowTracer, left_out: RunnableConfig
) -> None:
    chain = CHAIN | CHAIN
    assert await asyncio.to_thread(chain.invoke, 1, left_out) == 1
    assert await asyncio.to_thread(chain.batch, [1, 2], left_out) == [1, 2]
    assert await chain.ainvoke(1, left_out) == 1
    assert [piece async for piece in chain.astream(1, left_out)] == [1]
    assert await asyncio.to_thread(names, store_uri, silent) == []


@pytest.mark.parametrize("is_async", [False, True])
async def test_mlflow_spans_in_nodes_of_an_unsampled_graph_are_not_recorded(
    store_uri: str, silent: MlflowTracer, left_out: RunnableConfig, *, is_async: bool
) -> None:
    def node(state: State) -> State:
        return {"number": CHAIN.invoke(work(state["number"]))}

    async def later(state: State) -> State:
        return {"number": await CHAIN.ainvoke(await work_later(state["number"]))}

    if is_async:
        await graph(later).ainvoke({"number": 1}, left_out)
    else:
        await asyncio.to_thread(graph(node).invoke, {"number": 1}, left_out)
    assert await asyncio.to_thread(names, store_uri, silent) == []


@pytest.mark.parametrize("is_async", [False, True])
async def test_spans_of_tools_and_of_the_openai_client_in_an_unsampled_agent_are_not_recorded(
    store_uri: str, silent: MlflowTracer, left_out: RunnableConfig, model: AzureChatOpenAI, *, is_async: bool
) -> None:
    mlflow.openai.autolog()

    @tool
    def get_weather(city: str) -> str:
        """Return the weather of a city."""
        return f"sunny in {city}, {work(1)}"

    agent: Any = create_agent(model, [get_weather])
    task = {"messages": [("user", "[[tool:get_weather]] What is the weather in Paris?")]}
    if is_async:
        await agent.ainvoke(task, left_out)
    else:
        await asyncio.to_thread(agent.invoke, task, left_out)
    assert await asyncio.to_thread(names, store_uri, silent) == []


@pytest.mark.parametrize("is_async", [False, True])
async def test_spans_of_the_openai_client_for_an_unsampled_model_call_are_not_recorded(
    store_uri: str, silent: MlflowTracer, left_out: RunnableConfig, model: AzureChatOpenAI, *, is_async: bool
) -> None:
    mlflow.openai.autolog()
    if is_async:
        await model.ainvoke("hello", left_out)
    else:
        await asyncio.to_thread(model.invoke, "hello", left_out)
    assert await asyncio.to_thread(names, store_uri, silent) == []


def test_a_chain_inside_an_mlflow_span_of_an_unsampled_chain_is_not_recorded(
    store_uri: str, silent: MlflowTracer, left_out: RunnableConfig, make_tracer: MakeTracer
) -> None:
    loud = make_tracer(store_uri)

    def ask(number: int) -> Any:
        with mlflow.start_span("stray"):
            return CHAIN.invoke(number, {"callbacks": [loud]})

    assert RunnableLambda[Any, Any](ask).invoke(1, left_out) == 1
    assert names(store_uri, silent) == []


def test_mlflow_spans_outside_of_an_unsampled_chain_are_recorded(
    store_uri: str, silent: MlflowTracer, left_out: RunnableConfig
) -> None:
    def pieces(numbers: Iterator[int]) -> Iterator[int]:
        for number in numbers:
            with mlflow.start_span("stray"):
                yield number
            yield number

    for _ in RunnableGenerator(pieces).stream(1, left_out):
        with mlflow.start_span("between"):
            pass
    with mlflow.start_span("after"):
        CHAIN.invoke(1)
    assert names(store_uri, silent) == ["between", "between", "after"]


def test_mlflow_spans_after_an_unsampled_chain_that_failed_or_was_closed_are_recorded(
    store_uri: str, silent: MlflowTracer, left_out: RunnableConfig
) -> None:
    failing = RunnableLambda[Any, Any](lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failing.invoke(1, left_out)
    stream: Any = (CHAIN | CHAIN).stream(1, left_out)
    next(stream)
    with mlflow.start_span("meanwhile"):
        stream.close()
    with mlflow.start_span("after"):
        pass
    assert names(store_uri, silent) == ["meanwhile", "after"]


@pytest.mark.parametrize("is_first", [False, True])
def test_an_unsampled_chain_that_another_tracer_records_keeps_its_mlflow_spans(
    store_uri: str, silent: MlflowTracer, make_tracer: MakeTracer, *, is_first: bool
) -> None:
    loud = make_tracer(store_uri)
    both = [loud, silent] if is_first else [silent, loud]
    CHAIN.invoke(1, {"callbacks": [*both]})
    (stored,) = stored_traces(store_uri, loud)
    assert shape(stored) == ("work", "CHAIN", [("stray", "UNKNOWN", [])])


def test_nested_chains_of_two_tracers_that_do_not_sample_are_not_recorded(
    store_uri: str, silent: MlflowTracer, left_out: RunnableConfig, make_tracer: MakeTracer
) -> None:
    other: RunnableConfig = {"callbacks": [make_tracer(store_uri, sample_rate=0.0)]}
    RunnableLambda[Any, Any](lambda number: CHAIN.invoke(number, other)).invoke(1, left_out)
    assert names(store_uri, silent) == []


async def test_a_chain_inside_a_recorded_mlflow_span_is_recorded_even_if_its_sample_rate_is_zero(
    store_uri: str, silent: MlflowTracer, left_out: RunnableConfig
) -> None:
    plain = RunnableLambda[Any, Any](lambda number: number).with_config(run_name="work")

    @mlflow.trace
    async def ask() -> None:
        await plain.abatch([1, 2], left_out)
        await asyncio.to_thread(plain.invoke, 3, left_out)

    await ask()
    (stored,) = await asyncio.to_thread(settled, store_uri, silent)
    assert shape(stored) == ("ask", "UNKNOWN", [WORK] * 3)


def test_mlflow_spans_in_a_service_are_not_recorded_if_the_caller_does_not_record(
    store_uri: str, make_tracer: MakeTracer
) -> None:
    tracer = make_tracer(store_uri)
    with join_trace({"traceparent": f"00-{'1' * 32}-{'2' * 16}-00"}):
        CHAIN.invoke(1, {"callbacks": [tracer]})
    assert names(store_uri, tracer) == []


def test_join_trace_overrides_the_trace_in_the_context_of_opentelemetry(
    store_uri: str, make_tracer: MakeTracer
) -> None:
    tracer = make_tracer(store_uri)
    silent = f"00-{'3' * 32}-{'4' * 16}-00"
    carried = extract({"traceparent": silent, "tracestate": f"langchain-mlflow-tracer={silent}"})
    token = attach(carried)
    try:
        with join_trace({"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}):
            CHAIN.invoke(1, {"callbacks": [tracer]})
    finally:
        detach(token)
    assert tracer.last_trace_id == f"tr-{'1' * 32}"


async def test_unsampled_chains_do_not_make_the_context_grow(
    store_uri: str, left_out: RunnableConfig, make_tracer: MakeTracer
) -> None:
    loud = make_tracer(store_uri, forwarder="none")

    async def ask(number: int) -> Any:
        return await CHAIN.ainvoke(number, left_out)

    for number in range(5):
        async for _ in RunnableLambda[Any, Any](ask).astream(number, {"callbacks": [loud]}):
            pass
        async for _ in CHAIN.astream(number, left_out):
            pass
    assert places() <= 1


def test_mlflow_spans_in_a_chain_that_an_installed_tracer_does_not_sample_are_not_recorded(
    store_uri: str, silent: MlflowTracer
) -> None:
    install(silent)
    CHAIN.invoke(1)
    assert names(store_uri, silent) == []


def test_a_root_run_without_mlflow_and_opentelemetry_spans_does_not_import_the_bridge() -> None:
    code = (
        "import sys, opentelemetry.sdk.trace, opentelemetry.trace.propagation.tracecontext\n"
        "from langchain_core.runnables import RunnableLambda\n"
        "from langchain_mlflow_tracer import MlflowTracer\n"
        "tracer = MlflowTracer('http://127.0.0.1:9', sample_rate=0.0, forwarder='none')\n"
        "RunnableLambda(str).invoke(1, {'callbacks': [tracer]})\n"
        "assert 'mlflow' not in sys.modules\n"
        "bridge = 'langchain_mlflow_tracer.bridge'\n"
        "assert [name for name in sys.modules if name.startswith(bridge)] == []\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
