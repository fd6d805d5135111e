"""Starts and flushes each contestant in its process, as its own documents describe.

Their packages are in separate environments, so they are imported by name, and only here.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from langchain_core.callbacks import BaseCallbackHandler

__all__ = ["CONTESTANTS", "OURS", "PEERS", "Contestant", "begin"]

FLUSH_TIMEOUT: Final = 120
"""Seconds that a contestant may take to send its traces."""


@dataclass
class Contestant:
    """The callbacks of a contestant, and its function to flush."""

    callbacks: list[Any] = field(default_factory=list)
    flush: Callable[[], object] = lambda: None


class EmptyHandler(BaseCallbackHandler):
    """Does nothing: measures LangChain's own cost of calling a handler."""

    run_inline = True


def untraced(_: str) -> Contestant:
    """No callbacks at all."""
    return Contestant()


def empty(_: str) -> Contestant:
    """A handler that does nothing: the minimum cost."""
    return Contestant([EmptyHandler()])


def tracer(address: str, **settings: Any) -> Contestant:
    """This tracer with its default settings."""
    made = importlib.import_module("langchain_mlflow_tracer").MlflowTracer(address, **settings)
    return Contestant([made], lambda: made.flush(FLUSH_TIMEOUT))


def tracer_sync(address: str) -> Contestant:
    """This tracer; each trace is on disk before the chain returns."""
    return tracer(address, durability="sync")


def tracer_parked(address: str) -> Contestant:
    """This tracer without a sender: its traces stay in the queue on disk."""
    return Contestant(tracer(address, forwarder="none").callbacks)


def autolog(address: str) -> Contestant:
    """MLflow's own autolog."""
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_MODEL_CATALOG_URI="")
    mlflow = importlib.import_module("mlflow")
    mlflow.set_tracking_uri(address)
    importlib.import_module("mlflow.langchain").autolog()
    return Contestant(flush=mlflow.flush_trace_async_logging)


def langfuse(address: str) -> Contestant:
    """Langfuse's handler."""
    keys = {"LANGFUSE_PUBLIC_KEY": "pk-lf-0", "LANGFUSE_SECRET_KEY": "sk-lf-0"}
    os.environ.update(keys, LANGFUSE_HOST=address, LANGFUSE_BASE_URL=address)
    client = importlib.import_module("langfuse").get_client()
    return Contestant([importlib.import_module("langfuse.langchain").CallbackHandler()], client.flush)


def langsmith(address: str) -> Contestant:
    """LangSmith, switched on by environment variables."""
    os.environ.update(LANGSMITH_TRACING="true", LANGSMITH_ENDPOINT=address, LANGSMITH_API_KEY="ls-0")
    tracers = importlib.import_module("langchain_core.tracers.langchain")
    return Contestant(flush=tracers.wait_for_all_tracers)


def openinference(address: str) -> Contestant:
    """OpenInference's instrumentation, with OpenTelemetry's batch processor over OTLP."""
    export = importlib.import_module("opentelemetry.sdk.trace.export")
    otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    provider = importlib.import_module("opentelemetry.sdk.trace").TracerProvider()
    exporter = otlp.OTLPSpanExporter(endpoint=f"{address}/v1/traces")
    provider.add_span_processor(export.BatchSpanProcessor(exporter))
    instrumentor = importlib.import_module("openinference.instrumentation.langchain").LangChainInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    return Contestant(flush=provider.force_flush)


PEERS: Final = ("autolog", "langfuse", "langsmith", "openinference")
OURS: Final = "tracer"

CONTESTANTS: Final[dict[str, Callable[[str], Contestant]]] = {
    "untraced": untraced,
    "empty": empty,
    OURS: tracer,
    "tracer-sync": tracer_sync,
    "tracer-parked": tracer_parked,
    "autolog": autolog,
    "langfuse": langfuse,
    "langsmith": langsmith,
    "openinference": openinference,
}


def begin(name: str, address: str) -> Contestant:
    """Start a contestant in this process; it sends to `address`."""
    return CONTESTANTS[name](address)
