"""Turns MLflow's own recording of chains on beside a tracer, and reads the warning and what is stored."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import mlflow
import mlflow.langchain
import mlflow.openai
import pytest
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_openai import AzureChatOpenAI
from mlflow.entities import Trace
from mlflow.utils.autologging_utils import AUTOLOGGING_INTEGRATIONS

from langchain_mlflow_tracer import MlflowTracer, install
from tests.conftest import MakeTracer
from tests.support.stored import named, shape, stored_traces

pytestmark = pytest.mark.usefixtures("own_mlflow")

TWICE = (
    "autolog is on too: chains are recorded twice; switch it off by mlflow.langchain.autolog(disable=True)"
)


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


@pytest.mark.parametrize("is_installed", [False, True])
def test_the_tracer_warns_once_if_autolog_records_chains_too(
    tracer: MlflowTracer, caplog: pytest.LogCaptureFixture, *, is_installed: bool
) -> None:
    if is_installed:
        install(tracer)
    chain().invoke(0, {"callbacks": [tracer]})
    mlflow.langchain.autolog()
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            chain().invoke(number, {"callbacks": [tracer]})
    assert [record.message for record in caplog.records] == [TWICE]
    assert tracer.stats()["problems"] == {"autolog_on": 1}
    assert tracer.stats()["recorded"] == 4


def test_the_tracer_does_not_warn_if_autolog_is_only_imported_or_switched_off(
    store_uri: str, tracer: MlflowTracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as imported:
        imported.setitem(AUTOLOGGING_INTEGRATIONS, "langchain", {})
        chain().invoke(1, {"callbacks": [tracer]})
    mlflow.langchain.autolog()
    mlflow.langchain.autolog(disable=True)
    chain().invoke(1, {"callbacks": [tracer]})
    assert not tracer.stats()["problems"]
    assert counted(store_uri, tracer) == 2


@pytest.mark.parametrize("is_async", [False, True])
async def test_spans_of_the_openai_client_nest_below_the_model_that_makes_the_call(
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
