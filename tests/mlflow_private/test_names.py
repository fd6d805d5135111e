"""Takes away the private names of MLflow, one by one: what rests on them is off, and chains are traced."""

from __future__ import annotations

import ast
import importlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import mlflow.langchain
import pytest
from langchain_core.runnables import RunnableLambda

import langchain_mlflow_tracer
from langchain_mlflow_tracer import MlflowTracer, protect_mlflow_tracing, unprotect_mlflow_tracing
from langchain_mlflow_tracer.mlflow_private import Gone, configured, exporter, store, tracing
from langchain_mlflow_tracer.mlflow_private.evaluation import is_evaluating
from tests.conftest import MakeTracer
from tests.support.stored import shape, stored_trace
from tests.support.versions import needs_whole_mlflow

Take = Callable[[str], None]
"""Takes a name away, e.g. `mlflow.tracing.provider:provider.get`."""

JOINING = [
    "mlflow.tracing.provider:get_context_api",
    "mlflow.tracing.provider:provider",
    "mlflow.tracing.trace_manager:InMemoryTraceManager",
    "mlflow.tracing.trace_manager:_Trace",
    "mlflow.tracing.trace_manager:InMemoryTraceManager.register_trace",
    "mlflow.tracing.context:_USER_TRACE_CONTEXT",
    "mlflow.tracing.fluent:_set_last_active_trace_id",
    "mlflow.tracing.fluent:_LAST_ACTIVE_TRACE_ID_THREAD_LOCAL",
    "mlflow.tracking.fluent:_get_latest_active_run",
    "mlflow.tracking.fluent:_active_run_stack",
    "mlflow.tracking.fluent:_ACTIVE_MODEL_CONTEXT",
    "mlflow.tracking.fluent:_get_active_model_id_global",
    "mlflow.tracing.config:get_config",
    "mlflow.tracing.utils.processor:apply_span_processors",
    "mlflow.entities.span:LiveSpan",
    "opentelemetry.context:_RUNTIME_CONTEXT",
]

DESTINATIONS = [
    "mlflow.tracking._tracking_service.utils:_tracking_uri",
    "mlflow.tracing.provider:_MLFLOW_TRACE_USER_DESTINATION",
    "mlflow.tracking.fluent:_get_latest_active_run",
    "mlflow.tracking.fluent:_active_experiment_id",
]

EXPORTING = [
    "mlflow.tracing.export.mlflow_v3:MlflowV3SpanExporter",
    "mlflow.tracing.export.mlflow_v3:MlflowV3SpanExporter.__init__",
    "mlflow.tracing.export.mlflow_v3:MlflowV3SpanExporter._export_traces",
    "mlflow.tracing.export.mlflow_v3:MlflowV3SpanExporter._log_trace",
    "mlflow.tracing.export.mlflow_v3:MlflowV3SpanExporter._should_log_async",
    "mlflow.tracing.processor.base_mlflow:BaseMlflowSpanProcessor",
    "mlflow.tracing.processor.base_mlflow:BaseMlflowSpanProcessor.__init__",
    "mlflow.tracing.processor.base_mlflow:BaseMlflowSpanProcessor._on_end_impl",
    "mlflow.tracing.utils:maybe_get_request_id",
]


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Take:
    def taken(name: str) -> None:
        module, _, path = name.partition(":")
        owner: Any = importlib.import_module(module)
        *owners, last = path.split(".")
        for one in owners:
            owner = getattr(owner, one)
        if last == "__init__":  # what it sets is gone
            monkeypatch.setattr(owner, last, lambda *_: None)
        else:
            monkeypatch.delattr(owner, last)

    return taken


@pytest.fixture
def tracer(make_tracer: MakeTracer) -> MlflowTracer:
    return make_tracer("http://127.0.0.1:1", forwarder="none")


def said_while_traced(tracer: MlflowTracer, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Trace three chains, and return what was said."""
    with caplog.at_level(logging.WARNING, "langchain_mlflow_tracer"):
        for number in range(3):
            RunnableLambda(lambda one: one).invoke(number, {"callbacks": [tracer]})
    assert tracer.stats()["recorded"] == 3
    return [record.getMessage() for record in caplog.records]


def test_the_installed_mlflow_has_every_private_name() -> None:
    assert tracing.find().is_enabled()
    assert exporter.find().exporter
    assert len(configured.experiment_ids()) == 2
    configured.destination()
    configured.tracking_uri()


@pytest.mark.parametrize("name", JOINING)
def test_chains_are_traced_with_one_warning_if_mlflow_lacks_a_name_for_joining_spans(
    name: str, tracer: MlflowTracer, take: Take, caplog: pytest.LogCaptureFixture
) -> None:
    take(name)
    said = said_while_traced(tracer, caplog)
    assert len([text for text in said if "this mlflow version is not supported (" in text]) == 1


def test_chains_are_traced_with_one_warning_if_the_lookup_of_private_names_raises(
    tracer: MlflowTracer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("another MLflow")

    monkeypatch.setattr(tracing, "find", fail)
    said = said_while_traced(tracer, caplog)
    assert len([text for text in said if "not supported (RuntimeError)" in text]) == 1


def test_a_chain_keeps_its_trace_if_mlflow_raises_when_the_chain_starts(
    store_uri: str, make_tracer: MakeTracer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracer = make_tracer(store_uri)
    double = RunnableLambda[int, int](lambda number: number * 2).with_config(run_name="double")
    double.invoke(1, {"callbacks": [tracer]})
    with monkeypatch.context() as broken:
        broken.setattr("mlflow.tracking.fluent._active_run_stack", None)
        double.invoke(2, {"callbacks": [tracer]})
    stored = stored_trace(store_uri, tracer)
    assert shape(stored) == ("double", "CHAIN", [])
    assert (stored.data.spans[0].inputs, stored.data.spans[0].outputs) == (2, 4)
    assert caplog.text.count("MLflow's own spans are not joined with a chain: AttributeError") == 1


@pytest.mark.parametrize("name", DESTINATIONS)
def test_chains_are_traced_with_one_warning_if_mlflow_lacks_a_name_for_destinations(
    name: str, make_tracer: MakeTracer, take: Take, caplog: pytest.LogCaptureFixture
) -> None:
    tracer = make_tracer(forwarder="none")
    take(name)
    said = [text for text in said_while_traced(tracer, caplog) if "ignoring the destination" in text]
    assert len(said) == 1
    assert "sqlite:///" in said[0]


@pytest.mark.parametrize("name", EXPORTING)
def test_mlflow_is_not_protected_and_a_warning_is_logged_if_mlflow_lacks_a_name_for_exporting(
    name: str, tracer: MlflowTracer, take: Take, caplog: pytest.LogCaptureFixture
) -> None:
    take(name)
    try:
        assert protect_mlflow_tracing(tracer) is tracer
    finally:
        unprotect_mlflow_tracing()
    assert [text for text in said_while_traced(tracer, caplog) if "not protected" in text]


@pytest.mark.usefixtures("own_mlflow")
def test_chains_are_traced_without_a_warning_if_mlflow_lacks_the_table_of_integrations(
    tracer: MlflowTracer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as changed:
        changed.delattr("mlflow.utils.autologging_utils.AUTOLOGGING_INTEGRATIONS")
        assert not said_while_traced(tracer, caplog)


@needs_whole_mlflow
def test_is_evaluating_raises_gone_if_mlflow_lacks_the_prediction_context(take: Take) -> None:
    take("mlflow.pyfunc.context:get_prediction_context")
    with pytest.raises(Gone, match="get_prediction_context"):
        is_evaluating()


@needs_whole_mlflow
@pytest.mark.usefixtures("own_mlflow")
def test_chains_are_traced_with_one_warning_if_mlflow_lacks_the_prediction_context(
    make_tracer: MakeTracer, take: Take, caplog: pytest.LogCaptureFixture
) -> None:
    take("mlflow.pyfunc.context:get_prediction_context")
    said = said_while_traced(make_tracer("http://127.0.0.1:1", forwarder="none"), caplog)
    (text,) = [text for text in said if "evaluat" in text]
    assert "get_prediction_context" in text


@needs_whole_mlflow
def test_the_installed_mlflow_has_the_store_and_its_schema_revision(store_uri: str) -> None:
    assert store.revision()
    assert store.open_store(store_uri).log_spans


@needs_whole_mlflow
def test_revision_raises_gone_if_mlflow_lacks_the_schema_revision(take: Take) -> None:
    take("mlflow.store.db.utils:_get_latest_schema_revision")
    with pytest.raises(Gone, match="_get_latest_schema_revision"):
        store.revision()


@needs_whole_mlflow
def test_open_store_raises_gone_if_mlflow_lacks_the_store_of_the_client(
    store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = importlib.import_module("mlflow.tracking").MlflowClient
    monkeypatch.setattr(client, "__init__", lambda *_: None)  # what it sets is gone
    with pytest.raises(Gone, match="_tracking_client"):
        store.open_store(store_uri)


def test_a_chain_is_stored_if_the_bridge_is_not_available(
    store_uri: str, make_tracer: MakeTracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracer = make_tracer(store_uri)
    monkeypatch.delattr(importlib.import_module("mlflow.tracing.context"), "_USER_TRACE_CONTEXT")
    RunnableLambda[Any, Any](lambda one: one).with_config(run_name="work").invoke(1, {"callbacks": [tracer]})
    monkeypatch.undo()
    assert shape(stored_trace(store_uri, tracer)) == ("work", "CHAIN", [])


# Who else might know a private name.

PACKAGE = Path(langchain_mlflow_tracer.__file__).parent

PUBLIC = {"mlflow.langchain", "mlflow.tracing", "mlflow.tracking"}
"""Modules that MLflow documents: they may be named anywhere."""

IMPORTERS = {"delivery/exporter/mlflow_import.py", "cli/doctor/client.py"}
"""They import what exporters use by its public names, where an import costs least."""


ALLOWED = {
    "ssl._create_unverified_context",
    "tracer._begin",
    "call._attempts.is_answered",
    "call._attempts",
    "call._send",
}
"""Private names that are not on `self`: Python's, and the package's own."""


def foreign_names(tree: ast.AST) -> Iterator[str]:
    """Yield the private names that a file looks up on anything but `self` and its own classes."""
    own = {"self", "cls", *(node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if ast.unparse(node.value) not in own:
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "setattr", "hasattr"}:
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)):
                yield ast.unparse(node)


OF_NAMED_TUPLES = {"_fields", "_replace"}
"""Public, in spite of their looks."""


def is_private(name: str) -> bool:
    return re.fullmatch(r"_[^_]\w*", name) is not None and name not in OF_NAMED_TUPLES


def modules(tree: ast.AST) -> Iterator[str]:
    """Yield the modules of MLflow that a file names in its texts, or imports by private names."""
    folder = Path(mlflow.__file__).parent
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and re.fullmatch(r"mlflow(\.\w+)+", str(node.value)):
            path = folder.joinpath(*str(node.value).split(".")[1:])
            if path.is_dir() or path.with_suffix(".py").exists():
                yield str(node.value)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlflow"):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (f"{node.module}: {one}" for one in parts if is_private(one))


OTHERS = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "mlflow_private"]


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_outside_mlflow_private_uses_a_private_name_of_mlflow(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert set(foreign_names(tree)) <= ALLOWED
    if str(path.relative_to(PACKAGE)) not in IMPORTERS:
        assert set(modules(tree)) <= PUBLIC


def test_the_search_for_private_names_finds_each_kind_of_use() -> None:
    seen = ast.parse(
        "from mlflow.tracking import _model_registry\n"
        "sys.modules['mlflow.tracing.provider']\n"
        "getattr(fluent, '_active', None)\n"
        "client._tracking_client.store\n"
        "self._begin()\n"
    )
    assert sorted(foreign_names(seen)) == ["client._tracking_client", "getattr(fluent, '_active', None)"]
    assert sorted(modules(seen)) == ["mlflow.tracing.provider", "mlflow.tracking: _model_registry"]
