"""Runs chains in LangChain's pools of threads, from spans, tools and nodes, and reads where they hang."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from contextvars import ContextVar
from typing import Any

import mlflow
import pytest
from langchain.agents import create_agent
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.runnables.config import ContextThreadPoolExecutor
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI

from langchain_mlflow_tracer import MlflowTracer
from tests.conftest import MakeTracer
from tests.support.mixing import DOUBLE, State, count, doubled, graph, own_trace, settled
from tests.support.stored import Shape, named, root, shape, stored_trace

pytestmark = pytest.mark.usefixtures("own_mlflow")

AT_ONCE = 50
"""Functions that share a pool."""

COLOR: ContextVar[str] = ContextVar("color", default="none")


@pytest.fixture
def tracer(make_tracer: MakeTracer, store_uri: str) -> MlflowTracer:
    return make_tracer(store_uri)


@pytest.fixture
def config(tracer: MlflowTracer) -> RunnableConfig:
    return {"callbacks": [tracer]}


@pytest.fixture
def pool() -> Iterator[Executor]:
    """A pool of two threads, which have worked already."""
    with ContextThreadPoolExecutor(2) as executor:
        list(executor.map(lambda _: threading.Event().wait(0.01), range(4)))
        yield executor


def test_chains_in_a_pool_nest_in_the_traced_function_that_submits_them(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig, pool: Executor
) -> None:
    @mlflow.trace
    def ask() -> str:
        futures = [pool.submit(doubled().invoke, number, config=config) for number in (1, 2)]
        assert [future.result() for future in futures] == [2, 4]
        assert list(pool.map(lambda number: doubled().invoke(number, config), [3, 4])) == [6, 8]
        return str(mlflow.get_active_trace_id())

    stored = own_trace(store_uri, ask())
    assert shape(stored) == ("ask", "UNKNOWN", [DOUBLE] * 4)
    assert count(store_uri, tracer) == 1


def test_chains_and_spans_in_a_pool_nest_in_the_run_that_submits_them(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig, pool: Executor
) -> None:
    @mlflow.trace
    def far(number: int) -> Any:
        return doubled().invoke(number)

    def work(state: State) -> State:
        return {"number": sum(pool.map(far, [state["number"], 2]))}

    assert graph(work).invoke({"number": 1}, config) == {"number": 6}
    stored = stored_trace(store_uri, tracer)
    far_shape: Shape = ("far", "UNKNOWN", [DOUBLE])
    assert shape(stored) == ("LangGraph", "CHAIN", [("work", "CHAIN", [far_shape] * 2)])
    assert count(store_uri, tracer) == 1


async def test_chains_that_an_async_node_runs_in_a_pool_nest_in_the_node(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig, pool: Executor
) -> None:
    async def work(state: State) -> State:
        loop = asyncio.get_running_loop()
        asked = [loop.run_in_executor(pool, doubled().invoke, number) for number in (state["number"], 2)]
        return {"number": sum(await asyncio.gather(*asked))}

    assert await graph(work).ainvoke({"number": 1}, config) == {"number": 6}
    stored = await asyncio.to_thread(stored_trace, store_uri, tracer)
    assert shape(stored) == ("LangGraph", "CHAIN", [("work", "CHAIN", [DOUBLE] * 2)])
    assert await asyncio.to_thread(count, store_uri, tracer) == 1


def test_chains_that_a_tool_runs_in_a_pool_nest_in_the_tool(
    store_uri: str,
    tracer: MlflowTracer,
    config: RunnableConfig,
    model: AzureChatOpenAI,
    pool: Executor,
) -> None:
    @tool
    def get_weather(city: str) -> str:
        """Return the weather of a city."""
        return f"{sum(pool.map(doubled().invoke, [1, 2]))} degrees in {city}"

    agent: Any = create_agent(model, [get_weather])
    agent.invoke({"messages": [("user", "[[tool:get_weather]] What is the weather in Paris?")]}, config)
    stored = stored_trace(store_uri, tracer)
    tool_id = named(stored, "get_weather").span_id
    assert [one.parent_id for one in stored.data.spans if one.name == "double"] == [tool_id] * 2
    assert count(store_uri, tracer) == 1


@pytest.mark.timeout(240)
def test_traces_whose_functions_share_a_pool_are_not_mixed(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig, pool: Executor
) -> None:
    barrier = threading.Barrier(AT_ONCE)

    def asked(number: int) -> int:
        with mlflow.start_span(f"far {number}"):
            return int(doubled().invoke(number, config))

    def ask(number: int) -> None:
        barrier.wait(timeout=60)
        assert list(pool.map(asked, [number, number])) == [2 * number] * 2

    chain = RunnableLambda(ask).with_config(run_name="chain")

    def run(number: int) -> None:
        if number % 2:
            mlflow.trace(ask, name=str(number))(number)
        else:
            chain.invoke(number, {**config, "run_name": str(number)})

    threads = [threading.Thread(target=run, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = {root(one).name: shape(one)[2] for one in settled(store_uri, tracer)}
    far = {str(number): [(f"far {number}", "UNKNOWN", [DOUBLE])] * 2 for number in range(AT_ONCE)}
    assert stored == far


@pytest.mark.usefixtures("hasty")
def test_chains_stay_inside_their_spans_when_one_run_has_spans_on_many_threads(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig
) -> None:
    barrier = threading.Barrier(AT_ONCE)

    def asked(number: int) -> None:
        barrier.wait(timeout=60)
        for _ in range(3):
            with mlflow.start_span("far"):
                doubled().invoke(number, config)

    with ContextThreadPoolExecutor(AT_ONCE) as pool:

        def ask(numbers: range) -> None:
            list(pool.map(asked, numbers))

        RunnableLambda(ask).invoke(range(AT_ONCE), config)
    (below,) = {str(one): one for one in shape(stored_trace(store_uri, tracer))[2]}.values()
    assert below == ("far", "UNKNOWN", [DOUBLE])


def test_no_context_is_left_on_the_threads_of_a_pool(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig
) -> None:
    def work(number: int) -> int:
        COLOR.set("green")
        return number

    with ContextThreadPoolExecutor(1) as pool:
        COLOR.set("red")
        with mlflow.start_span("outer"):
            assert pool.submit(COLOR.get).result() == "red"
            pool.submit(RunnableLambda(work).invoke, 1, config).result()
            assert pool.submit(COLOR.get).result() == "red"
        COLOR.set("none")
        # As any other pool submits: without the context in which this is called.
        plain: Any = super(ContextThreadPoolExecutor, pool)
        assert plain.submit(COLOR.get).result() == "none"
        assert plain.submit(mlflow.get_current_active_span).result() is None
        plain.submit(doubled().invoke, 1, config).result()
    assert [root(one).name for one in settled(store_uri, tracer)] == ["outer", "double"]
