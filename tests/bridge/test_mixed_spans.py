"""Mixes chains with MLflow's own spans, in both directions, and reads the one trace from a real store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlflow
import pytest
from langchain.agents import create_agent
from langchain_core.runnables import RunnableConfig, RunnableGenerator, RunnableLambda
from langchain_core.runnables.config import ContextThreadPoolExecutor
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI
from mlflow.entities.trace_location import MlflowExperimentLocation

from langchain_mlflow_tracer import MlflowTracer
from tests.conftest import MakeTracer
from tests.support.mixing import DOUBLE, State, count, doubled, graph, own_trace, places
from tests.support.stored import (
    Client,
    Shape,
    named,
    own_experiment,
    root,
    shape,
    stored_trace,
    stored_traces,
)
from tests.support.versions import needs_whole_mlflow

pytestmark = pytest.mark.usefixtures("own_mlflow")

Config = RunnableConfig


@pytest.fixture
def tracer(make_tracer: MakeTracer, store_uri: str) -> MlflowTracer:
    return make_tracer(store_uri)


@pytest.fixture
def config(tracer: MlflowTracer) -> Config:
    return {"callbacks": [tracer]}


# A chain inside a span of MLflow's.


def test_a_chain_inside_an_mlflow_span_joins_the_trace_of_the_span(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    with mlflow.start_span("outer") as outer:
        assert doubled().invoke(2, config) == 4
    stored = own_trace(store_uri, outer.trace_id)
    assert shape(stored) == ("outer", "UNKNOWN", [DOUBLE])
    assert (named(stored, "double").inputs, named(stored, "double").outputs) == (2, 4)
    assert tracer.last_trace_id == outer.trace_id
    assert count(store_uri, tracer) == 1


def test_each_item_of_a_batch_joins_the_mlflow_span_around_the_batch(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    @mlflow.trace
    def ask() -> str:
        doubled().batch([1, 2, 3], config)
        return str(mlflow.get_active_trace_id())

    stored = own_trace(store_uri, ask())
    assert shape(stored) == ("ask", "UNKNOWN", [DOUBLE] * 3)
    assert count(store_uri, tracer) == 1


async def test_concurrent_chains_join_the_mlflow_span_around_the_chains(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    @mlflow.trace
    async def ask() -> str:
        await asyncio.gather(*[doubled().ainvoke(one, config) for one in (1, 2)])
        async for _ in doubled().astream(3, config):
            pass
        return str(mlflow.get_active_trace_id())

    stored = await asyncio.to_thread(own_trace, store_uri, await ask())
    assert shape(stored) == ("ask", "UNKNOWN", [DOUBLE] * 3)
    assert await asyncio.to_thread(count, store_uri, tracer) == 1


def test_a_graph_and_the_spans_of_its_nodes_join_the_mlflow_span_around_the_graph(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    @mlflow.trace
    def help_out(number: int) -> Any:
        return doubled().invoke(number)

    with mlflow.start_span("outer") as outer:
        graph(lambda state: {"number": help_out(state["number"])}).invoke({"number": 1}, config)
    stored = own_trace(store_uri, outer.trace_id)
    node = ("work", "CHAIN", [("help_out", "UNKNOWN", [DOUBLE])])
    assert shape(stored) == ("outer", "UNKNOWN", [("LangGraph", "CHAIN", [node])])
    assert count(store_uri, tracer) == 1


def test_tags_and_metadata_of_a_config_reach_the_mlflow_trace_around_the_chain(
    store_uri: str, config: Config
) -> None:
    with mlflow.start_span("outer") as outer:
        doubled().invoke(2, {**config, "tags": ["red"], "metadata": {"session_id": "s-1", "color": "blue"}})
    info = own_trace(store_uri, outer.trace_id).info
    assert info.tags["red"] == "true"
    assert (info.trace_metadata["mlflow.trace.session"], info.trace_metadata["color"]) == ("s-1", "blue")


def test_secrets_of_a_chain_are_masked_in_a_trace_that_mlflow_exports(store_uri: str, config: Config) -> None:
    key = "sk-proj-" + "a1B2" * 12
    with mlflow.start_span("outer") as outer:
        RunnableLambda(lambda text: text).invoke(f"my key is {key}", config)
    assert key not in json.dumps(own_trace(store_uri, outer.trace_id).to_dict(), default=str)


def test_a_chain_that_ends_after_its_mlflow_span_gets_its_own_trace_and_a_link_to_the_span(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    with mlflow.start_span("outer") as outer:
        stream = doubled().stream(2, config)
        next(stream)
    own_trace(store_uri, outer.trace_id)
    for _ in stream:
        pass
    stored = stored_trace(store_uri, tracer)
    assert stored.info.trace_id != outer.trace_id
    assert shape(stored) == DOUBLE
    if hasattr(root(stored), "links"):  # shown since mlflow 3.15
        assert [link.span_id for link in root(stored).links] == [outer.span_id]


# A span of MLflow's inside a chain.


def test_mlflow_spans_inside_a_chain_nest_in_the_trace_of_the_chain(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    @mlflow.trace(span_type="TOOL")
    def help_out(number: int) -> Any:
        return doubled().invoke(number)

    def work(number: int) -> int:
        with mlflow.start_span("mine", span_type="RETRIEVER", attributes={"depth": 3}) as span:
            span.set_inputs({"number": number})
            span.set_outputs(help_out(number))
        return number + 1

    chain = RunnableLambda(work).with_config(run_name="work") | doubled()
    assert chain.invoke(1, config) == 4
    stored = stored_trace(store_uri, tracer)
    helped = ("help_out", "TOOL", [DOUBLE])
    inside = ("work", "CHAIN", [("mine", "RETRIEVER", [helped])])
    assert shape(stored) == ("RunnableSequence", "CHAIN", [inside, DOUBLE])
    mine = named(stored, "mine")
    assert (mine.inputs, mine.outputs, mine.get_attribute("depth")) == ({"number": 1}, 2, 3)
    assert count(store_uri, tracer) == 1


def test_a_failed_mlflow_span_inside_a_chain_records_its_exception(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    @mlflow.trace
    def break_down() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        RunnableLambda[Any, Any](lambda _: break_down()).with_config(run_name="work").invoke(1, config)
    stored = stored_trace(store_uri, tracer)
    assert shape(stored) == ("work", "CHAIN", [("break_down", "UNKNOWN", [])])
    broken = named(stored, "break_down")
    assert broken.status.status_code.value == "ERROR"
    assert broken.events[0].attributes["exception.message"] == "broken"
    assert stored.info.state.value == "ERROR"


async def test_coroutines_and_generators_that_mlflow_traces_nest_in_an_async_chain(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    @mlflow.trace
    async def wait() -> int:
        await asyncio.sleep(0)
        return 1

    @mlflow.trace
    async def count_up() -> AsyncIterator[int]:
        yield await wait()
        yield 2

    @mlflow.trace
    def count_down() -> Iterator[int]:
        yield 2
        yield 1

    async def work(number: int) -> int:
        return sum([one async for one in count_up()]) + sum(count_down()) + number

    chain = RunnableLambda(work).with_config(run_name="work")
    results = await asyncio.gather(*[chain.ainvoke(one, config) for one in (1, 2)])
    assert sorted(results) == [7, 8]
    inside: list[Shape] = [("count_up", "UNKNOWN", [("wait", "UNKNOWN", [])]), ("count_down", "UNKNOWN", [])]
    stored = await asyncio.to_thread(stored_traces, store_uri, tracer)
    assert [shape(one) for one in stored] == [("work", "CHAIN", inside)] * 2
    assert await asyncio.to_thread(count, store_uri, tracer) == 2


@pytest.mark.parametrize("is_async", [False, True])
async def test_mlflow_spans_inside_a_tool_of_an_agent_nest_below_the_tool(
    store_uri: str, tracer: MlflowTracer, config: Config, model: AzureChatOpenAI, *, is_async: bool
) -> None:
    @tool
    def get_weather(city: str) -> str:
        """Return the weather of a city."""
        with mlflow.start_span("look", span_type="TOOL") as span:
            span.set_inputs({"city": city})
            return f"sunny in {city}"

    agent: Any = create_agent(model, [get_weather])
    task = {"messages": [("user", "[[tool:get_weather]] What is the weather in Paris?")]}
    if is_async:
        await agent.ainvoke(task, config)
    else:
        await asyncio.to_thread(agent.invoke, task, config)
    stored = await asyncio.to_thread(stored_trace, store_uri, tracer)
    above = {span.span_id: span for span in stored.data.spans}
    look = named(stored, "look")
    assert above[str(look.parent_id)].span_type == "TOOL"
    assert above[str(look.parent_id)].name == "get_weather"
    assert await asyncio.to_thread(count, store_uri, tracer) == 1


def test_each_item_of_a_batch_has_its_own_mlflow_spans(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    def work(number: int) -> int:
        with mlflow.start_span(f"mine {number}"):
            return number

    chain = RunnableLambda(work).with_config(run_name="work") | doubled()
    chain.batch([1, 2, 3], config)
    stored = stored_traces(store_uri, tracer)
    for one in stored:
        number = root(one).inputs
        work_shape: Shape = ("work", "CHAIN", [(f"mine {number}", "UNKNOWN", [])])
        assert shape(one) == ("RunnableSequence", "CHAIN", [work_shape, DOUBLE])
    assert count(store_uri, tracer) == 3


def test_interleaved_streams_have_their_own_mlflow_spans_and_leave_no_active_span(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    def pieces(numbers: Iterator[int]) -> Iterator[int]:
        for number in numbers:
            for piece in range(3):
                with mlflow.start_span(f"{number}.{piece}"):
                    yield number

    chain = RunnableLambda[Any, Any](lambda number: number) | RunnableGenerator(pieces)
    first, second = chain.stream(1, config), chain.stream(2, config)
    for _ in zip(first, second, strict=True):
        assert mlflow.get_current_active_span() is None
    assert mlflow.get_current_active_span() is None
    with mlflow.start_span("after") as after:
        pass
    assert after.parent_id is None
    for one in stored_traces(store_uri, tracer):
        made = [span.name for span in one.data.spans if "." in span.name]
        number = "".join({name[0] for name in made})
        assert sorted(made) == [f"{number}.0", f"{number}.1", f"{number}.2"]
    assert count(store_uri, tracer) == 3


def test_a_stream_keeps_its_mlflow_spans_after_an_interleaved_stream_has_ended(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    def pieces(numbers: Iterator[int]) -> Iterator[int]:
        for number in numbers:
            for piece in range(number):
                with mlflow.start_span(f"{number}.{piece}"):
                    yield number

    chain = RunnableLambda[Any, Any](lambda number: number) | RunnableGenerator(pieces)
    short, long = chain.stream(2, config), chain.stream(4, config)
    assert [next(short), next(long), *short, *long] == [2, 4, 2, 4, 4, 4]
    for one in stored_traces(store_uri, tracer):
        made = sorted(span.name for span in one.data.spans if "." in span.name)
        assert made == [f"{made[0][0]}.{piece}" for piece in range(int(made[0][0]))]
    assert count(store_uri, tracer) == 2


def test_the_bridge_leaves_nothing_in_the_context_after_the_last_run(
    store_uri: str, tracer: MlflowTracer, config: Config, make_tracer: MakeTracer
) -> None:
    def nested(number: int) -> Any:
        with mlflow.start_span("mine"):
            return doubled().invoke(number, {"callbacks": [make_tracer(store_uri)]})

    RunnableLambda(nested).invoke(1, config)
    assert places() == 0
    assert count(store_uri, tracer) == 1


async def test_a_new_tracer_for_each_request_does_not_make_the_context_grow(
    store_uri: str, make_tracer: MakeTracer
) -> None:
    for number in range(4):
        config: Config = {"callbacks": [make_tracer(store_uri, forwarder="none")]}
        assert await doubled().ainvoke(number, config) == number * 2
        async for _ in doubled().astream(number, config):
            pass
    assert places() <= 1


def test_an_mlflow_span_between_two_pieces_of_a_stream_is_not_inside_the_chain(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    for _ in doubled().stream(1, config):
        with mlflow.start_span("between") as between:
            pass
    assert between.parent_id is None
    assert count(store_uri, tracer) == 2


def test_an_mlflow_span_that_is_open_when_its_chain_ends_gets_the_outcome_abandoned(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    left: list[Any] = []

    def work(number: int) -> int:
        left.append(mlflow.start_span_no_context("left", parent_span=mlflow.get_current_active_span()))
        return number

    RunnableLambda(work).with_config(run_name="work").invoke(1, config)
    left[0].end()
    stored = stored_trace(store_uri, tracer)
    assert shape(stored) == ("work", "CHAIN", [("left", "UNKNOWN", [])])
    assert named(stored, "left").get_attribute("lc.outcome") == "abandoned"
    assert count(store_uri, tracer) == 1


def test_a_traced_chain_inside_an_mlflow_span_inside_a_chain_joins_the_outer_trace(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    def work(number: int) -> Any:
        with mlflow.start_span("mine"):
            return doubled().invoke(number, config)

    RunnableLambda(work).with_config(run_name="work").invoke(1, config)
    stored = stored_trace(store_uri, tracer)
    assert shape(stored) == ("work", "CHAIN", [("mine", "UNKNOWN", [DOUBLE])])
    assert count(store_uri, tracer) == 1


# Inside a run, and after it.


def test_code_inside_a_run_can_set_the_fields_of_its_trace_through_mlflow(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    seen: list[str | None] = []

    def work(number: int) -> int:
        seen.append(mlflow.get_active_trace_id())
        mlflow.update_current_trace(
            tags={"color": "red"}, metadata={"build": "7"}, session_id="s-1", user="u-1",
            client_request_id="request-1", model_id="m-1", state="ERROR",
            request_preview="asked", response_preview="answered",
        )  # fmt: skip
        span = mlflow.get_current_active_span()
        assert span is not None
        assert span.name == "work"
        span.set_attribute("depth", {"is": 3})
        return number

    RunnableLambda(work).with_config(run_name="work").invoke(1, config)
    assert seen == [tracer.last_trace_id]
    assert mlflow.get_last_active_trace_id() == tracer.last_trace_id
    stored = stored_trace(store_uri, tracer)
    info = stored.info
    assert root(stored).get_attribute("depth") == {"is": 3}
    assert (info.tags["color"], info.trace_metadata["build"]) == ("red", "7")
    assert (info.trace_metadata["mlflow.trace.session"], info.trace_metadata["mlflow.trace.user"]) == (
        "s-1", "u-1",
    )  # fmt: skip
    assert (info.client_request_id, info.trace_metadata["mlflow.modelId"]) == ("request-1", "m-1")
    assert (info.state.value, info.request_preview, info.response_preview) == ("ERROR", "asked", "answered")


async def test_an_async_node_can_update_its_trace_through_mlflow(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    async def work(state: State) -> State:
        mlflow.update_current_trace(tags={"color": "red"})
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        mlflow.update_current_trace(user="u-1")
        return state

    await graph(work).ainvoke({"number": 1}, config)
    info = (await asyncio.to_thread(stored_trace, store_uri, tracer)).info
    assert (info.tags["color"], info.trace_metadata["mlflow.trace.user"]) == ("red", "u-1")


def test_feedback_and_tags_can_be_added_after_a_trace_is_sent(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    doubled().invoke(1, config)
    trace_id = tracer.last_trace_id
    assert trace_id is not None
    assert tracer.flush(timeout=60)
    mlflow.log_feedback(trace_id=trace_id, name="helpful", value=True)
    mlflow.log_expectation(trace_id=trace_id, name="answer", value=2)
    mlflow.set_trace_tag(trace_id, "seen", "yes")
    stored = Client(store_uri).get_trace(trace_id)
    assert {one.name for one in stored.info.assessments} == {"helpful", "answer"}
    assert stored.info.tags["seen"] == "yes"


# What MLflow was told.


def test_the_tracer_records_nothing_while_mlflow_tracing_is_disabled(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    with mlflow.tracing.context(enabled=False):
        doubled().invoke(1, config)
    mlflow.tracing.disable()
    doubled().invoke(2, config)
    mlflow.tracing.enable()
    doubled().invoke(3, config)
    (stored,) = stored_traces(store_uri, tracer)
    assert root(stored).inputs == 3


def test_a_trace_gets_the_session_user_tags_and_metadata_of_the_mlflow_context(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    told = mlflow.tracing.context(
        session_id="s-1", user="u-1", tags={"color": "red"}, metadata={"build": "7"}
    )
    with told:
        doubled().invoke(1, config)
    info = stored_trace(store_uri, tracer).info
    assert info.tags["color"] == "red"
    told_of = ("mlflow.trace.session", "mlflow.trace.user", "build")
    assert [info.trace_metadata[key] for key in told_of] == ["s-1", "u-1", "7"]


def test_a_chain_inside_an_unsampled_mlflow_span_is_not_recorded(
    store_uri: str, tracer: MlflowTracer, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACE_SAMPLING_RATIO", "1.0")

    @mlflow.trace(sampling_ratio_override=0.0)
    def ask() -> None:
        doubled().invoke(1, config)

    ask()
    assert count(store_uri, tracer) == 0


@needs_whole_mlflow
def test_an_mlflow_run_lists_the_traces_of_its_chains(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    with mlflow.start_run() as active:
        doubled().invoke(1, config)
    assert tracer.flush(timeout=60)
    found = Client(store_uri).search_traces(
        locations=[own_experiment()], filter_string=f"run_id = '{active.info.run_id}'"
    )
    assert [trace.info.trace_id for trace in found] == [tracer.last_trace_id]


@needs_whole_mlflow
def test_the_tracer_follows_the_destination_variable_of_mlflow_like_mlflow_itself(
    store_uri: str, make_tracer: MakeTracer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(store_uri)
    made = [client.create_experiment(name) for name in ("of the run", "variable", "destined")]
    tracer = make_tracer(store_uri)

    def experiments() -> tuple[str, str]:
        """Return where a trace of MLflow's own goes, and where one of ours does."""
        with mlflow.start_span("own") as own:
            pass
        graph(lambda state: state).invoke({"number": 1}, {"callbacks": [tracer]})
        ours = stored_trace(store_uri, tracer)
        theirs = own_trace(store_uri, own.trace_id)
        return str(theirs.info.experiment_id), str(ours.info.experiment_id)

    with mlflow.start_run(experiment_id=made[0]):
        monkeypatch.setenv("MLFLOW_TRACING_DESTINATION", made[1])
        assert experiments() == (made[1], made[1])
        monkeypatch.delenv("MLFLOW_TRACING_DESTINATION")
        assert experiments() == (made[0], made[0])
        monkeypatch.setenv("MLFLOW_TRACING_DESTINATION", made[1])
        mlflow.tracing.set_destination(MlflowExperimentLocation(made[2]))
        assert experiments() == (made[2], made[2])
        mlflow.tracing.reset()  # type: ignore[no-untyped-call]
        monkeypatch.setenv("MLFLOW_TRACING_DESTINATION", "a.place.of.another.kind")
        doubled().invoke(1, {"callbacks": [tracer]})
    assert stored_trace(store_uri, tracer).info.experiment_id == "0"
    assert "MLFLOW_TRACING_DESTINATION='a.place.of.another.kind' is not valid" in caplog.text


@needs_whole_mlflow
def test_traces_go_to_the_experiment_that_is_set_in_mlflow(
    store_uri: str, make_tracer: MakeTracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(store_uri)
    made = [client.create_experiment(name) for name in ("set", "of the run", "destined")]
    tracer = make_tracer(store_uri)

    def experiment() -> str:
        doubled().invoke(1, {"callbacks": [tracer]})
        return str(stored_trace(store_uri, tracer).info.experiment_id)

    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    mlflow.set_experiment(experiment_id=made[0])
    assert experiment() == made[0]
    with mlflow.start_run(experiment_id=made[1]):
        assert experiment() == made[1]
        mlflow.tracing.set_destination(MlflowExperimentLocation(made[2]), context_local=True)
        assert experiment() == made[2]


def test_span_processors_of_mlflow_receive_the_spans_of_the_tracer(
    store_uri: str, tracer: MlflowTracer, config: Config, model: AzureChatOpenAI
) -> None:
    def mask(span: Any) -> None:
        if span.span_type == "CHAT_MODEL":
            span.set_outputs("masked")

    with mlflow.tracing.configure(span_processors=[mask]):
        model.invoke("hello", config)
    stored = stored_trace(store_uri, tracer)
    assert root(stored).outputs == "masked"


# Threads of the user's own.


def test_chains_in_a_pool_that_carries_the_context_join_the_mlflow_span_around_the_pool(
    store_uri: str, config: Config
) -> None:
    with mlflow.start_span("outer") as outer, ContextThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: doubled().invoke(one, config), [1, 2, 3]))
    assert shape(own_trace(store_uri, outer.trace_id)) == ("outer", "UNKNOWN", [DOUBLE] * 3)


def test_an_mlflow_span_on_a_thread_without_the_context_gets_its_own_trace(
    store_uri: str, tracer: MlflowTracer, config: Config
) -> None:
    def work(number: int) -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(mlflow.trace(lambda: number, name="far")).result()

    RunnableLambda(work).with_config(run_name="work").invoke(1, config)
    assert shape(stored_trace(store_uri, tracer)) == ("work", "CHAIN", [])
    assert count(store_uri, tracer) == 2
