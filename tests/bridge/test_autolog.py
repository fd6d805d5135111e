"""Turns MLflow's own recording of chains on beside a tracer, and counts what is stored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing, closing
from typing import Any, TypedDict

import mlflow
import mlflow.langchain
import mlflow.openai
import pytest
from langchain.agents import create_agent
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_openai import AzureChatOpenAI
from langgraph.graph import END, START, StateGraph
from mlflow.entities import Trace
from mlflow.langchain.langchain_tracer import MlflowLangchainTracer
from mlflow.utils.autologging_utils import AUTOLOGGING_INTEGRATIONS

from langchain_mlflow_tracer import MlflowTracer, install, uninstall
from tests.conftest import MakeTracer
from tests.support.stored import Shape, named, shape, stored_traces

pytestmark = pytest.mark.usefixtures("own_mlflow")

BESIDE = "mlflow.langchain.autolog() is on: it leaves to a tracer what that records, nothing is twice"


@pytest.fixture
def tracer(make_tracer: MakeTracer, store_uri: str) -> MlflowTracer:
    return make_tracer(store_uri)


def chain() -> Runnable[Any, Any]:
    first: Runnable[Any, Any] = RunnableLambda(lambda number: number + 1)
    return first | RunnableLambda(lambda number: number * 2)


def all_traces(store_uri: str, tracer: MlflowTracer) -> list[Trace]:
    """Return what is stored once everybody has delivered."""
    mlflow.flush_trace_async_logging()
    return stored_traces(store_uri, tracer)


def counted(store_uri: str, tracer: MlflowTracer) -> int:
    return len(all_traces(store_uri, tracer))


def test_a_chain_with_a_tracer_is_recorded_once_and_that_is_said_once(
    store_uri: str, tracer: MlflowTracer, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow.langchain.autolog()
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            chain().invoke(number, {"callbacks": [tracer]})
    assert [record.message for record in caplog.records] == [BESIDE]
    assert counted(store_uri, tracer) == 3


@pytest.mark.parametrize("is_first", [False, True])
async def test_what_mlflow_makes_in_a_run_hangs_below_it_whichever_of_the_two_hears_first(
    store_uri: str, tracer: MlflowTracer, *, is_first: bool
) -> None:
    def make(number: int) -> int:
        with mlflow.start_span("made"):
            return number

    mlflow.langchain.autolog()
    pair = [MlflowLangchainTracer(), tracer] if is_first else [tracer, MlflowLangchainTracer()]
    config: RunnableConfig = {"callbacks": pair}
    asked: Runnable[int, int] = RunnableLambda(lambda number: RunnableLambda(make).invoke(number))
    asked = asked.with_config(run_name="asked")
    asked.invoke(1, {"callbacks": [tracer]})  # the first of which the tracer hears, it meets autolog
    asked.invoke(1, config)
    await asked.ainvoke(1, config)
    shapes = [shape(one) for one in all_traces(store_uri, tracer)]
    made: Shape = ("make", "CHAIN", [("made", "UNKNOWN", [])])
    assert shapes == [("asked", "CHAIN", [made])] * 3


class State(TypedDict):
    number: int


def increased(state: State) -> State:
    return {"number": state["number"] + 1}


def halved(state: State) -> State:
    return {"number": 1 // state["number"]}


def graph() -> Runnable[Any, Any]:
    made = StateGraph(State)
    made.add_node("increase", increased)
    made.add_node("halve", halved)
    made.add_edge(START, "increase")
    made.add_edge("increase", "halve")
    made.add_edge("halve", END)
    return made.compile()


def lcel() -> Runnable[Any, Any]:
    return RunnableLambda(increased) | RunnableLambda(halved)


GIVEN: State = {"number": 1}
FATAL: State = {"number": -1}
"""What one of the steps divides by zero for."""

Call = Callable[[Runnable[Any, Any], RunnableConfig], Awaitable[object]]


async def invoked(asked: Runnable[Any, Any], config: RunnableConfig) -> object:
    return asked.invoke(GIVEN, config)


async def ainvoked(asked: Runnable[Any, Any], config: RunnableConfig) -> object:
    return await asked.ainvoke(GIVEN, config)


async def streamed(asked: Runnable[Any, Any], config: RunnableConfig) -> object:
    return list(asked.stream(GIVEN, config))


async def astreamed(asked: Runnable[Any, Any], config: RunnableConfig) -> object:
    return [one async for one in asked.astream(GIVEN, config)]


async def told_events(asked: Runnable[Any, Any], config: RunnableConfig) -> object:
    return [one async for one in asked.astream_events(GIVEN, config, version="v2")]


async def left_early(asked: Runnable[Any, Any], config: RunnableConfig) -> object:
    with closing(asked.stream(GIVEN, config)) as stream:  # type: ignore[type-var]
        return next(stream)


async def aleft_early(asked: Runnable[Any, Any], config: RunnableConfig) -> object:
    async with aclosing(asked.astream(GIVEN, config)) as stream:  # type: ignore[type-var]
        return await anext(stream)


async def failed(asked: Runnable[Any, Any], config: RunnableConfig) -> None:
    with pytest.raises(ZeroDivisionError):
        asked.invoke(FATAL, config)


async def afailed(asked: Runnable[Any, Any], config: RunnableConfig) -> None:
    with pytest.raises(ZeroDivisionError):
        await asked.ainvoke(FATAL, config)


async def cancelled(asked: Runnable[Any, Any], config: RunnableConfig) -> None:
    begun = asyncio.Event()

    async def wait(state: State) -> State:
        begun.set()
        await asyncio.Event().wait()
        return state

    task = asyncio.ensure_future((asked | RunnableLambda(wait)).ainvoke(GIVEN, config))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


CALLS = [
    invoked, ainvoked, streamed, astreamed, told_events, left_early, aleft_early, failed, afailed, cancelled,
]  # fmt: skip


@pytest.mark.parametrize("is_inline", [False, True])
@pytest.mark.parametrize("make", [lcel, graph], ids=["lcel", "langgraph"])
async def test_beside_autolog_the_same_is_recorded_as_without_it(
    store_uri: str, tracer: MlflowTracer, make: Callable[[], Runnable[Any, Any]], *, is_inline: bool
) -> None:
    """Also where autolog's handler runs where ours does."""

    async def call_all() -> list[str | None]:
        calls = []
        for call in CALLS:
            await call(make(), {"callbacks": [tracer], "run_name": call.__name__})
            calls.append(tracer.last_trace_id)
        return calls

    without = await call_all()
    mlflow.langchain.autolog(run_tracer_inline=is_inline)
    beside = await call_all()
    stored = {one.info.trace_id: one for one in await asyncio.to_thread(all_traces, store_uri, tracer)}
    assert len(stored) == 2 * len(CALLS)
    for plain, other in zip(without, beside, strict=True):
        before, after = stored[str(plain)], stored[str(other)]
        assert (shape(after), after.info.state) == (shape(before), before.info.state)


async def test_an_agent_is_recorded_once(
    store_uri: str, tracer: MlflowTracer, model: AzureChatOpenAI
) -> None:
    agent: Runnable[Any, Any] = create_agent(model, [])
    asked = {"messages": [("user", "hello")]}
    await agent.ainvoke(asked, {"callbacks": [tracer]})
    mlflow.langchain.autolog()
    await asyncio.to_thread(agent.invoke, asked, {"callbacks": [tracer]})
    await agent.ainvoke(asked, {"callbacks": [tracer]})
    async for _ in agent.astream(asked, {"callbacks": [tracer]}, stream_mode="messages"):
        pass
    without, *beside = await asyncio.to_thread(all_traces, store_uri, tracer)
    assert [shape(one) for one in beside] == [shape(without)] * 3


@pytest.mark.parametrize("is_inline", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_model_that_has_the_tracer_itself_is_recorded_once(
    store_uri: str, make_tracer: MakeTracer, model: AzureChatOpenAI, *, is_async: bool, is_inline: bool
) -> None:
    """Autolog's handler hears of it before ours."""
    mlflow.langchain.autolog(run_tracer_inline=is_inline)
    tracer = make_tracer(store_uri)
    own = model.model_copy(update={"callbacks": [tracer]})
    for _ in range(2):
        await (own.ainvoke("hello") if is_async else asyncio.to_thread(own.invoke, "hello"))
    assert await asyncio.to_thread(counted, store_uri, tracer) == 2
    for stored in await asyncio.to_thread(stored_traces, store_uri, tracer):
        assert shape(stored) == ("AzureChatOpenAI", "CHAT_MODEL", [])


def test_a_model_that_has_the_tracer_itself_is_once_in_a_chain_that_autolog_records(
    store_uri: str, make_tracer: MakeTracer, model: AzureChatOpenAI
) -> None:
    mlflow.langchain.autolog()
    tracer = make_tracer(store_uri)
    own = model.model_copy(update={"callbacks": [tracer]})
    (RunnableLambda(str) | own).with_config(run_name="outer").invoke("hello")
    (stored,) = all_traces(store_uri, tracer)
    assert [span.name for span in stored.data.spans].count("AzureChatOpenAI") == 1
    assert named(stored, "AzureChatOpenAI").parent_id == named(stored, "outer").span_id


def test_what_is_switched_on_first_does_not_matter(store_uri: str, make_tracer: MakeTracer) -> None:
    before = make_tracer(store_uri)
    chain().invoke(1, {"callbacks": [before]})
    mlflow.langchain.autolog()
    after = make_tracer(store_uri)
    chain().invoke(1, {"callbacks": [before]})
    chain().invoke(1, {"callbacks": [after]})
    chain().invoke(1, {"callbacks": [before, after]})  # whoever passes two wants two
    assert after.flush(timeout=60)
    assert counted(store_uri, before) == 5


def test_autolog_that_is_switched_off_again_records_nothing_and_may_come_back(
    store_uri: str, tracer: MlflowTracer
) -> None:
    for _ in range(2):
        mlflow.langchain.autolog()
        chain().invoke(1, {"callbacks": [tracer]})
        chain().invoke(1)
        mlflow.langchain.autolog(disable=True)
        chain().invoke(1, {"callbacks": [tracer]})
        chain().invoke(1)
    assert counted(store_uri, tracer) == 6


def test_a_tracer_that_is_uninstalled_leaves_chains_to_autolog(store_uri: str, tracer: MlflowTracer) -> None:
    mlflow.langchain.autolog()
    install(tracer)
    graph().invoke(GIVEN)
    uninstall()
    graph().invoke(GIVEN)
    first, second = all_traces(store_uri, tracer)
    assert (first.info.trace_id == tracer.last_trace_id) != (second.info.trace_id == tracer.last_trace_id)


def test_with_an_installed_tracer_every_chain_is_recorded_once(store_uri: str, tracer: MlflowTracer) -> None:
    install(tracer)
    mlflow.langchain.autolog()
    chain().invoke(1)
    chain().batch([1, 2])
    assert counted(store_uri, tracer) == 3


def test_what_is_imported_and_not_switched_on_is_not_met(
    tracer: MlflowTracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AUTOLOGGING_INTEGRATIONS, "langchain", {})
    chain().invoke(1, {"callbacks": [tracer]})
    assert not tracer.stats()["problems"]


def test_a_chain_without_a_tracer_is_left_to_autolog(store_uri: str, tracer: MlflowTracer) -> None:
    mlflow.langchain.autolog()
    chain().invoke(1, {"callbacks": [tracer]})
    chain().invoke(1)
    assert counted(store_uri, tracer) == 2


@pytest.mark.parametrize("is_async", [False, True])
async def test_what_the_openai_client_records_nests_below_the_model_that_uses_it(
    store_uri: str, tracer: MlflowTracer, model: AzureChatOpenAI, *, is_async: bool
) -> None:
    mlflow.openai.autolog()
    asked: Runnable[Any, Any] = RunnableLambda(lambda text: text) | model
    if is_async:
        await asked.ainvoke("hello", {"callbacks": [tracer]})
    else:
        await asyncio.to_thread(asked.invoke, "hello", {"callbacks": [tracer]})
    (stored,) = await asyncio.to_thread(stored_traces, store_uri, tracer)
    call = next(
        span
        for span in stored.data.spans
        if span.name not in {"RunnableSequence", "RunnableLambda", "AzureChatOpenAI"}
    )
    assert call.parent_id == named(stored, "AzureChatOpenAI").span_id
    assert shape(stored)[0] == "RunnableSequence"
    assert await asyncio.to_thread(counted, store_uri, tracer) == 1
