"""Mixes graphs and asynchronous chains with MLflow's own spans, and tells MLflow things from inside them."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, TypedDict

import mlflow
import pytest
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from mlflow.entities import Trace
from mlflow.entities.trace_location import MlflowExperimentLocation

from langchain_mlflow_tracer import MlflowTracer
from tests.conftest import MakeTracer
from tests.support.mixing import DOUBLE, State, doubled, graph, own_trace, settled
from tests.support.proxy import HANGING, HEALTHY, FaultProxy
from tests.support.stored import Client, Shape, named, root, shape
from tests.support.versions import needs_whole_mlflow

pytestmark = pytest.mark.usefixtures("own_mlflow")

KINDS = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@pytest.fixture
def tracer(make_tracer: MakeTracer, store_uri: str) -> MlflowTracer:
    return make_tracer(store_uri)


@pytest.fixture
def config(tracer: MlflowTracer) -> RunnableConfig:
    return {"callbacks": [tracer]}


async def invoked(runnable: Runnable[Any, Any], given: Any, config: RunnableConfig, *, is_async: bool) -> Any:
    """Run it one way or the other, sync in a thread."""
    if is_async:
        return await runnable.ainvoke(given, config)
    return await asyncio.to_thread(runnable.invoke, given, config)


async def stored(store_uri: str, tracer: MlflowTracer) -> Trace:
    """Return the one trace that is stored once everything is delivered."""
    (found,) = await asyncio.to_thread(settled, store_uri, tracer)
    return found


def work(state: State) -> State:
    with mlflow.start_span("inside"):
        return {"number": doubled().invoke(state["number"])}


async def work_later(state: State) -> State:
    with mlflow.start_span("inside"):
        return {"number": await doubled().ainvoke(state["number"])}


def node(*, is_async: bool) -> Any:
    return work_later if is_async else work


WORKED: Shape = ("LangGraph", "CHAIN", [("work", "CHAIN", [("inside", "UNKNOWN", [DOUBLE])])])


# Inside a span of MLflow's.


@KINDS
async def test_each_graph_of_a_batch_joins_the_mlflow_span_around_the_batch(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig, *, is_async: bool
) -> None:
    made, given = graph(node(is_async=is_async)), [State(number=number) for number in range(5)]
    with mlflow.start_span("outer"):
        if is_async:
            await made.abatch(given, config)
        else:
            await asyncio.to_thread(made.batch, given, config)
    assert shape(await stored(store_uri, tracer)) == ("outer", "UNKNOWN", [WORKED] * 5)


@KINDS
async def test_a_streamed_graph_joins_the_mlflow_span_around_the_stream(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig, *, is_async: bool
) -> None:
    made = graph(node(is_async=is_async))

    @mlflow.trace
    def ask() -> Iterator[Any]:
        yield from made.stream({"number": 1}, config)

    @mlflow.trace(name="ask")
    async def ask_later() -> AsyncIterator[Any]:
        async for piece in made.astream({"number": 1}, config):
            yield piece

    if is_async:
        assert [piece async for piece in ask_later()] == [{"work": {"number": 2}}]
    else:
        assert await asyncio.to_thread(lambda: list(ask())) == [{"work": {"number": 2}}]
    assert shape(await stored(store_uri, tracer)) == ("ask", "UNKNOWN", [WORKED])


async def test_concurrent_graphs_join_the_mlflow_spans_of_their_own_tasks(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig
) -> None:
    made = graph(work_later)

    async def ask(number: int) -> None:
        with mlflow.start_span(str(number)) as span:
            await asyncio.sleep(0)
            await made.ainvoke({"number": number}, config)
            assert mlflow.get_active_trace_id() == span.trace_id

    await asyncio.gather(*[ask(number) for number in range(10)])
    found = await asyncio.to_thread(settled, store_uri, tracer)
    assert sorted(shape(one) for one in found) == [(str(number), "UNKNOWN", [WORKED]) for number in range(10)]
    assert all(named(one, "double").inputs == int(root(one).name) for one in found)


# Inside a graph.


class Words(TypedDict):
    """What several nodes write to at once."""

    words: Annotated[list[str], operator.add]


@KINDS
async def test_mlflow_spans_of_concurrent_nodes_nest_below_their_own_nodes(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig, *, is_async: bool
) -> None:
    names = [f"node{number}" for number in range(6)]
    made = StateGraph(Words)
    for name in names:

        def say(_: Words, name: str = name) -> Words:
            with mlflow.start_span(f"in {name}"):
                return {"words": [name]}

        async def say_later(_: Words, name: str = name) -> Words:
            with mlflow.start_span(f"in {name}"):
                await asyncio.sleep(0)
                return {"words": [name]}

        said: Any = say_later if is_async else say
        made.add_node(name, said)
        made.add_edge(START, name)
        made.add_edge(name, END)
    await invoked(made.compile(), {"words": []}, config, is_async=is_async)
    _, _, nodes = shape(await stored(store_uri, tracer))
    assert sorted(nodes) == [(name, "CHAIN", [(f"in {name}", "UNKNOWN", [])]) for name in names]


@KINDS
async def test_a_graph_node_can_set_the_fields_of_its_span_and_its_trace_through_mlflow(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig, *, is_async: bool
) -> None:
    seen: list[str | None] = []

    def tell(state: State) -> State:
        span = mlflow.get_current_active_span()
        assert span is not None
        seen.extend([span.name, mlflow.get_active_trace_id()])
        span.set_attribute("depth", 3)
        mlflow.update_current_trace(
            tags={"color": "red"}, metadata={"build": "7"}, session_id="s-1", user="u-1",
            client_request_id="request-1", model_id="m-1", state="ERROR",
            request_preview="asked", response_preview="answered",
        )  # fmt: skip
        return state

    async def tell_later(state: State) -> State:
        await asyncio.sleep(0)
        return tell(state)

    await invoked(graph(tell_later if is_async else tell), {"number": 1}, config, is_async=is_async)
    trace = await stored(store_uri, tracer)
    info, metadata = trace.info, trace.info.trace_metadata
    assert seen == ["work", trace.info.trace_id]
    assert named(trace, "work").get_attribute("depth") == 3
    assert (info.tags["color"], metadata["build"], metadata["mlflow.modelId"]) == ("red", "7", "m-1")
    assert (metadata["mlflow.trace.session"], metadata["mlflow.trace.user"]) == ("s-1", "u-1")
    assert (info.client_request_id, info.state.value) == ("request-1", "ERROR")
    assert (info.request_preview, info.response_preview) == ("asked", "answered")
    assert mlflow.get_last_active_trace_id() == trace.info.trace_id


@KINDS
async def test_a_tool_can_update_its_span_and_its_trace_through_mlflow(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig, *, is_async: bool
) -> None:
    @tool
    def telling(number: int) -> int:
        """Tell of itself."""
        span = mlflow.get_current_active_span()
        assert span is not None
        assert span.name == "telling"
        span.set_attribute("depth", 3)
        mlflow.update_current_trace(tags={"color": "red"})
        return number

    def act(state: State) -> State:
        return {"number": telling.invoke({"number": state["number"]})}

    async def act_later(state: State) -> State:
        return {"number": await telling.ainvoke({"number": state["number"]})}

    await invoked(graph(act_later if is_async else act), {"number": 1}, config, is_async=is_async)
    trace = await stored(store_uri, tracer)
    assert named(trace, "telling").get_attribute("depth") == 3
    assert trace.info.tags["color"] == "red"


async def test_feedback_can_be_added_to_the_trace_of_an_async_graph_after_a_flush(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig
) -> None:
    await graph(work_later).ainvoke({"number": 1}, config)
    trace_id = tracer.last_trace_id
    assert trace_id is not None
    assert await tracer.aflush(timeout=60)
    assert mlflow.get_last_active_trace_id() == trace_id

    def judge() -> Trace:
        mlflow.log_feedback(trace_id=trace_id, name="helpful", value=True)
        mlflow.log_expectation(trace_id=trace_id, name="answer", value=2)
        mlflow.set_trace_tag(trace_id, "seen", "yes")
        return own_trace(store_uri, trace_id)

    trace = await asyncio.to_thread(judge)
    assert {one.name for one in trace.info.assessments} == {"helpful", "answer"}
    assert trace.info.tags["seen"] == "yes"


# What MLflow was told.


@KINDS
async def test_the_tracing_settings_of_mlflow_apply_to_graphs(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig, *, is_async: bool
) -> None:
    made = graph(node(is_async=is_async))
    with mlflow.tracing.context(enabled=False):
        await invoked(made, {"number": 1}, config, is_async=is_async)
    mlflow.tracing.disable()
    await invoked(made, {"number": 2}, config, is_async=is_async)
    mlflow.tracing.enable()
    hidden: list[str] = []
    with mlflow.tracing.configure(span_processors=[lambda span: hidden.append(span.name)]):
        with mlflow.tracing.context(session_id="s-1", user="u-1", tags={"color": "red"}):
            await invoked(made, {"number": 3}, config, is_async=is_async)
    trace = await stored(store_uri, tracer)
    assert root(trace).inputs == {"number": 3}
    assert (trace.info.tags["color"], trace.info.trace_metadata["mlflow.trace.session"]) == ("red", "s-1")
    assert sorted(hidden) == ["LangGraph", "double", "inside", "work"]


def test_span_processors_receive_each_span_once_even_if_the_span_does_not_end(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig
) -> None:
    def mark(span: Any) -> None:
        span.set_attribute("marks", (span.get_attribute("marks") or 0) + 1)

    def leave(number: int) -> Any:
        mlflow.start_span_no_context("left", parent_span=mlflow.get_current_active_span())
        with mlflow.start_span("mine"):
            return doubled().invoke(number, config)  # a trace of ours inside a span inside a trace of ours

    with mlflow.tracing.configure(span_processors=[mark]):
        RunnableLambda(leave).with_config(run_name="leave").invoke(1, config)
    (trace,) = settled(store_uri, tracer)
    marks = {span.name: span.get_attribute("marks") for span in trace.data.spans}
    assert marks == {"leave": 1, "left": 1, "mine": 1, "double": 1}


@needs_whole_mlflow
@KINDS
async def test_the_trace_of_a_graph_contains_its_mlflow_run_and_its_active_model(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig, *, is_async: bool
) -> None:
    model = mlflow.create_external_model(name="assistant")
    mlflow.set_active_model(model_id=model.model_id)
    try:
        with mlflow.start_run() as active:
            await invoked(graph(node(is_async=is_async)), {"number": 1}, config, is_async=is_async)
    finally:
        mlflow.clear_active_model()
    told = (await stored(store_uri, tracer)).info.trace_metadata
    assert (told["mlflow.sourceRun"], told["mlflow.modelId"]) == (active.info.run_id, model.model_id)


async def test_concurrent_tasks_send_their_graphs_to_their_own_destinations(
    store_uri: str, tracer: MlflowTracer, config: RunnableConfig
) -> None:
    client = Client(store_uri)
    experiments = [client.create_experiment(name) for name in ("one", "two", "three")]

    async def ask(experiment: str) -> str | None:
        mlflow.tracing.set_destination(MlflowExperimentLocation(experiment), context_local=True)
        await asyncio.sleep(0)
        await graph(work_later).ainvoke({"number": 1}, config)
        return tracer.last_trace_id

    made = await asyncio.gather(*[asyncio.create_task(ask(one)) for one in experiments])
    assert await tracer.aflush(timeout=60)
    found = [client.get_trace(str(trace_id)).info.experiment_id for trace_id in made]
    assert found == experiments


@KINDS
async def test_the_sampling_ratio_of_mlflow_applies_to_graphs(
    store_uri: str, make_tracer: MakeTracer, monkeypatch: pytest.MonkeyPatch, *, is_async: bool
) -> None:
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "0")
    tracer = make_tracer(store_uri)
    made, config = graph(node(is_async=is_async)), RunnableConfig(callbacks=[tracer])
    with mlflow.start_span("outer"):
        await invoked(made, {"number": 1}, config, is_async=is_async)
    await invoked(made, {"number": 1}, config, is_async=is_async)
    assert await asyncio.to_thread(settled, store_uri, tracer) == []


@needs_whole_mlflow
@KINDS
async def test_a_traced_run_sends_no_request_to_the_mlflow_server(
    server: str, make_tracer: MakeTracer, monkeypatch: pytest.MonkeyPatch, *, is_async: bool
) -> None:
    with FaultProxy(server) as proxy:
        monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
        mlflow.set_tracking_uri(proxy.address)
        experiment = mlflow.set_experiment(f"told {is_async}")
        tracer = make_tracer(forwarder="none")
        with mlflow.start_run(), mlflow.tracing.context(tags={"color": "red"}):
            asked = proxy.requests
            proxy.fault = HANGING
            monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
            monkeypatch.setenv("MLFLOW_TRACING_DESTINATION", experiment.experiment_id)
            await invoked(
                graph(node(is_async=is_async)), {"number": 1}, {"callbacks": [tracer]}, is_async=is_async
            )
            monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
            monkeypatch.delenv("MLFLOW_TRACING_DESTINATION")
            await invoked(
                RunnableLambda(work, work_later), {"number": 1}, {"callbacks": [tracer]}, is_async=is_async
            )
            assert (proxy.requests, tracer.stats()["recorded"]) == (asked, 2)
            proxy.fault = HEALTHY  # the end of a run is told
