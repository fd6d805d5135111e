"""Carries traces from one service to another, and reads the one trace from a real store."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import subprocess
import sys
import threading
import tomllib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from langchain_core.runnables import RunnableLambda
from mlflow.tracing import (
    get_tracing_context_headers_for_http_request,
    set_tracing_context_from_http_request_headers,
)
from opentelemetry.propagate import inject
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState, set_span_in_context

from langchain_mlflow_tracer import MlflowTracer, join_trace
from tests.conftest import MakeTracer
from tests.support.operating import ROOT, environment
from tests.support.propagating import propagating
from tests.support.stored import Shape, named, shape, stored_traces

pytestmark = pytest.mark.usefixtures("own_mlflow")

Headers = dict[str, str]
Join = Callable[[Headers], contextlib.AbstractContextManager[None]]


@pytest.fixture(autouse=True)
def own_propagators() -> Iterator[None]:
    with propagating():
        yield


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


def test_a_service_joins_the_trace_of_the_calling_chain(store_uri: str, tracer: MlflowTracer) -> None:
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


async def test_a_service_joins_the_trace_of_the_calling_chain_through_the_headers_of_mlflow(
    store_uri: str, tracer: MlflowTracer
) -> None:
    def service(headers: Headers) -> None:
        with set_tracing_context_from_http_request_headers(headers):
            serve(tracer)

    async def work(_: int) -> None:
        await asyncio.to_thread(elsewhere, service, get_tracing_context_headers_for_http_request())

    call = RunnableLambda[Any, Any](work).with_config(run_name="call")
    await call.ainvoke(1, {"callbacks": [tracer]})
    (stored,) = await asyncio.to_thread(stored_traces, store_uri, tracer)
    assert shape(stored) == ("call", "CHAIN", [SERVED])


def test_a_service_joins_the_trace_of_the_calling_mlflow_span(store_uri: str, tracer: MlflowTracer) -> None:
    def service(headers: Headers) -> None:
        with join_trace(headers):
            serve(tracer)

    with mlflow.start_span("outer"):
        elsewhere(service, get_tracing_context_headers_for_http_request())
    mlflow.flush_trace_async_logging()
    (stored,) = stored_traces(store_uri, tracer)
    assert shape(stored) == ("outer", "UNKNOWN", [SERVED])


def test_mlflow_spans_in_a_service_nest_below_the_chain_of_the_service(
    store_uri: str, tracer: MlflowTracer
) -> None:
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
def test_a_service_joins_no_trace_from_an_invalid_traceparent(
    store_uri: str, tracer: MlflowTracer, text: str
) -> None:
    with join_trace({"traceparent": text}):
        serve(tracer)
    (stored,) = stored_traces(store_uri, tracer)
    assert shape(stored) == SERVED


MARK = "langchain-mlflow-tracer"
ONE, TWO = "1" * 32, "2" * 32


@pytest.mark.parametrize(
    ("state", "is_marked"),
    [
        ("", False),
        ("vendor=1,other=2", False),
        (f"{MARK}=nonsense", False),
        (f"vendor=1, {MARK}=00-%s-{'4' * 16}-01 ,other=2", True),
    ],
)
def test_a_valid_tracestate_entry_of_the_tracer_overrides_the_traceparent(
    store_uri: str, tracer: MlflowTracer, state: str, *, is_marked: bool
) -> None:
    one, two = uuid.uuid4().hex, uuid.uuid4().hex
    state = state % two if is_marked else state
    with join_trace({"TraceParent": f"00-{one}-{'3' * 16}-01", "TraceState": state}):
        serve(tracer)
    (stored,) = stored_traces(store_uri, tracer)
    assert stored.info.trace_id == f"tr-{two if is_marked else one}"
    assert [span.parent_id for span in stored.data.spans] == ["4" * 16 if is_marked else "3" * 16]


def by_mesh(headers: Headers) -> Headers:
    """Do what a mesh does that takes part in the trace: put its own span between the two."""
    version, trace_id, _, flags = headers["traceparent"].split("-")
    return {**headers, "traceparent": f"{version}-{trace_id}-{'e' * 16}-{flags}"}


@pytest.mark.parametrize("join", [join_trace, set_tracing_context_from_http_request_headers])
def test_a_service_joins_the_calling_chain_if_a_mesh_replaces_the_parent_span(
    store_uri: str, tracer: MlflowTracer, join: Join
) -> None:
    def service(headers: Headers) -> None:
        with join(by_mesh(headers)):
            serve(tracer)

    def work(_: int) -> None:
        elsewhere(service, tracer.tracing_headers())

    RunnableLambda(work).with_config(run_name="call").invoke(1, {"callbacks": [tracer]})
    (stored,) = stored_traces(store_uri, tracer)
    assert shape(stored) == ("call", "CHAIN", [SERVED])


def test_a_call_that_an_mlflow_span_passes_on_nests_below_the_first_calling_run(
    store_uri: str, tracer: MlflowTracer
) -> None:
    """MLflow passes the mark on as it was, so it cannot be told from a mesh."""

    def last(headers: Headers) -> None:
        with join_trace(headers):
            serve(tracer)

    def middle(headers: Headers) -> None:
        with set_tracing_context_from_http_request_headers(headers), mlflow.start_span("middle"):
            elsewhere(last, get_tracing_context_headers_for_http_request())

    call = RunnableLambda[Any, Any](lambda _: elsewhere(middle, tracer.tracing_headers()))
    call.with_config(run_name="call").invoke(1, {"callbacks": [tracer]})
    (stored,) = stored_traces(store_uri, tracer)
    assert named(stored, "served").parent_id == named(stored, "call").span_id


def test_a_tracestate_entry_of_the_tracer_is_ignored_without_a_traceparent(
    store_uri: str, tracer: MlflowTracer
) -> None:
    with join_trace({"tracestate": f"{MARK}=00-{TWO}-{'4' * 16}-01"}):
        serve(tracer)
    (stored,) = stored_traces(store_uri, tracer)
    assert shape(stored) == SERVED


def test_the_propagator_keeps_the_traceparent_of_an_opentelemetry_span_inside_a_run(
    tracer: MlflowTracer,
) -> None:
    theirs = SpanContext(
        int(ONE, 16), 3, is_remote=False, trace_flags=TraceFlags(1),
        trace_state=TraceState([("vendor", "1"), (MARK, "old")]),
    )  # fmt: skip
    said: list[Headers] = [{}]

    def work(_: int) -> None:
        inject(said[0], set_span_in_context(NonRecordingSpan(theirs)))
        said.append(tracer.tracing_headers())

    RunnableLambda(work).invoke(1, {"callbacks": [tracer]})
    injected, ours = said
    assert injected["traceparent"] == f"00-{ONE}-{'0' * 15}3-01"
    assert injected["tracestate"] == f"{ours['tracestate']},vendor=1"


def test_the_propagator_keeps_the_headers_of_an_opentelemetry_span_outside_of_runs(
    tracer: MlflowTracer,
) -> None:
    serve(tracer)
    state = TraceState([("vendor", "1"), (MARK, f"00-{ONE}-{'4' * 16}-01")])
    theirs = SpanContext(int(ONE, 16), 3, is_remote=False, trace_flags=TraceFlags(1), trace_state=state)
    injected: Headers = {}
    inject(injected, set_span_in_context(NonRecordingSpan(theirs)))
    assert injected == {"traceparent": f"00-{ONE}-{'0' * 15}3-01", "tracestate": state.to_header()}


APPLICATION = """
import json, sys
from opentelemetry import propagate
assert not {"langchain_core", "opentelemetry.sdk.trace"} & set(sys.modules)  # the propagator is cheap to load
from langchain_core.runnables import RunnableLambda
from langchain_mlflow_tracer import MlflowTracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

tracer = MlflowTracer("http://127.0.0.1:1", forwarder="none", spool_dir=sys.argv[1])

def call(_):
    carriers = {}, {}
    propagate.inject(carriers[0])
    TraceContextTextMapPropagator().inject(carriers[1])
    return [tracer.tracing_headers(), *carriers]

print(json.dumps(RunnableLambda(call).invoke(1, {"callbacks": [tracer]})))
"""


@pytest.mark.parametrize(
    "names", ["tracecontext,baggage,langchain-mlflow-tracer", "langchain-mlflow-tracer,baggage"]
)
def test_opentelemetry_loads_the_propagator_by_name_and_keeps_its_own_class_unchanged(
    tmp_path: Path, names: str
) -> None:
    points = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    metadata = tmp_path / "named-1.0.dist-info"  # as an installer writes it
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: named\nVersion: 1.0\n")
    lines = [f"{name} = {home}" for name, home in points["opentelemetry_propagator"].items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[opentelemetry_propagator]", *lines, ""]))
    ended = subprocess.run(
        [sys.executable, "-c", APPLICATION, str(tmp_path / "spool")], capture_output=True, text=True,
        env={**environment(), "OTEL_PROPAGATORS": names, "PYTHONPATH": str(tmp_path)},
        timeout=100, check=False, cwd=ROOT,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    ours, by_name, by_class = json.loads(ended.stdout)
    assert by_name == ours
    assert by_class == {}


def test_the_tracer_writes_no_headers_outside_of_runs(tracer: MlflowTracer) -> None:
    serve(tracer)
    carrier: Headers = {}
    inject(carrier)
    assert carrier == tracer.tracing_headers() == {}


def test_a_service_records_nothing_while_mlflow_tracing_is_disabled(
    store_uri: str, tracer: MlflowTracer
) -> None:
    mlflow.tracing.disable()
    try:
        with join_trace({"traceparent": f"00-{ONE}-{'3' * 16}-01"}):
            serve(tracer)
    finally:
        mlflow.tracing.enable()
    assert stored_traces(store_uri, tracer) == []


def test_a_service_does_not_record_a_call_that_its_caller_does_not_record(
    store_uri: str, tracer: MlflowTracer
) -> None:
    with join_trace({"traceparent": f"00-{'1' * 32}-{'2' * 16}-00"}):
        serve(tracer)
    assert stored_traces(store_uri, tracer) == []
    assert tracer.tracing_headers() == {}
