"""Ends models, tools and retrievers that run alone in ways of which LangChain tells no handler.

It tells of a chain's cancellation, and so what is below a chain is known to have ended with it, and of a
cancelled stream of a model (langchain-core 1.7).
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI

from langchain_mlflow_tracer import MlflowTracer
from tests.conftest import MakeTracer, wait_for
from tests.support.stored import root, stored_traces

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")

FOR_EVER = 3600.0

PATIENCE = 20.0
"""Seconds: the tracer looks once a second, or more rarely where a look takes long."""

Start = Callable[[RunnableConfig], Awaitable[object]]


@pytest.fixture
def tracer(make_tracer: MakeTracer, store_uri: str) -> MlflowTracer:
    """Return a tracer that delivers into a real MLflow store."""
    return make_tracer(store_uri)


@tool
async def wait(seconds: float) -> str:
    """Wait."""
    await asyncio.sleep(seconds)
    return "done"


class Waiting(BaseRetriever):
    """Finds nothing, ever."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        raise NotImplementedError

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        await asyncio.sleep(FOR_EVER)
        return []


async def cancelled(run: Start, tracer: MlflowTracer) -> None:
    """Start a run in a task, cancel it, and wait until the tracer has nothing open."""
    config: RunnableConfig = {"callbacks": [tracer]}

    async def work() -> object:
        return await run(config)

    task = asyncio.create_task(work())
    await asyncio.to_thread(wait_for, lambda: tracer._recorder.is_recording)
    while not task.done():
        task.cancel()  # one may be lost in `asyncio.wait_for`, in which clients wait (Python 3.11)
        await asyncio.wait([task], timeout=0.1)
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_for, lambda: not tracer._recorder.is_recording, PATIENCE)


def check(store_uri: str, tracer: MlflowTracer, kind: str, number: int = 1) -> None:
    """Compare what is stored with what was left; how it ended cannot always be known."""
    traces = stored_traces(store_uri, tracer)
    assert [root(trace).span_type for trace in traces] == [kind] * number
    assert {trace.info.tags["lc.outcome"] for trace in traces} <= {"cancelled", "abandoned"}


async def test_the_trace_of_a_cancelled_model_call_ends(
    model: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
) -> None:
    await cancelled(lambda config: model.ainvoke("[[hang]]", config), tracer)
    await asyncio.to_thread(check, store_uri, tracer, "CHAT_MODEL")


async def test_the_trace_of_a_cancelled_model_stream_ends(
    model: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
) -> None:
    async def read(config: RunnableConfig) -> list[Any]:
        return [chunk async for chunk in model.astream("Hello [[hang 1]]", config)]

    await cancelled(read, tracer)
    await asyncio.to_thread(check, store_uri, tracer, "CHAT_MODEL")


async def test_the_trace_of_every_model_call_in_a_cancelled_batch_ends(
    model: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
) -> None:
    await cancelled(lambda config: model.abatch(["[[hang]]"] * 2, config), tracer)
    await asyncio.to_thread(check, store_uri, tracer, "CHAT_MODEL", 2)


async def test_the_trace_of_a_cancelled_tool_ends(tracer: MlflowTracer, store_uri: str) -> None:
    await cancelled(lambda config: wait.ainvoke({"seconds": FOR_EVER}, config), tracer)
    await asyncio.to_thread(check, store_uri, tracer, "TOOL")


async def test_the_trace_of_a_cancelled_retriever_ends(tracer: MlflowTracer, store_uri: str) -> None:
    await cancelled(lambda config: Waiting().ainvoke("Where?", config), tracer)
    await asyncio.to_thread(check, store_uri, tracer, "RETRIEVER")


async def test_the_trace_of_a_model_call_ends_at_a_timeout_although_its_task_continues(
    model: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
) -> None:
    config: RunnableConfig = {"callbacks": [tracer]}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await model.ainvoke("[[hang]]", config)
    await asyncio.to_thread(wait_for, lambda: not tracer._recorder.is_recording, PATIENCE)
    await asyncio.to_thread(check, store_uri, tracer, "CHAT_MODEL")


def test_the_trace_of_a_v3_stream_ends_when_the_stream_is_garbage_collected(
    model: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
) -> None:
    stream = model.stream_events("Hello", {"callbacks": [tracer]}, version="v3")
    assert next(iter(stream.text))
    del stream

    def ended() -> bool:
        gc.collect()
        return not tracer._recorder.is_recording

    wait_for(ended, PATIENCE)
    check(store_uri, tracer, "CHAT_MODEL")
