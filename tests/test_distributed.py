"""Carries traces from one service to another, and reads the one trace from a real store."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import mlflow
import pytest
from langchain_core.runnables import RunnableLambda
from mlflow.tracing import (
    get_tracing_context_headers_for_http_request,
    set_tracing_context_from_http_request_headers,
)
from mlflow.tracing.trace_manager import InMemoryTraceManager

from langchain_mlflow_tracer import MlflowTracer, join_trace
from tests.conftest import MakeTracer
from tests.stored import Shape, shape, stored_traces

Headers = dict[str, str]


@pytest.fixture(autouse=True)
def own_mlflow(store_uri: str) -> Iterator[None]:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store_uri)
    yield
    mlflow.flush_trace_async_logging()
    mlflow.tracing.reset()  # type: ignore[no-untyped-call]
    InMemoryTraceManager.reset()  # type: ignore[no-untyped-call]
    mlflow.set_tracking_uri(before)


@pytest.fixture
def tracer(make_tracer: MakeTracer, store_uri: str) -> MlflowTracer:
    return make_tracer(store_uri)


SERVED: Shape = ("served", "CHAIN", [])


def serve(tracer: MlflowTracer) -> None:
    RunnableLambda[Any, Any](lambda number: number).with_config(run_name="served").invoke(
        1, {"callbacks": [tracer]}
    )


def elsewhere(service: Callable[[Headers], None], headers: Headers) -> None:
    """Run a service as if it were another process: nothing of the caller's context is there."""
    thread = threading.Thread(target=contextvars.Context().run, args=(service, headers))
    thread.start()
    thread.join()


def test_a_service_joins_the_trace_of_the_chain_that_calls_it(store_uri: str, tracer: MlflowTracer) -> None:
    def service(headers: Headers) -> None:
        with join_trace({"Traceparent": headers["traceparent"]}):
            serve(tracer)
            serve(tracer)

    call = RunnableLambda[Any, Any](lambda _: elsewhere(service, tracer.tracing_headers()))
    call.with_config(run_name="call").invoke(1, {"callbacks": [tracer]})
    (stored,) = stored_traces(store_uri, tracer)
    assert shape(stored) == ("call", "CHAIN", [SERVED, SERVED])
    assert stored.info.state.value == "OK"
    assert stored.info.tags["mlflow.traceName"] == "call"


async def test_mlflows_own_headers_join_both_ways(store_uri: str, tracer: MlflowTracer) -> None:
    def service(headers: Headers) -> None:
        with set_tracing_context_from_http_request_headers(headers):
            serve(tracer)

    async def work(_: int) -> None:
        await asyncio.to_thread(elsewhere, service, get_tracing_context_headers_for_http_request())

    call = RunnableLambda[Any, Any](work).with_config(run_name="call")
    await call.ainvoke(1, {"callbacks": [tracer]})
    (stored,) = await asyncio.to_thread(stored_traces, store_uri, tracer)
    assert shape(stored) == ("call", "CHAIN", [SERVED])


def test_a_service_joins_a_span_of_mlflow_that_calls_it(store_uri: str, tracer: MlflowTracer) -> None:
    def service(headers: Headers) -> None:
        with join_trace(headers):
            serve(tracer)

    with mlflow.start_span("outer"):
        elsewhere(service, get_tracing_context_headers_for_http_request())
    mlflow.flush_trace_async_logging()
    (stored,) = stored_traces(store_uri, tracer)
    assert shape(stored) == ("outer", "UNKNOWN", [SERVED])


def test_spans_of_mlflow_in_a_service_nest_below_its_chain(store_uri: str, tracer: MlflowTracer) -> None:
    def work(number: int) -> int:
        with mlflow.start_span("inside"):
            return number

    def service(headers: Headers) -> None:
        with set_tracing_context_from_http_request_headers(headers):
            RunnableLambda(work).with_config(run_name="served").invoke(1, {"callbacks": [tracer]})

    with mlflow.start_span("outer"):
        elsewhere(service, get_tracing_context_headers_for_http_request())
    mlflow.flush_trace_async_logging()
    (stored,) = stored_traces(store_uri, tracer)
    served: Shape = ("served", "CHAIN", [("inside", "UNKNOWN", [])])
    assert shape(stored) == ("outer", "UNKNOWN", [served])


@pytest.mark.parametrize(
    "text", ["", "nonsense", f"00-{'0' * 32}-{'1' * 16}-01", f"ff-{'1' * 32}-{'1' * 16}-01", "00-12-34-01"]
)
def test_what_is_no_traceparent_joins_nothing(store_uri: str, tracer: MlflowTracer, text: str) -> None:
    with join_trace({"traceparent": text}):
        serve(tracer)
    (stored,) = stored_traces(store_uri, tracer)
    assert shape(stored) == SERVED


def test_what_the_caller_does_not_record_is_not_recorded(store_uri: str, tracer: MlflowTracer) -> None:
    with join_trace({"traceparent": f"00-{'1' * 32}-{'2' * 16}-00"}):
        serve(tracer)
    assert stored_traces(store_uri, tracer) == []
    assert tracer.tracing_headers() == {}
