"""Takes away the private names of MLflow on which the bridge rests, one by one."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from langchain_mlflow_tracer import MlflowTracer
from langchain_mlflow_tracer.bridge import names
from tests.conftest import MakeTracer
from tests.stored import shape, stored_trace

NAMES = [
    ("mlflow.tracing.provider", "get_context_api"),
    ("mlflow.tracing.provider", "provider"),
    ("mlflow.tracing.trace_manager", "InMemoryTraceManager"),
    ("mlflow.tracing.context", "_USER_TRACE_CONTEXT"),
    ("mlflow.tracing.fluent", "_set_last_active_trace_id"),
    ("mlflow.tracing.fluent", "_LAST_ACTIVE_TRACE_ID_THREAD_LOCAL"),
    ("mlflow.tracking.fluent", "_get_latest_active_run"),
    ("mlflow.tracking.fluent", "_ACTIVE_MODEL_CONTEXT"),
    ("mlflow.tracing.utils.processor", "apply_span_processors"),
]


def test_every_name_is_there() -> None:
    assert names.find().is_enabled()


@pytest.mark.parametrize(("module", "name"), NAMES, ids=[name for _, name in NAMES])
def test_without_a_name_chains_are_traced_and_one_warning_says_so(
    module: str, name: str, make_tracer: MakeTracer, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.delattr(importlib.import_module(module), name)
    tracer: MlflowTracer = make_tracer("http://127.0.0.1:1", forwarder="none")
    with caplog.at_level(logging.WARNING, "langchain_mlflow_tracer"):
        for number in range(3):
            RunnableLambda(lambda one: one).invoke(number, {"callbacks": [tracer]})
    assert tracer.stats()["recorded"] == 3
    said = [record.getMessage() for record in caplog.records]
    assert len([text for text in said if "MLflow's own spans stand apart" in text]) == 1


def test_what_is_traced_without_the_bridge_is_stored(
    store_uri: str, make_tracer: MakeTracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracer = make_tracer(store_uri)
    monkeypatch.delattr(importlib.import_module("mlflow.tracing.context"), "_USER_TRACE_CONTEXT")
    RunnableLambda[Any, Any](lambda one: one).with_config(run_name="work").invoke(1, {"callbacks": [tracer]})
    monkeypatch.undo()
    assert shape(stored_trace(store_uri, tracer)) == ("work", "CHAIN", [])
