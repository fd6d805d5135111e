"""Runs everything at once, within, between and inside out, and compares whole trees with what ran."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from langchain_core.runnables import RunnableConfig
from langchain_openai import AzureChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from mlflow.entities import Trace

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer import MlflowTracer, install
from tests.conftest import MakeTracer, wait_for
from tests.support.stored import Shape, named, root, shape, stored_traces
from tests.support.structures import (
    BOSS,
    LAMBDA,
    MAP_REDUCE,
    MODEL,
    PARALLEL,
    SEQUENCE,
    SUBGRAPH,
    Atlas,
    Chain,
    agent_in_a_tool,
    calling_a_graph,
    map_reduce,
    parallel,
    sequence,
    to_atlas,
    to_boss,
    with_subgraph,
    without_config,
)
from tests.support.versions import HAS_V3, needs_v3

PLACE = re.compile(r"place-\d+")

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")


@dataclass(frozen=True)
class Traced:
    """A tracer, the config that runs are given, and the store it delivers into."""

    tracer: MlflowTracer
    config: RunnableConfig
    uri: str

    def traces(self, *, problems: Collection[str] = ()) -> list[Trace]:
        """Return all traces, oldest first, once it is sure that nothing was left open.

        Nothing may have gone wrong either, but for `problems`.
        """
        recorder = self.tracer._recorder
        assert not recorder.is_recording
        assert not recorder._runs
        found = stored_traces(self.uri, self.tracer)
        assert set(self.tracer.stats()["problems"]) <= set(problems)
        return found

    async def atraces(self) -> list[Trace]:
        """Return all traces without holding up the event loop."""
        return await asyncio.to_thread(self.traces)


@pytest.fixture
def tracer(make_tracer: MakeTracer, store_uri: str) -> MlflowTracer:
    """Return a tracer that delivers into a real MLflow store."""
    return make_tracer(store_uri)


@pytest.fixture(params=["passed", "installed"])
def traced(tracer: MlflowTracer, store_uri: str, request: pytest.FixtureRequest) -> Traced:
    """Return the tracer as runs know it: from their config, or because it is on every chain."""
    if request.param == "passed":
        return Traced(tracer, {"callbacks": [tracer]}, store_uri)
    install(tracer)
    return Traced(tracer, {}, store_uri)


def at(number: int) -> dict[str, str]:
    """Return what a sequence is given; the place tells its run from all others."""
    return {"place": f"place-{number}"}


def places(trace: Trace) -> set[str]:
    """Return all places that are named anywhere in a trace: a run of another one would name another."""
    said = "".join(f"{span.inputs} {span.outputs}" for span in trace.data.spans)
    return set(PLACE.findall(said))


def settled(one: Shape) -> Shape:
    """Return a tree without the order of what ran at once."""
    name, kind, children = one
    return (name, kind, sorted((settled(child) for child in children), key=repr))


def only(traces: list[Trace]) -> Trace:
    """Return the one trace that there is."""
    (trace,) = traces
    return trace


def apart(traces: list[Trace]) -> int:
    """Count traces that are whole sequences, each with its own place in its inputs, model and outputs."""
    asked = []
    for trace in traces:
        assert shape(trace) == SEQUENCE
        place = root(trace).inputs["place"]
        asked.append(place)
        assert places(trace) == {place}
        assert place in named(trace, "AzureChatOpenAI").inputs["messages"][0]["content"]
        assert root(trace).outputs == f"You said: Tell me of {place}."
    assert len(set(asked)) == len(asked)
    return len(asked)


class TestStreams:
    def test_a_stream_has_its_parser_under_its_sequence(self, model: AzureChatOpenAI, traced: Traced) -> None:
        assert len(list(sequence(model).stream(at(1), traced.config))) > 1
        assert apart(traced.traces()) == 1

    async def test_an_asynchronous_stream_has_its_parser_under_its_sequence(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        assert len([chunk async for chunk in sequence(model).astream(at(1), traced.config)]) > 1
        assert apart(await traced.atraces()) == 1

    def test_a_chain_between_two_chunks_of_a_stream_is_a_trace_of_its_own(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        chain = sequence(model)
        stream = chain.stream(at(1), traced.config)
        next(stream)
        chain.invoke(at(2), traced.config)
        list(stream)
        assert apart(traced.traces()) == 2

    async def test_a_chain_between_two_chunks_of_an_asynchronous_stream_is_a_trace_of_its_own(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        chain = sequence(model)
        stream = chain.astream(at(1), traced.config)
        await anext(stream)
        await chain.ainvoke(at(2), traced.config)
        chain.invoke(at(3), traced.config)
        assert [chunk async for chunk in stream]
        assert apart(await traced.atraces()) == 3

    def test_two_interleaved_streams_and_then_a_chain_are_three_traces(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        chain = sequence(model)
        streams = [chain.stream(one, traced.config) for one in (at(1), at(2))]
        for _ in zip(*streams, strict=False):
            pass
        for stream in streams:
            list(stream)
        chain.invoke(at(3), traced.config)
        assert apart(traced.traces()) == 3

    async def test_two_asynchronous_streams_interleaved_in_one_task_and_then_a_chain_are_three_traces(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        chain = sequence(model)
        one, two = (chain.astream(place, traced.config) for place in (at(1), at(2)))
        async for _ in one:
            await anext(two, None)
        async for _ in two:
            pass
        await chain.ainvoke(at(3), traced.config)
        assert apart(await traced.atraces()) == 3

    def test_streams_that_end_in_the_order_of_their_start_stay_apart(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        chain = sequence(model)
        streams = [chain.stream(one, traced.config) for one in (at(1), at(2), at(3))]
        for stream in streams:
            next(stream)
        for stream in streams:
            list(stream)
        assert apart(traced.traces()) == 3

    async def test_a_generator_iterated_by_a_pool_of_threads_stays_in_its_trace(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        app = FastAPI()

        @app.get("/{place}")
        def tell(place: str) -> StreamingResponse:
            # Starlette asks for every chunk in whichever thread is free, in a copy of the context.
            return StreamingResponse(sequence(model).stream({"place": place}, traced.config))

        async with served(app) as client:
            answers = await asyncio.gather(*(client.get(f"/place-{number}") for number in range(8)))
        assert [answer.text for answer in answers] == [f"You said: Tell me of place-{n}." for n in range(8)]
        assert apart(await traced.atraces()) == 8

    async def test_a_stream_whose_reader_hangs_up_ends_as_abandoned(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        app = FastAPI()

        @app.get("/")
        def tell() -> StreamingResponse:
            asked = {"place": "place-1 [[tokens 60]] [[pace 0.01]]"}
            return StreamingResponse(sequence(model).stream(asked, traced.config))

        def ended() -> bool:
            gc.collect()  # Starlette does not close a generator, it lets go of it
            return not traced.tracer._recorder.is_recording

        async with served(app) as client:
            async with client.stream("GET", "/") as response:
                assert await anext(response.aiter_text())
            await asyncio.to_thread(wait_for, ended, 30)
        # LangChain reads the model's answer to its end all the same, and tells of it after the root's.
        trace = only(await asyncio.to_thread(traced.traces, problems={"unknown_run"}))
        assert shape(trace) == SEQUENCE
        assert trace.info.tags["lc.outcome"] == "abandoned"


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an application over HTTP, in this event loop."""
    listener = socket.create_server(("127.0.0.1", 0))  # it takes connections before the server is up
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=address) as client:
            yield client
    finally:
        server.should_exit = True
        await serving


class TestManyAtOnce:
    def test_batch_makes_a_trace_for_each_item(self, model: AzureChatOpenAI, traced: Traced) -> None:
        sequence(model).batch([at(1), at(2), at(3)], traced.config)
        assert apart(traced.traces()) == 3

    async def test_abatch_makes_a_trace_for_each_item(self, model: AzureChatOpenAI, traced: Traced) -> None:
        await sequence(model).abatch([at(1), at(2), at(3)], traced.config)
        assert apart(await traced.atraces()) == 3

    async def test_each_gathered_task_is_a_separate_trace(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        chain = sequence(model)

        async def streamed(place: dict[str, str]) -> list[str]:
            return [chunk async for chunk in chain.astream(place, traced.config)]

        invoked = (chain.ainvoke(place, traced.config) for place in map(at, range(10)))
        await asyncio.gather(*invoked, *(streamed(place) for place in map(at, range(10, 20))))
        assert apart(await traced.atraces()) == 20

    def test_each_thread_makes_a_separate_trace(self, model: AzureChatOpenAI, traced: Traced) -> None:
        chain = sequence(model)
        begin = threading.Barrier(8)

        def work(number: int) -> None:
            begin.wait(10)
            chain.invoke(at(number), traced.config)
            list(chain.stream(at(number + 8), traced.config))

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert apart(traced.traces()) == 16

    def test_branches_of_a_parallel_step_are_below_it(self, model: AzureChatOpenAI, traced: Traced) -> None:
        parallel(model).invoke(at(1), traced.config)
        assert shape(only(traced.traces())) == PARALLEL

    async def test_branches_of_an_asynchronous_parallel_step_are_below_it(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        await parallel(model).ainvoke(at(1), traced.config)
        assert shape(only(await traced.atraces())) == PARALLEL

    def test_branches_of_a_streamed_parallel_step_are_below_it(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        list(parallel(model).stream(at(1), traced.config))
        assert settled(shape(only(traced.traces()))) == settled(PARALLEL)


class TestGraphs:
    def test_tasks_sent_to_a_node_are_below_the_graph(self, model: AzureChatOpenAI, traced: Traced) -> None:
        map_reduce(model).invoke(to_atlas("place-1", "place-2"), traced.config)
        trace = only(traced.traces())
        assert shape(trace) == MAP_REDUCE
        assert mapped(trace) == ["place-1", "place-2"]

    async def test_tasks_sent_to_an_asynchronous_node_are_below_the_graph(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        await map_reduce(model, asynchronous=True).ainvoke(to_atlas("place-1", "place-2"), traced.config)
        trace = only(await traced.atraces())
        assert shape(trace) == MAP_REDUCE
        assert mapped(trace) == ["place-1", "place-2"]

    def test_tasks_sent_by_an_edge_are_below_the_graph(self, model: AzureChatOpenAI, traced: Traced) -> None:
        def ask(state: dict[str, str]) -> dict[str, list[str]]:
            return {"heard": [model.invoke(state["place"]).text]}

        def send(state: Atlas) -> list[Send]:
            return [Send("ask", {"place": place}) for place in state["places"]]

        node: Any = ask
        builder = StateGraph(Atlas).add_node("ask", node).add_edge("ask", END)
        graph = builder.add_conditional_edges(START, send, ["ask"]).compile(name="atlas")
        graph.invoke(to_atlas("place-1", "place-2"), traced.config)
        trace = only(traced.traces())
        name, kind, (begin, *asked) = shape(trace)
        assert (name, kind, begin[0], asked) == ("atlas", "CHAIN", "__start__", [LAMBDA, LAMBDA])
        assert mapped(trace) == ["place-1", "place-2"]

    @pytest.mark.parametrize("build", [with_subgraph, calling_a_graph])
    def test_a_graph_in_a_node_is_below_the_node(
        self, model: AzureChatOpenAI, traced: Traced, build: Callable[..., Chain]
    ) -> None:
        build(model).invoke(to_atlas("place-1", "place-2"), traced.config)
        trace = only(traced.traces())
        assert shape(trace) == SUBGRAPH
        assert mapped(trace) == ["place-1", "place-2"]

    @pytest.mark.parametrize("build", [with_subgraph, calling_a_graph])
    async def test_a_graph_in_an_asynchronous_node_is_below_the_node(
        self, model: AzureChatOpenAI, traced: Traced, build: Callable[..., Chain]
    ) -> None:
        graph = build(model, asynchronous=True)
        await graph.ainvoke(to_atlas("place-1", "place-2"), traced.config)
        assert shape(only(await traced.atraces())) == SUBGRAPH

    @pytest.mark.parametrize("build", [with_subgraph, calling_a_graph])
    def test_a_streamed_graph_has_the_same_tree_as_an_invoked_graph(
        self, model: AzureChatOpenAI, traced: Traced, build: Callable[..., Chain]
    ) -> None:
        list(build(model).stream(to_atlas("place-1", "place-2"), traced.config, subgraphs=True))
        assert shape(only(traced.traces())) == SUBGRAPH

    def test_an_agent_in_a_tool_is_below_the_tool(self, model: AzureChatOpenAI, traced: Traced) -> None:
        agent_in_a_tool(model).invoke(to_boss("place-1"), traced.config)
        trace = only(traced.traces())
        assert shape(trace) == BOSS
        assert places(trace) == {"place-1"}

    async def test_an_agent_in_an_asynchronous_tool_is_below_the_tool(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        await agent_in_a_tool(model).ainvoke(to_boss("place-1"), traced.config)
        assert shape(only(await traced.atraces())) == BOSS


def mapped(trace: Trace) -> list[str]:
    """Return what the model was asked in the nodes of a graph."""
    spans = [span for span in trace.data.spans if span.name == "AzureChatOpenAI"]
    return sorted(span.inputs["messages"][-1]["content"] for span in spans)


class TestWithoutConfig:
    def test_a_model_called_in_a_function_is_below_the_function(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        without_config(model).invoke("place-1", traced.config)
        assert shape(only(traced.traces())) == LAMBDA

    async def test_a_model_called_in_an_asynchronous_function_is_below_the_function(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        await without_config(model).ainvoke("place-1", traced.config)
        assert shape(only(await traced.atraces())) == LAMBDA


class TestAHandlerThatIsPassedTwice:
    """LangChain sees to it that no list has a handler twice, but for those of a root (langchain-core 1.7)."""

    def test_a_tracer_in_the_config_and_on_the_model_records_once(
        self, emulator: AzureEmulator, tracer: MlflowTracer, store_uri: str
    ) -> None:
        chain = sequence(AzureChatOpenAI(**emulator.chat(), callbacks=[tracer]))
        known = Traced(tracer, {"callbacks": [tracer]}, store_uri)
        chain.invoke(at(1), known.config)
        list(chain.stream(at(2), known.config))
        assert apart(known.traces()) == 2

    def test_a_tracer_that_is_passed_and_installed_records_once(
        self, model: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
    ) -> None:
        install(tracer)
        known = Traced(tracer, {"callbacks": [tracer]}, store_uri)
        sequence(model).invoke(at(1), known.config)
        assert apart(known.traces()) == 1

    def test_a_tracer_that_is_twice_in_one_list_records_once(
        self, model: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
    ) -> None:
        twice = Traced(tracer, {"callbacks": [tracer, tracer]}, store_uri)
        sequence(model).invoke(at(1), twice.config)
        list(sequence(model).stream(at(2), twice.config))
        assert apart(told_twice(twice)) == 2

    def test_a_tracer_in_the_config_of_a_chain_and_of_its_call_records_once(
        self, model: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
    ) -> None:
        twice = Traced(tracer, {"callbacks": [tracer]}, store_uri)
        sequence(model).with_config(callbacks=[tracer]).invoke(at(1), twice.config)
        assert apart(told_twice(twice)) == 1

    def test_a_tracer_that_is_twice_on_a_model_alone_records_once(
        self, model: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
    ) -> None:
        twice = Traced(tracer, {"callbacks": [tracer, tracer]}, store_uri)
        model.invoke("place-1", twice.config)
        list(model.stream("place-2", twice.config))
        traces = told_twice(twice)
        assert [(shape(trace), places(trace)) for trace in traces] == [
            (MODEL, {"place-1"}),
            (MODEL, {"place-2"}),
        ]

    async def test_an_asynchronous_stream_whose_events_come_twice_is_recorded_once(
        self, emulator: AzureEmulator, tracer: MlflowTracer, store_uri: str
    ) -> None:
        chain = sequence(AzureChatOpenAI(**emulator.chat(), callbacks=[tracer]))
        twice = Traced(tracer, {"callbacks": [tracer, tracer]}, store_uri)
        assert [chunk async for chunk in chain.astream(at(1), twice.config)]
        assert apart(await asyncio.to_thread(told_twice, twice)) == 1


def told_twice(twice: Traced) -> list[Trace]:
    """Return all traces, once it is sure that LangChain told of some run twice."""
    traces = twice.traces(problems={"started_twice", "unknown_run"})
    assert twice.tracer.stats()["problems"]["started_twice"]
    return traces


class TestEventStreams:
    """`astream_events`: v2 of any chain; v3 of models and graphs only (langchain-core 1.7, langgraph 1.2)."""

    async def test_an_event_stream_v2_of_a_chain_is_one_trace(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        events = sequence(model).astream_events(at(1), traced.config, version="v2")
        assert [event async for event in events]
        assert apart(await traced.atraces()) == 1

    async def test_an_event_stream_v2_of_an_agent_is_one_trace(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        events = agent_in_a_tool(model).astream_events(to_boss("place-1"), traced.config, version="v2")
        assert [event async for event in events]
        assert shape(only(await traced.atraces())) == BOSS

    async def test_an_event_stream_v2_of_a_graph_is_one_trace(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        graph = with_subgraph(model, asynchronous=True)
        asked = to_atlas("place-1", "place-2")
        assert [event async for event in graph.astream_events(asked, traced.config, version="v2")]
        assert shape(only(await traced.atraces())) == SUBGRAPH

    @needs_v3
    async def test_an_event_stream_v3_of_a_chain_is_refused_by_langchain_and_leaves_no_trace(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        chain: Any = sequence(model)
        with pytest.raises(NotImplementedError):
            chain.stream_events(at(1), traced.config, version="v3")
        with pytest.raises(NotImplementedError):
            await chain.astream_events(at(1), traced.config, version="v3")
        assert not await traced.atraces()

    @needs_v3
    def test_an_event_stream_v3_of_a_model_is_one_trace(self, model: AzureChatOpenAI, traced: Traced) -> None:
        stream = model.stream_events("place-1", traced.config, version="v3")
        assert "".join(stream.text) == "You said: place-1"
        check_v3_model(only(traced.traces()))

    @needs_v3
    async def test_an_asynchronous_event_stream_v3_of_a_model_is_one_trace(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        stream = await model.astream_events("place-1", traced.config, version="v3")
        assert "".join([text async for text in stream.text]) == "You said: place-1"
        check_v3_model(only(await traced.atraces()))

    @needs_v3
    def test_an_event_stream_v3_of_an_agent_is_one_trace(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        agent: Any = agent_in_a_tool(model)
        run = agent.stream_events(to_boss("place-1"), traced.config, version="v3")
        assert "place-1" in "".join("".join(message.text) for message in run.messages)
        trace = only(traced.traces())
        assert (shape(trace), places(trace)) == (BOSS, {"place-1"})

    @needs_v3
    async def test_an_asynchronous_event_stream_v3_of_an_agent_is_one_trace(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        agent: Any = agent_in_a_tool(model)
        run = await agent.astream_events(to_boss("place-1"), traced.config, version="v3")
        assert [state async for state in run.values]
        assert shape(only(await traced.atraces())) == BOSS

    @needs_v3
    @pytest.mark.parametrize("build", [with_subgraph, calling_a_graph])
    def test_an_event_stream_v3_of_a_graph_is_one_trace(
        self, model: AzureChatOpenAI, traced: Traced, build: Callable[..., Any]
    ) -> None:
        run = build(model).stream_events(to_atlas("place-1", "place-2"), traced.config, version="v3")
        assert run.output["heard"]
        trace = only(traced.traces())
        assert (shape(trace), mapped(trace)) == (SUBGRAPH, ["place-1", "place-2"])

    @needs_v3
    @pytest.mark.parametrize("build", [with_subgraph, calling_a_graph])
    async def test_an_asynchronous_event_stream_v3_of_a_graph_is_one_trace(
        self, model: AzureChatOpenAI, traced: Traced, build: Callable[..., Any]
    ) -> None:
        graph = build(model, asynchronous=True)
        run = await graph.astream_events(to_atlas("place-1", "place-2"), traced.config, version="v3")
        assert (await run.output())["heard"]
        assert shape(only(await traced.atraces())) == SUBGRAPH

    @needs_v3
    def test_two_interleaved_v3_streams_and_then_a_model_are_three_traces(
        self, model: AzureChatOpenAI, traced: Traced
    ) -> None:
        asked = ("place-1", "place-2")
        streams = [model.stream_events(place, traced.config, version="v3") for place in asked]
        for _ in zip(*(iter(stream.text) for stream in streams), strict=True):
            pass
        assert all(stream.output.text for stream in streams)
        model.invoke("place-3", traced.config)
        traces = traced.traces()
        assert [shape(trace) for trace in traces] == [MODEL] * 3
        assert [places(trace) for trace in traces] == [{"place-1"}, {"place-2"}, {"place-3"}]


def check_v3_model(trace: Trace) -> None:
    """Compare the one span of a streamed model with what was asked and answered."""
    assert shape(trace) == MODEL
    assert places(trace) == {"place-1"}
    (choice,) = root(trace).outputs["choices"]
    assert choice["message"]["content"] == "You said: place-1"


@dataclass(frozen=True)
class Way:
    """One way to run something, and the trees that come of it."""

    tree: Shape
    run: Callable[[str, RunnableConfig], object]
    traces: int = 1


@pytest.fixture
def ways(model: AzureChatOpenAI) -> list[Way]:
    """Return ways for threads."""
    chain, both, asked = sequence(model), parallel(model), without_config(model)
    atlas, world, calling = map_reduce(model), with_subgraph(model), calling_a_graph(model)
    boss: Any = agent_in_a_tool(model)

    def v3(place: str, config: RunnableConfig) -> object:
        return boss.stream_events(to_boss(place), config, version="v3").output

    return [
        Way(SEQUENCE, lambda place, config: chain.invoke({"place": place}, config)),
        Way(SEQUENCE, lambda place, config: list(chain.stream({"place": place}, config))),
        Way(SEQUENCE, lambda place, config: chain.batch([{"place": place}] * 2, config), traces=2),
        Way(PARALLEL, lambda place, config: both.invoke({"place": place}, config)),
        Way(LAMBDA, asked.invoke),
        Way(MAP_REDUCE, lambda place, config: atlas.invoke(to_atlas(place, place), config)),
        Way(SUBGRAPH, lambda place, config: list(world.stream(to_atlas(place, place), config))),
        Way(SUBGRAPH, lambda place, config: calling.invoke(to_atlas(place, place), config)),
        Way(BOSS, lambda place, config: boss.invoke(to_boss(place), config)),
        *([Way(BOSS, v3)] if HAS_V3 else []),
    ]


@dataclass(frozen=True)
class AsyncWay:
    """One way to run something in a task, and the trees that come of it."""

    tree: Shape
    run: Callable[[str, RunnableConfig], Awaitable[object]]
    traces: int = 1


@pytest.fixture
def async_ways(model: AzureChatOpenAI) -> list[AsyncWay]:
    """Return ways for tasks."""
    chain, both, asked = sequence(model), parallel(model), without_config(model)
    world = with_subgraph(model, asynchronous=True)
    calling = calling_a_graph(model, asynchronous=True)
    boss: Any = agent_in_a_tool(model)

    async def all_of(stream: AsyncIterator[object]) -> list[object]:
        return [one async for one in stream]

    async def v3(place: str, config: RunnableConfig) -> object:
        run = await boss.astream_events(to_boss(place), config, version="v3")
        return await run.output()

    return [
        AsyncWay(SEQUENCE, lambda place, config: chain.ainvoke({"place": place}, config)),
        AsyncWay(SEQUENCE, lambda place, config: all_of(chain.astream({"place": place}, config))),
        AsyncWay(SEQUENCE, lambda place, config: chain.abatch([{"place": place}] * 2, config), traces=2),
        AsyncWay(SEQUENCE, lambda place, config: all_of(chain.astream_events({"place": place}, config))),
        AsyncWay(PARALLEL, lambda place, config: both.ainvoke({"place": place}, config)),
        AsyncWay(LAMBDA, asked.ainvoke),
        AsyncWay(SUBGRAPH, lambda place, config: world.ainvoke(to_atlas(place, place), config)),
        AsyncWay(SUBGRAPH, lambda place, config: calling.ainvoke(to_atlas(place, place), config)),
        AsyncWay(BOSS, lambda place, config: boss.ainvoke(to_boss(place), config)),
        *([AsyncWay(BOSS, v3)] if HAS_V3 else []),
    ]


class TestOneHandlerForAll:
    async def test_runs_of_every_kind_in_threads_and_tasks_stay_apart(
        self, ways: list[Way], async_ways: list[AsyncWay], traced: Traced
    ) -> None:
        numbers = count()
        expected: Counter[str] = Counter()

        def place(way: Way | AsyncWay) -> str:
            name = f"place-{next(numbers)}"
            expected[repr((settled(way.tree), name))] += way.traces
            return name

        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(len(ways)) as pool:
            threads = [
                loop.run_in_executor(pool, way.run, place(way), traced.config)
                for way in ways
                for _ in range(3)
            ]
            tasks = [way.run(place(way), traced.config) for way in async_ways for _ in range(3)]
            await asyncio.gather(*threads, *tasks)
        traces = await traced.atraces()
        assert all(len(places(trace)) == 1 for trace in traces)
        found = Counter(repr((settled(shape(trace)), *places(trace))) for trace in traces)
        assert found == expected
