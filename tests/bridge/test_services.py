"""Calls a service that is a process of its own, and reads the one trace from a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_openai import AzureChatOpenAI
from mlflow.entities import Trace, TraceState
from mlflow.tracing import get_tracing_context_headers_for_http_request
from mlflow.tracking import MlflowClient
from opentelemetry import propagate
from opentelemetry.sdk.trace import TracerProvider

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer import MlflowTracer, protect_mlflow_tracing
from tests.conftest import MakeTracer, wait_for
from tests.end_to_end.test_delivery import waiting
from tests.support.called import Service, service
from tests.support.propagating import propagating
from tests.support.proxy import HEALTHY, REFUSING, FaultProxy
from tests.support.stored import Shape, root, shape

Headers = dict[str, str]
Out = Callable[[MlflowTracer], Headers]

EXPERIMENT = "distributed"

UNIFIED = {"MLFLOW_USE_DEFAULT_TRACER_PROVIDER": "false"}
"""Lets MLflow use OpenTelemetry's own context and provider."""

ENVIRON = {"MLFLOW_MODEL_CATALOG_URI": "", "MLFLOW_DISABLE_TELEMETRY": "true"}

LCEL: Shape = (
    "served",
    "CHAIN",
    [
        ("ChatPromptTemplate", "CHAIN", []),
        ("AzureChatOpenAI", "CHAT_MODEL", []),
        ("StrOutputParser", "PARSER", []),
    ],
)
GRAPH: Shape = ("served", "CHAIN", [("respond", "CHAIN", [("AzureChatOpenAI", "CHAT_MODEL", [])])])
SHAPES = {"lcel": LCEL, "graph": GRAPH}

SERVICES = {
    "plain": ({}, False),
    "mlflow": ({}, True),
    "unified": (UNIFIED, True),
}
"""Applications: one that does not import mlflow, and two that do."""


@pytest.fixture(scope="module")
def services(
    server: str, emulator: AzureEmulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Service]]:
    """Give out services, each started when a test first wants it."""
    started: dict[str, Service] = {}

    def find(name: str) -> Service:
        if name not in started:
            environ, uses_mlflow = SERVICES[name]
            settings = {
                "tracking_uri": server, "experiment": EXPERIMENT,
                "spool_dir": tmp_path_factory.mktemp(name), "tags": {"of": "the called"},
                "forwarder": "thread" if uses_mlflow else "process",
            }  # fmt: skip
            started[name] = Service(
                settings, {**ENVIRON, **environ}, azure=emulator.chat(), uses_mlflow=uses_mlflow
            )
        return started[name]

    yield find
    for one in started.values():
        one.stop()


@pytest.fixture
def store_uri(server: str) -> str:
    return server


@pytest.fixture(autouse=True)
def own_experiment(own_mlflow: None) -> None:  # noqa: ARG001 - it comes first
    mlflow.set_experiment(EXPERIMENT)


@pytest.fixture(autouse=True)
def own_propagators() -> Iterator[None]:
    with propagating():
        yield


@pytest.fixture
def tracer(make_tracer: MakeTracer, server: str) -> MlflowTracer:
    return make_tracer(server, EXPERIMENT, tags={"of": "the caller"}, metadata={"region": "north"})


@dataclass
class Both:
    """Who calls, in this process, and who is called."""

    tracer: MlflowTracer
    services: Callable[[str], Service]
    model: AzureChatOpenAI
    server: str

    def call(self, call: Callable[[], str]) -> str:
        """Return what a function returns that is called inside a chain."""
        return str(calling(self.model, call).invoke("Who?", {"callbacks": [self.tracer]}))

    def state(self, trace_id: str) -> str:
        """Ask the server itself for the state of a trace: of one that runs here, MLflow's client does not."""
        answer = httpx.get(f"{self.server}/api/3.0/mlflow/traces/{trace_id}").raise_for_status()
        return str(answer.json()["trace"]["trace_info"]["state"])

    def stored(self, trace_id: str) -> Trace:
        """Return a trace as the server has it."""
        trace: Trace = MlflowClient(self.server).get_trace(trace_id)
        return trace


@pytest.fixture
def both(
    tracer: MlflowTracer, services: Callable[[str], Service], model: AzureChatOpenAI, server: str
) -> Both:
    return Both(tracer, services, model, server)


# How a call leaves.


def by_ours(tracer: MlflowTracer) -> Headers:
    return tracer.tracing_headers()


def by_mlflow(_: MlflowTracer) -> Headers:
    return get_tracing_context_headers_for_http_request()


def by_opentelemetry(_: MlflowTracer) -> Headers:
    carrier: Headers = {}
    propagate.inject(carrier)
    return carrier


def by_instrumentation(tracer: MlflowTracer) -> Headers:
    """Do what an instrumented HTTP client does, where the SDK delivers elsewhere."""
    carrier = tracer.tracing_headers()
    with TracerProvider().get_tracer("client").start_as_current_span("POST"):
        propagate.inject(carrier)
    return carrier


OUT: dict[str, Out] = {
    "ours": by_ours, "mlflow": by_mlflow, "opentelemetry": by_opentelemetry,
    "instrumentation": by_instrumentation,
}  # fmt: skip


def post(address: str, headers: Headers) -> str:
    return str(httpx.post(address, headers=headers, timeout=60).raise_for_status().json())


def calling(model: AzureChatOpenAI, call: Callable[[], str]) -> Runnable[Any, Any]:
    """Return a chain that asks a model, and then a service, in a function of its own."""

    def work(question: str) -> str:
        model.invoke(question)
        return call()

    return RunnableLambda[Any, Any](work).with_config(run_name="call")


def check(trace: Trace, served: Shape) -> None:
    """Compare a stored trace with what both sides did: one root, right parents, state, tokens and facts."""
    assert shape(trace) == ("call", "CHAIN", [("AzureChatOpenAI", "CHAT_MODEL", []), served])
    assert trace.info.state is TraceState.OK
    assert trace.info.tags["mlflow.traceName"] == "call"
    assert trace.info.tags["of"] == "the caller"
    assert trace.info.trace_metadata["region"] == "north"
    assert "shard" not in trace.info.trace_metadata
    assert root(trace).inputs == "Who?"
    assert len([span for span in trace.data.spans if span.get_attribute("mlflow.chat.tokenUsage")]) == 2


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("kind", ["lcel", "graph"])
@pytest.mark.parametrize(
    ("name", "out", "join"),
    [
        ("plain", "ours", "join_trace"),
        ("plain", "opentelemetry", "opentelemetry"),
        ("mlflow", "mlflow", "mlflow"),
    ],
)
def test_a_service_in_another_process_joins_the_trace_of_its_caller(  # noqa: PLR0917 - by name
    name: str, out: str, join: str, kind: str, way: str, both: Both
) -> None:
    called = both.services(name).address
    joined = both.call(lambda: post(f"{called}/{way}/{join}/{kind}", OUT[out](both.tracer)))
    assert joined == both.tracer.last_trace_id
    assert both.tracer.flush(60)
    assert httpx.post(f"{called}/flush", timeout=60).json() is True
    check(both.stored(joined), SHAPES[kind])
    assert httpx.get(f"{called}/stats").json()["knows_mlflow"] is (name != "plain")


WAYS = [
    (out, join)
    for out in OUT
    for join in ("join_trace", "mlflow", "opentelemetry", "instrumentation")
    if out != "mlflow" or join in {"join_trace", "mlflow"}
]
"""How a call leaves, and how it is received. MLflow writes no mark, which OpenTelemetry's ways need."""


@pytest.mark.parametrize(("out", "join"), WAYS)
@pytest.mark.parametrize("name", ["mlflow", "unified"])
def test_a_service_that_stores_its_part_first_joins_its_caller_for_every_kind_of_headers(
    name: str, out: str, join: str, both: Both
) -> None:
    called = both.services(name).address

    def call() -> str:
        joined = post(f"{called}/sync/{join}/lcel", OUT[out](both.tracer))
        assert httpx.post(f"{called}/flush", timeout=60).json() is True
        assert both.state(joined) == "IN_PROGRESS"
        return joined

    joined = both.call(call)
    assert joined == both.tracer.last_trace_id
    assert both.tracer.flush(60)
    check(both.stored(joined), LCEL)


@pytest.mark.parametrize("join", ["join_trace", "mlflow"])
def test_an_mlflow_span_that_calls_a_service_is_the_parent_of_the_chain_in_the_service(
    join: str, both: Both
) -> None:
    called = both.services("plain" if join == "join_trace" else "mlflow").address

    def call() -> str:
        with mlflow.start_span("between"):
            return post(f"{called}/sync/{join}/lcel", by_mlflow(both.tracer))

    joined = both.call(call)
    assert both.tracer.flush(60)
    assert httpx.post(f"{called}/flush", timeout=60).json() is True
    between: Shape = ("between", "UNKNOWN", [LCEL])
    assert shape(both.stored(joined)) == ("call", "CHAIN", [("AzureChatOpenAI", "CHAT_MODEL", []), between])


@pytest.mark.parametrize(
    "switch", ["MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT", "MLFLOW_USE_DEFAULT_TRACER_PROVIDER"]
)
@pytest.mark.parametrize("out", OUT)
def test_a_service_joins_a_caller_whose_mlflow_uses_the_context_of_opentelemetry(
    out: str, switch: str, both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.tracing.reset()  # type: ignore[no-untyped-call]
    monkeypatch.setenv(switch, "false" if switch.endswith("PROVIDER") else "true")
    called = both.services("plain").address
    join = "join_trace" if out == "mlflow" else "opentelemetry"
    joined = both.call(lambda: post(f"{called}/sync/{join}/graph", OUT[out](both.tracer)))
    mlflow.tracing.reset()  # type: ignore[no-untyped-call]
    assert joined == both.tracer.last_trace_id
    assert both.tracer.flush(60)
    assert httpx.post(f"{called}/flush", timeout=60).json() is True
    check(both.stored(joined), GRAPH)


# What is between two services.


TRACE, SPAN = "5" * 32, "6" * 16


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("join", ["opentelemetry", "instrumentation"])
@pytest.mark.parametrize("flags", ["01", "00"])
def test_a_service_records_its_own_trace_if_a_gateway_sends_a_traceparent(
    name: str, join: str, flags: str, both: Both
) -> None:
    called = both.services(name).address
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-{flags}", "tracestate": "vendor=1"}
    own = post(f"{called}/sync/{join}/lcel", headers)
    assert own != f"tr-{TRACE}"
    assert httpx.post(f"{called}/flush", timeout=60).json() is True
    trace = both.stored(own)
    assert shape(trace) == LCEL
    assert trace.info.state is TraceState.OK
    linked = [link.trace_id for link in root(trace).links]
    assert linked == ([f"tr-{TRACE}"] if flags == "01" else [])


@pytest.mark.parametrize("join", ["join_trace", "mlflow", "opentelemetry", "instrumentation"])
@pytest.mark.parametrize("out", ["ours", "opentelemetry"])
def test_a_service_joins_its_caller_if_a_mesh_replaces_the_traceparent(
    out: str, join: str, both: Both
) -> None:
    called = both.services("mlflow").address

    def call() -> str:
        headers = OUT[out](both.tracer) | {"traceparent": f"00-{TRACE}-{SPAN}-00"}
        return post(
            f"{called}/sync/{join}/lcel", {**headers, "tracestate": f"mesh=1,{headers['tracestate']}"}
        )

    joined = both.call(call)
    assert joined == both.tracer.last_trace_id
    assert both.tracer.flush(60)
    assert httpx.post(f"{called}/flush", timeout=60).json() is True
    check(both.stored(joined), LCEL)


@pytest.mark.parametrize(("out", "join"), WAYS)
def test_a_service_in_another_process_does_not_record_a_call_that_its_caller_does_not_record(
    out: str, join: str, both: Both, make_tracer: MakeTracer
) -> None:
    both.tracer = make_tracer(both.server, EXPERIMENT, sample_rate=0)
    called = both.services("mlflow").address
    before = httpx.get(f"{called}/stats").json()["recorded"]
    said: list[Headers] = []

    def call() -> str:
        said.append(OUT[out](both.tracer))
        return post(f"{called}/sync/{join}/lcel", said[0])

    both.call(call)
    assert said[0]["traceparent" if out == "mlflow" else "tracestate"].endswith("-00")
    assert httpx.get(f"{called}/stats").json()["recorded"] == before


@pytest.mark.parametrize("join", ["opentelemetry", "instrumentation"])
def test_a_service_links_a_call_with_mlflow_headers_that_opentelemetry_receives(
    join: str, both: Both
) -> None:
    called = both.services("mlflow").address
    own = both.call(lambda: post(f"{called}/sync/{join}/lcel", by_mlflow(both.tracer)))
    assert own != both.tracer.last_trace_id
    assert httpx.post(f"{called}/flush", timeout=60).json() is True
    trace = both.stored(own)
    assert shape(trace) == LCEL
    assert [link.trace_id for link in root(trace).links] == [both.tracer.last_trace_id]


# What goes wrong.


@pytest.mark.parametrize("first", ["caller", "called"])
def test_pending_parts_of_caller_and_service_are_stored_once_under_one_root(  # noqa: PLR0917 - fixtures
    first: str, server: str, model: AzureChatOpenAI, emulator: AzureEmulator,
    make_tracer: MakeTracer, tmp_path: Path,
) -> None:  # fmt: skip
    with FaultProxy(server) as north, FaultProxy(server) as south:
        north.fault = south.fault = REFUSING
        tracer = make_tracer(
            north.address, EXPERIMENT, tags={"of": "the caller"}, metadata={"region": "north"}
        )
        both = Both(tracer, lambda _: called, model, server)
        settings = {"tracking_uri": south.address, "experiment": EXPERIMENT, "spool_dir": tmp_path / "called"}
        with service(settings, ENVIRON, azure=emulator.chat()) as called:
            joined = both.call(
                lambda: post(f"{called.address}/async/join_trace/graph", tracer.tracing_headers())
            )
            wait_for(lambda: tracer.stats()["waiting"] == 1)
            wait_for(lambda: httpx.get(f"{called.address}/stats").json()["waiting"] == 1)
            flushes: dict[str, tuple[FaultProxy, Callable[[], object], str]] = {
                "caller": (north, lambda: tracer.flush(60), "OK"),
                "called": (
                    south,
                    lambda: httpx.post(f"{called.address}/flush", timeout=90).json(),
                    "IN_PROGRESS",
                ),
            }
            for name in sorted(flushes, key=lambda name: name != first):
                proxy, flush, state = flushes[name]
                proxy.fault = HEALTHY
                assert flush() is True
                assert both.state(joined) == (state if name == first else "OK")
    check(both.stored(joined), GRAPH)


@pytest.mark.parametrize("first", ["caller", "called"])
def test_a_service_in_another_process_joins_the_trace_of_a_calling_mlflow_span(
    first: str, server: str, emulator: AzureEmulator, tracer: MlflowTracer, tmp_path: Path
) -> None:
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    with FaultProxy(server) as south:
        south.fault = REFUSING if first == "caller" else HEALTHY
        settings = {"tracking_uri": south.address, "experiment": EXPERIMENT, "spool_dir": tmp_path / "called"}
        with service(settings, ENVIRON, azure=emulator.chat()) as called:
            if first == "called":  # else MLflow's exporter would write a total of its own spans alone
                protect_mlflow_tracing(tracer)
            with mlflow.start_span("outer"):
                with mlflow.start_span("own") as own:
                    own.set_attribute("mlflow.chat.tokenUsage", usage)
                headers = get_tracing_context_headers_for_http_request()
                joined = post(f"{called.address}/sync/join_trace/lcel", headers)
                if first == "called":
                    assert httpx.post(f"{called.address}/flush", timeout=90).json() is True
            mlflow.flush_trace_async_logging()
            assert tracer.flush(60)
            south.fault = HEALTHY
            assert httpx.post(f"{called.address}/flush", timeout=90).json() is True
    trace = MlflowClient(server).get_trace(joined)
    assert shape(trace) == ("outer", "UNKNOWN", [("own", "UNKNOWN", []), LCEL])
    assert trace.info.state is TraceState.OK
    if first == "called":  # what comes after the metadata of a trace, MLflow does not count
        usages = [span.get_attribute("mlflow.chat.tokenUsage") for span in trace.data.spans]
        total = sum(one["total_tokens"] for one in usages if one)
        assert (trace.info.token_usage or {})["total_tokens"] == total > usage["total_tokens"]


def test_a_service_that_is_killed_after_its_answer_loses_no_trace(
    server: str, model: AzureChatOpenAI, emulator: AzureEmulator, make_tracer: MakeTracer, tmp_path: Path,
) -> None:  # fmt: skip
    tracer = make_tracer(server, EXPERIMENT, tags={"of": "the caller"}, metadata={"region": "north"})
    with FaultProxy(server) as south:
        south.fault = REFUSING
        settings = {
            "tracking_uri": south.address, "experiment": EXPERIMENT, "spool_dir": tmp_path / "called",
            "durability": "sync",
        }  # fmt: skip
        with service(settings, ENVIRON, azure=emulator.chat()) as called:
            both = Both(tracer, lambda _: called, model, server)

            def call() -> str:
                joined = post(f"{called.address}/sync/join_trace/lcel", tracer.tracing_headers())
                called.kill()
                return joined

            joined = both.call(call)
        assert tracer.flush(60)
        assert len(both.stored(joined).data.spans) == 2
        south.fault = HEALTHY
        make_tracer(south.address, EXPERIMENT, spool_dir=tmp_path / "called")
        wait_for(lambda: waiting(tmp_path / "called") == 0, timeout=60)
    check(both.stored(joined), LCEL)
