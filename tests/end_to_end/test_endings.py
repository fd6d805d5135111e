"""Ends runs in every way there is, on the real Azure client, and reads from MLflow how they are told."""

from __future__ import annotations

import asyncio
import gc
import operator
from collections.abc import AsyncIterator, Generator
from typing import Annotated, Any, TypedDict, cast

import pytest
from langchain.agents import create_agent
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from mlflow.entities import Trace, TraceState

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer import MlflowTracer, install
from tests.conftest import MakeTracer
from tests.support.server import wait_for
from tests.support.stored import Client, attribute, named, own_experiment, root, stored_trace, stored_traces
from tests.support.versions import needs_graph_callbacks


class Kept:
    """A tracer, and the store in which its traces are found."""

    def __init__(self, tracer: MlflowTracer, uri: str) -> None:
        self.tracer = tracer
        self.uri = uri
        self.config: Any = {"callbacks": [tracer]}

    def last(self) -> Trace:
        """Return the trace that ended last; nothing is left open."""
        trace = stored_trace(self.uri, self.tracer)
        assert not self.tracer._recorder.is_recording
        return trace

    def all(self) -> list[Trace]:
        """Return every trace, oldest first; nothing is left open."""
        traces = stored_traces(self.uri, self.tracer)
        assert not self.tracer._recorder.is_recording
        return traces

    async def alast(self) -> Trace:
        """Return the trace that ended last, without holding up the event loop."""
        return await asyncio.to_thread(self.last)

    def found_by_tag(self, outcome: str) -> list[str]:
        """Return the ids of the traces that MLflow finds by how they ended."""
        found = Client(self.uri).search_traces(
            locations=[own_experiment()], filter_string=f"tags.`lc.outcome` = '{outcome}'"
        )
        return [trace.info.trace_id for trace in found]


@pytest.fixture
def kept(make_tracer: MakeTracer, store_uri: str) -> Kept:
    """Return a tracer that delivers into a real MLflow store."""
    return Kept(make_tracer(store_uri), store_uri)


@pytest.fixture
def chain(model: AzureChatOpenAI) -> Runnable[dict[str, str], str]:
    """Return a chain that says to the emulator what it is told."""
    return ChatPromptTemplate.from_template("{text}") | model | StrOutputParser()


def outcomes(trace: Trace) -> dict[str, str]:
    """Return how each span ended."""
    return {span.name: attribute(span, "lc.outcome") or "completed" for span in trace.data.spans}


def answer(trace: Trace, name: str = "AzureChatOpenAI") -> str:
    """Return what a model had said."""
    return str(named(trace, name).outputs["choices"][0]["message"]["content"])


SAID = {"text": "[[tokens 50]]"}
SAID_SLOWLY = {"text": "[[tokens 200]] [[pace 0.01]]"}


class TestAnAbandonedStream:
    @pytest.mark.parametrize("way", ["close", "let go"])
    def test_an_abandoned_stream_is_recorded_as_abandoned_with_what_was_consumed(
        self, way: str, chain: Runnable[dict[str, str], str], kept: Kept
    ) -> None:
        stream = cast("Generator[str]", chain.stream(SAID, kept.config))
        consumed = "".join(next(stream) for _ in range(4))
        if way == "close":
            stream.close()
        del stream
        trace = kept.last()
        assert trace.info.tags["lc.outcome"] == "abandoned"
        assert consumed.startswith(root(trace).outputs)
        assert answer(trace) == consumed == "The quick brown"[: len(consumed)]
        assert outcomes(trace)["AzureChatOpenAI"] == "abandoned"
        assert not any(span.events for span in trace.data.spans)
        assert kept.found_by_tag("abandoned") == [trace.info.trace_id]

    @pytest.mark.parametrize("way", ["close", "break"])
    async def test_an_abandoned_asynchronous_stream_is_recorded_as_abandoned(
        self, way: str, chain: Runnable[dict[str, str], str], kept: Kept
    ) -> None:
        stream = chain.astream(SAID_SLOWLY, kept.config)
        consumed = "".join([await anext(stream) for _ in range(4)])
        if way == "close":
            await stream.aclose()  # type: ignore[attr-defined]
        del stream
        await until_nothing_runs(kept)
        trace = await kept.alast()
        assert trace.info.tags["lc.outcome"] == "abandoned"
        assert answer(trace) == consumed
        assert root(trace).outputs == named(trace, "AzureChatOpenAI").outputs
        assert trace.info.state is TraceState.OK

    def test_an_abandoned_stream_of_a_model_alone_has_what_came(
        self, model: AzureChatOpenAI, kept: Kept
    ) -> None:
        stream = cast("Generator[Any]", model.stream(SAID["text"], kept.config))
        consumed = "".join(str(next(stream).content) for _ in range(4))
        stream.close()
        trace = kept.last()
        assert trace.info.tags["lc.outcome"] == "abandoned"
        assert answer(trace) == consumed

    async def test_an_abandoned_stream_of_events_leaves_no_run_open(
        self, chain: Runnable[dict[str, str], str], kept: Kept
    ) -> None:
        events = chain.astream_events(SAID_SLOWLY, kept.config, version="v2")
        async for event in events:
            if event["event"] == "on_chat_model_stream" and event["data"]["chunk"].content:
                break
        await cast("Any", events).aclose()
        del events
        await until_nothing_runs(kept)
        trace = await kept.alast()
        assert trace.info.tags["lc.outcome"] == "cancelled"  # LangChain cancels the run, the consumer is gone
        assert answer(trace).startswith("The")

    def test_an_abandoned_stream_of_a_graph_is_recorded_as_abandoned(
        self, model: AzureChatOpenAI, kept: Kept
    ) -> None:
        agent = create_agent(model, [get_weather])
        question: Any = {"messages": [("user", '[[call get_weather {"city": "Oslo"}]]')]}
        stream = cast("Generator[Any]", agent.stream(question, kept.config))
        next(stream)
        stream.close()
        assert kept.last().info.tags["lc.outcome"] == "abandoned"


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task; one cancellation may be lost in `asyncio.wait_for`, where clients wait (Python 3.11)."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
    with pytest.raises(asyncio.CancelledError):
        await task


async def until_nothing_runs(kept: Kept) -> None:
    """Wait until the event loop has closed what was let go of."""

    def nothing_runs() -> bool:
        gc.collect()
        kept.tracer._recorder.sweep()
        return not kept.tracer._recorder.is_recording

    for _ in range(500):
        if nothing_runs():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a run is still open")


class TestACancelledTask:
    async def test_a_cancelled_task_is_recorded_with_what_its_model_had_answered(
        self, chain: Runnable[dict[str, str], str], kept: Kept
    ) -> None:
        came: list[str] = []

        async def consume() -> None:
            async for piece in chain.astream(SAID_SLOWLY, kept.config):
                came.append(piece)  # noqa: PERF401 - it is cancelled in the middle

        task = asyncio.create_task(consume())
        while len(came) < 5:  # noqa: ASYNC110 - until the stream has come that far
            await asyncio.sleep(0.01)
        await cancel(task)
        trace = await kept.alast()
        assert outcomes(trace) == {
            "RunnableSequence": "cancelled", "ChatPromptTemplate": "completed",
            "AzureChatOpenAI": "cancelled", "StrOutputParser": "cancelled",
        }  # fmt: skip
        assert answer(trace).startswith("".join(came))
        assert not any(span.events for span in trace.data.spans)
        assert await asyncio.to_thread(kept.found_by_tag, "cancelled") == [trace.info.trace_id]

    async def test_a_cancelled_call_of_a_model_alone_is_recorded_although_langchain_reports_no_end(
        self, model: AzureChatOpenAI, emulator: AzureEmulator, kept: Kept
    ) -> None:
        before = len(emulator.requests)
        task = asyncio.create_task(model.ainvoke("[[hang]]", kept.config))
        while len(emulator.requests) == before:  # noqa: ASYNC110 - until Azure has been asked
            await asyncio.sleep(0.01)
        await cancel(task)
        del task
        await until_nothing_runs(kept)
        trace = await kept.alast()
        assert trace.info.tags["lc.outcome"] == "cancelled"
        assert trace.info.state is TraceState.ERROR
        assert root(trace).inputs["messages"][0]["content"] == "[[hang]]"

    async def test_a_chain_that_handles_a_cancelled_call_completes(
        self, model: AzureChatOpenAI, kept: Kept
    ) -> None:
        async def patient(text: str) -> str:
            try:
                async with asyncio.timeout(0.3):
                    return str((await model.ainvoke(text)).content)
            except TimeoutError:
                pass
            return "something else"

        assert await RunnableLambda(patient).ainvoke("[[hang]]", kept.config) == "something else"
        trace = await kept.alast()
        assert outcomes(trace) == {"patient": "completed", "AzureChatOpenAI": "cancelled"}
        assert trace.info.state is TraceState.OK

    async def test_a_cancelled_call_of_a_tool_or_a_retriever_alone_is_recorded(self, kept: Kept) -> None:
        @tool
        async def slow(city: str) -> str:
            """Take for ever."""
            await asyncio.Event().wait()
            return city

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slow.ainvoke({"city": "Oslo"}, kept.config), 0.1)
        await until_nothing_runs(kept)
        trace = await kept.alast()
        assert outcomes(trace) == {"slow": "cancelled"}


class TestATimeout:
    def test_a_timeout_of_the_client_is_recorded_as_a_timeout(
        self, emulator: AzureEmulator, kept: Kept
    ) -> None:
        hurried = AzureChatOpenAI(**emulator.chat(), timeout=0.3, max_retries=0)
        with pytest.raises(Exception, match="timed out"):
            (RunnableLambda(str) | hurried).invoke("[[hang]]", kept.config)
        trace = kept.last()
        assert outcomes(trace)["AzureChatOpenAI"] == outcomes(trace)["RunnableSequence"] == "timeout"
        (event,) = named(trace, "AzureChatOpenAI").events
        assert event.name == "exception"
        assert trace.info.state is TraceState.ERROR
        assert kept.found_by_tag("timeout") == [trace.info.trace_id]

    async def test_a_timeout_of_a_graph_cancels_the_runs_in_it(
        self, model: AzureChatOpenAI, kept: Kept
    ) -> None:
        async def ask(state: Talk) -> Talk:
            return {"answers": [str((await model.ainvoke(state["question"])).content)]}

        graph = StateGraph(Talk).add_node("ask", ask).add_edge(START, "ask").compile()
        graph.step_timeout = 0.3
        question: Any = {"question": "[[hang]]"}
        with pytest.raises(TimeoutError):
            await graph.ainvoke(question, kept.config)
        await until_nothing_runs(kept)
        trace = await kept.alast()
        assert trace.info.tags["lc.outcome"] == "timeout"
        assert outcomes(trace)["AzureChatOpenAI"] == "cancelled"


class Talk(TypedDict, total=False):
    """A question and what was answered."""

    question: str
    answers: Annotated[list[str], operator.add]


@tool
def get_weather(city: str) -> str:
    """Say what the weather is in a city."""
    return f"{city}: rain"


def ask_a_person(state: Talk) -> Talk:
    """Wait for a person."""
    return {"answers": [interrupt({"asks": state["question"]})]}


def waiting_graph(**options: Any) -> Any:
    """Return a graph that waits for a person."""
    builder = StateGraph(Talk).add_node("ask", ask_a_person).add_edge(START, "ask").add_edge("ask", END)
    return builder.compile(checkpointer=InMemorySaver(), **options)


class TestAnInterruptedGraph:
    @needs_graph_callbacks
    def test_an_interrupted_graph_has_its_question_and_checkpoint_and_no_error(self, kept: Kept) -> None:
        graph = waiting_graph()
        config = {**kept.config, "configurable": {"thread_id": "t"}}
        (asked,) = graph.invoke({"question": "May I?"}, config)["__interrupt__"]
        trace = kept.last()
        assert trace.info.state is TraceState.OK
        assert trace.info.tags["lc.outcome"] == "interrupted"
        assert outcomes(trace) == {"LangGraph": "interrupted", "ask": "interrupted"}
        payload = [{"id": asked.id, "value": {"asks": "May I?"}}]
        assert attribute(root(trace), "langgraph.interrupts") == payload
        assert root(trace).outputs == {"question": "May I?", "answers": [], "__interrupt__": payload}
        assert named(trace, "ask").outputs == {"__interrupt__": payload}
        checkpoint = graph.get_state(config).config["configurable"]["checkpoint_id"]
        assert attribute(root(trace), "langgraph.checkpoint_id") == checkpoint
        assert trace.info.tags["langgraph.checkpoint_id"] == checkpoint
        assert not any(span.events for span in trace.data.spans)
        assert kept.found_by_tag("interrupted") == [trace.info.trace_id]

    @needs_graph_callbacks
    @pytest.mark.parametrize("by", ["the same tracer", "another tracer"])
    def test_an_interrupted_graph_is_linked_to_the_run_that_resumes_it(
        self, by: str, kept: Kept, make_tracer: MakeTracer
    ) -> None:
        graph = waiting_graph()
        place = {"configurable": {"thread_id": "t"}}
        graph.invoke({"question": "May I?"}, {**kept.config, **place})
        second = Kept(make_tracer(kept.uri), kept.uri) if by == "another tracer" else kept
        graph.invoke(Command(resume="yes"), {**second.config, **place})
        graph.invoke({"question": "And this?"}, {**second.config, **place})
        waited, resumed, other = second.all()
        assert resumed.info.tags["lc.outcome"] == "completed"
        assert root(resumed).inputs == {"resume": "yes"}
        assert resumed.info.tags["langgraph.resumed_from"] == waited.info.tags["langgraph.checkpoint_id"]
        assert resumed.info.tags["langgraph.resumes_trace"] == waited.info.trace_id
        (link,) = root(resumed).links
        assert (link.trace_id, link.span_id) == (waited.info.trace_id, root(waited).span_id)
        assert "langgraph.resumed_from" not in other.info.tags
        assert other.info.tags["lc.outcome"] == "interrupted"

    @needs_graph_callbacks
    async def test_an_interrupted_graph_that_is_streamed_asynchronously_is_recorded_as_interrupted(
        self, kept: Kept
    ) -> None:
        graph = waiting_graph()
        config = {**kept.config, "configurable": {"thread_id": "t"}}
        stream: AsyncIterator[Any] = graph.astream({"question": "May I?"}, config)
        assert [update async for update in stream]
        trace = await kept.alast()
        assert outcomes(trace) == {"LangGraph": "interrupted", "ask": "interrupted"}
        assert trace.info.tags["langgraph.checkpoint_id"]

    @needs_graph_callbacks
    def test_an_interrupt_before_a_node_is_recorded_as_interrupted(self, kept: Kept) -> None:
        graph = waiting_graph(interrupt_before=["ask"])
        graph.invoke({"question": "May I?"}, {**kept.config, "configurable": {"thread_id": "t"}})
        trace = kept.last()
        assert outcomes(trace) == {"LangGraph": "interrupted"}
        assert trace.info.tags["langgraph.checkpoint_id"]

    def test_an_interrupt_in_a_subgraph_interrupts_every_graph_around_it(self, kept: Kept) -> None:
        inner = StateGraph(Talk).add_node("ask", ask_a_person).add_edge(START, "ask").compile(name="inner")
        outer = StateGraph(Talk).add_node("sub", inner).add_edge(START, "sub")
        graph = outer.compile(checkpointer=InMemorySaver(), name="outer")
        state: Any = {"question": "May I?"}
        place: Any = {**kept.config, "configurable": {"thread_id": "t"}}
        graph.invoke(state, place)
        trace = kept.last()
        assert set(outcomes(trace).values()) == {"interrupted"}
        assert root(trace).name == "outer"

    def test_an_installed_tracer_records_an_interrupted_graph_as_interrupted(self, kept: Kept) -> None:
        install(kept.tracer)
        waiting_graph().invoke({"question": "May I?"}, {"configurable": {"thread_id": "t"}})
        trace = kept.last()
        assert trace.info.tags["lc.outcome"] == "interrupted"
        assert named(trace, "ask").outputs["__interrupt__"][0]["value"] == {"asks": "May I?"}

    @needs_graph_callbacks
    def test_an_interrupt_has_no_payload_when_only_metadata_is_captured(
        self, make_tracer: MakeTracer, store_uri: str
    ) -> None:
        kept = Kept(make_tracer(store_uri, capture="metadata"), store_uri)
        graph = waiting_graph()
        (asked,) = graph.invoke({"question": "May I?"}, {**kept.config, "configurable": {"thread_id": "t"}})[
            "__interrupt__"
        ]
        trace = kept.last()
        assert attribute(root(trace), "langgraph.interrupts") == [{"id": asked.id}]
        assert "May I?" not in str(trace.to_dict())


def test_a_node_that_hands_over_to_its_parent_graph_has_completed(kept: Kept) -> None:
    def hand_over(_: Any) -> Command[Any]:
        return Command(graph=Command.PARENT, goto="other", update={"answers": ["from below"]})

    below: Any = StateGraph(Talk)
    inner = below.add_node("hand_over", hand_over).add_edge(START, "hand_over").compile(name="inner")
    outer: Any = StateGraph(Talk)
    outer = outer.add_node("sub", inner).add_node("other", lambda _: {"answers": ["done"]})
    state: Any = {"question": "?"}
    outer.add_edge(START, "sub").compile(name="outer").invoke(state, kept.config)
    trace = kept.last()
    assert set(outcomes(trace).values()) == {"completed"}
    assert trace.info.state is TraceState.OK
    assert named(trace, "hand_over").outputs["goto"] == "other"
    assert not any(span.events for span in trace.data.spans)


def test_a_stream_that_is_never_consumed_makes_no_trace_and_leaves_no_run_open(
    chain: Runnable[dict[str, str], str], kept: Kept
) -> None:
    stream = chain.stream(SAID, kept.config)
    del stream
    assert not kept.tracer._recorder.is_recording
    assert kept.tracer.stats()["recorded"] == 0


def test_an_error_is_recorded_once_on_the_span_that_raised_it_with_type_message_and_stack(
    kept: Kept, model: AzureChatOpenAI
) -> None:
    @tool
    def broken(city: str) -> str:
        """Break."""
        raise LookupError(f"no such city: {city}")

    agent = create_agent(model, [broken])
    question: Any = {"messages": [("user", '[[call broken {"city": "Atlantis"}]]')]}
    with pytest.raises(LookupError):
        agent.invoke(question, kept.config)
    trace = kept.last()
    assert trace.info.state is TraceState.ERROR
    (span,) = [one for one in trace.data.spans if one.events]
    (event,) = span.events
    assert (span.name, span.span_type, event.name) == ("broken", "TOOL", "exception")
    assert event.attributes["exception.type"] == "LookupError"
    assert event.attributes["exception.message"] == "no such city: Atlantis"
    assert "in broken" in str(event.attributes["exception.stacktrace"])
    assert "no such city" in root(trace).status.description
    assert kept.found_by_tag("error") == [trace.info.trace_id]


def test_a_running_stream_is_shown_with_what_has_come(
    chain: Runnable[dict[str, str], str], kept: Kept
) -> None:
    stream = chain.stream(SAID, kept.config)
    consumed = "".join(next(stream) for _ in range(4))

    def shown() -> list[Any]:
        running = kept.tracer._recorder.running(0.0)
        return [span.outputs for trace in running for span in trace.spans if span.outputs]

    wait_for(lambda: consumed in str(shown()))
    assert "".join(stream)
    assert kept.last().info.tags["lc.outcome"] == "completed"
