"""Knows how MLflow exports what it traces: its exporter, and the span processor before it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_mlflow_tracer.mlflow_private import Wrap, gone, made_with
from langchain_mlflow_tracer.mlflow_private.span import check_span

__all__ = ["ExporterNames", "find"]


@dataclass(frozen=True, slots=True)
class ExporterNames:
    """The classes that every provider of MLflow's makes its exporter and its processor from."""

    exporter: Any
    processor: Any
    manager: Callable[[], Any]
    """Returns the one that holds the traces which have not ended."""
    request_of_evaluation: Callable[..., object]
    """Returns what an evaluation is at here and now, if there is one."""
    starting: Any
    """The module that asks, when a trace begins, for its experiment."""
    current_uri: Callable[[], str]
    """Returns the tracking URI that counts now."""

    def change(
        self, *, experiment_id: Wrap, export: Wrap, log_trace: Wrap, should_log_async: Wrap, on_end: Wrap
    ) -> None:
        """Let traces begin, and spans and traces go, in other ways."""
        exporter, processor, starting = self.exporter, self.processor, self.starting
        starting.get_experiment_id_for_trace = experiment_id(starting.get_experiment_id_for_trace)
        exporter.export = export(exporter.export)
        exporter._log_trace = log_trace(exporter._log_trace)
        exporter._should_log_async = should_log_async(exporter._should_log_async)
        processor._on_end_impl = on_end(processor._on_end_impl)

    def tracking_uri(self, exporter: Any) -> str:
        """Return where an exporter sends to."""
        uri: str = exporter._client.tracking_uri
        return uri

    def is_evaluation(self) -> bool:
        """Whether what is traced here and now belongs to an evaluation."""
        return bool(self.request_of_evaluation(is_evaluate=True))

    def export_traces(self, exporter: Any, ended: Sequence[Any]) -> Any:
        """Let an exporter go on with the traces that have ended with these spans."""
        return exporter._export_traces(ended)

    def remote_part(self, span: Any) -> Any | None:
        """Return a span of a trace that another process began, as MLflow keeps it; None for others."""
        manager = self.manager()
        with manager._lock:
            known_as = manager._otel_id_to_mlflow_trace_id.get(span.context.trace_id)
            kept = manager._traces.get(known_as) if known_as else None
        if kept is None or not kept.is_remote_trace or span.parent is None:
            return None
        return kept.span_dict.get(f"{span.context.span_id:016x}")

    def take_batch(self, processor: Any) -> Any | None:
        """Take from a processor what lets ended spans wait, if it has that and is before such an exporter."""
        waiting = processor._batch_delegate
        if waiting is None or not isinstance(processor.span_exporter, self.exporter):
            return None
        processor._batch_delegate = None
        return waiting


def find() -> ExporterNames:
    """Find all of it, and try what can be tried. Imports mlflow.

    Raises:
        Gone: something is missing, or is not what it was.
    """
    with gone():
        managing = importlib.import_module("mlflow.tracing.trace_manager")
        found = ExporterNames(
            exporter=importlib.import_module("mlflow.tracing.export.mlflow_v3").MlflowV3SpanExporter,
            processor=importlib.import_module("mlflow.tracing.processor.base_mlflow").BaseMlflowSpanProcessor,
            manager=managing.InMemoryTraceManager.get_instance,
            request_of_evaluation=importlib.import_module("mlflow.tracing.utils").maybe_get_request_id,
            starting=importlib.import_module("mlflow.tracing.processor.mlflow_v3"),
            current_uri=importlib.import_module("mlflow").get_tracking_uri,
        )
        return _tested(found, managing)


def _tested(found: ExporterNames, managing: Any) -> ExporterNames:
    for owner, name in (
        (found.starting, "get_experiment_id_for_trace"),
        (found.exporter, "export"),
        (found.exporter, "_log_trace"),
        (found.exporter, "_should_log_async"),
        (found.exporter, "_export_traces"),
        (found.processor, "_on_end_impl"),
        (found.manager(), "_lock"),
        (found.manager(), "_traces"),
        (found.manager(), "_otel_id_to_mlflow_trace_id"),
    ):
        getattr(owner, name)
    made_with(found.exporter, "_client")
    made_with(found.processor, "_batch_delegate", "span_exporter")
    made_with(managing._Trace, "span_dict", "is_remote_trace")
    check_span()
    found.is_evaluation()
    return found
