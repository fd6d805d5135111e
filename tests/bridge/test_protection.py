"""Sends what MLflow traces itself through the spool, and reads it from a real store."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import mlflow
import pytest
from langchain_core.runnables import RunnableLambda
from mlflow.tracing import set_tracing_context_from_http_request_headers

from langchain_mlflow_tracer import MlflowTracer, protect_mlflow_tracing
from langchain_mlflow_tracer.spool.spool import Spool
from tests.conftest import MakeTracer
from tests.support.server import free_port
from tests.support.stored import Client, Shape, named, own_experiment, shape, stored_traces

pytestmark = pytest.mark.usefixtures("own_mlflow")


@pytest.fixture
def tracer(store_uri: str, make_tracer: MakeTracer) -> MlflowTracer:
    return protect_mlflow_tracing(make_tracer(store_uri))


@mlflow.trace(span_type="TOOL")
def add(first: int, second: int) -> int:
    return first + second


DOUBLE = RunnableLambda[Any, Any](lambda number: number * 2).with_config(run_name="double")


def test_a_protected_mlflow_trace_is_stored_with_all_its_fields(store_uri: str, tracer: MlflowTracer) -> None:
    with mlflow.start_span("outer") as outer:
        outer.set_inputs({"question": "why?"})
        mlflow.update_current_trace(tags={"color": "red"}, session_id="s-1", client_request_id="request-1")
        add(1, 2)
        outer.set_outputs("because")
    (stored,) = stored_traces(store_uri, tracer)
    assert shape(stored) == ("outer", "UNKNOWN", [("add", "TOOL", [])])
    info = stored.info
    assert (named(stored, "add").inputs, named(stored, "add").outputs) == ({"first": 1, "second": 2}, 3)
    assert (info.trace_id, info.client_request_id, info.state.value) == (outer.trace_id, "request-1", "OK")
    assert (info.tags["color"], info.trace_metadata["mlflow.trace.session"]) == ("red", "s-1")
    assert "why?" in str(info.request_preview)
    assert info.response_preview == "because" or "because" in str(info.response_preview)


async def test_chains_inside_a_protected_mlflow_trace_are_stored_in_that_trace(
    store_uri: str, tracer: MlflowTracer
) -> None:
    @mlflow.trace
    async def ask() -> None:
        await DOUBLE.ainvoke(1, {"callbacks": [tracer]})
        await DOUBLE.abatch([1, 2], {"callbacks": [tracer]})

    await ask()
    (stored,) = await asyncio.to_thread(stored_traces, store_uri, tracer)
    doubles: list[Shape] = [("double", "CHAIN", [])] * 3
    assert shape(stored) == ("ask", "UNKNOWN", doubles)


def test_a_new_tracer_provider_of_mlflow_is_protected_too(store_uri: str, tracer: MlflowTracer) -> None:
    mlflow.set_tracking_uri(store_uri)
    mlflow.tracing.set_destination(mlflow.entities.trace_location.MlflowExperimentLocation(own_experiment()))
    add(1, 2)
    assert len(stored_traces(store_uri, tracer)) == 1


def test_secrets_in_protected_mlflow_traces_are_masked(store_uri: str, tracer: MlflowTracer) -> None:
    key = "sk-proj-" + "a1B2" * 12
    with mlflow.start_span("outer") as outer:
        outer.set_inputs(key)
    (stored,) = stored_traces(store_uri, tracer)
    assert key not in stored.to_json()


def test_a_protected_part_of_a_remote_trace_goes_to_the_experiment_that_is_set_in_mlflow(
    store_uri: str, tracer: MlflowTracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Client(store_uri).create_experiment("told")
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", experiment)
    joined = uuid.uuid4().hex
    with set_tracing_context_from_http_request_headers({"traceparent": f"00-{joined}-{'2' * 16}-01"}):
        add(1, 2)
    (stored,) = stored_traces(store_uri, tracer, experiment)
    assert [(span.name, span.trace_id) for span in stored.data.spans] == [("add", f"tr-{joined}")]


APPLICATION = """
import mlflow, time
from mlflow.entities.trace_location import MlflowExperimentLocation
from langchain_mlflow_tracer import MlflowTracer, protect_mlflow_tracing
mlflow.set_tracking_uri({uri!r})
mlflow.tracing.set_destination(MlflowExperimentLocation("0"))
protect_mlflow_tracing(MlflowTracer(spool_dir={spool!r}, exit_timeout=1.0))
@mlflow.trace
def ask():
    return "answer"
for _ in range(20):
    ask()
print(time.time())
"""


def test_an_unavailable_server_does_not_delay_the_exit_and_loses_no_protected_trace(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    code = APPLICATION.format(uri=f"http://127.0.0.1:{free_port()}", spool=str(spool))
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=100
    )
    assert time.time() - float(done.stdout) < 10
    assert Spool(spool, max_bytes=2**40).figures.waiting() == 20
