"""Turns MLflow's own recording of chains on beside a tracer, and counts what is stored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import mlflow
import mlflow.langchain
import mlflow.openai
import pytest
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_openai import AzureChatOpenAI
from mlflow.tracing.trace_manager import InMemoryTraceManager
from mlflow.utils.autologging_utils import AUTOLOGGING_INTEGRATIONS

from langchain_mlflow_tracer import MlflowTracer, install
from tests.conftest import MakeTracer
from tests.stored import named, shape, stored_traces


@pytest.fixture(autouse=True)
def own_mlflow(store_uri: str) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store_uri)
    yield
    mlflow.langchain.autolog(disable=True)
    mlflow.openai.autolog(disable=True)
    mlflow.flush_trace_async_logging()
    mlflow.tracing.reset()  # type: ignore[no-untyped-call]
    InMemoryTraceManager.reset()  # type: ignore[no-untyped-call]
    mlflow.set_tracking_uri(before)


@pytest.fixture
def tracer(make_tracer: MakeTracer, store_uri: str) -> MlflowTracer:
    return make_tracer(store_uri)


def chain() -> Runnable[Any, Any]:
    first: Runnable[Any, Any] = RunnableLambda(lambda number: number + 1)
    return first | RunnableLambda(lambda number: number * 2)


def counted(store_uri: str, tracer: MlflowTracer) -> int:
    mlflow.flush_trace_async_logging()
    return len(stored_traces(store_uri, tracer))


def test_a_chain_with_a_tracer_is_recorded_once_and_that_is_said_once(
    store_uri: str, tracer: MlflowTracer, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow.langchain.autolog()
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            chain().invoke(number, {"callbacks": [tracer]})
    assert [record.message for record in caplog.records] == [
        "mlflow.langchain.autolog() is on: it leaves to a tracer what that records, nothing is twice"
    ]
    assert counted(store_uri, tracer) == 3


async def test_a_chain_with_a_tracer_is_recorded_once_also_when_it_is_async_or_fails(
    store_uri: str, tracer: MlflowTracer
) -> None:
    mlflow.langchain.autolog()
    await chain().ainvoke(1, {"callbacks": [tracer]})
    async for _ in chain().astream(1, {"callbacks": [tracer]}):
        pass
    with pytest.raises(TypeError):
        await chain().ainvoke(None, {"callbacks": [tracer]})
    await chain().abatch([1, 2], {"callbacks": [tracer]})
    assert await asyncio.to_thread(counted, store_uri, tracer) == 5


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
    assert not tracer.stats()["mishaps"]


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
