"""Sends what MLflow traces itself, outside of any chain, through the spool too, in place of MLflow's queue.

MLflow's queue is in memory, and holds the end of the process for minutes while the server is down. Its
exporter is asked by every provider that MLflow makes, so its class is changed, once (mlflow 3.12 to 3.17).
"""

from __future__ import annotations

import functools
import importlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from langchain_mlflow_tracer.bridge.harvest import span_record, take_trace
from langchain_mlflow_tracer.record import SpanLink, TraceRecord

__all__ = ["protect", "unprotect"]

Accept = Callable[[TraceRecord, str | None, str | None], None]
"""Takes a trace, and the tracking URI and the experiment's id for which MLflow made it."""

_EXPORTER: Final = "mlflow.tracing.export.mlflow_v3"
_PROCESSOR: Final = "mlflow.tracing.processor.base_mlflow"


class _Protection:
    """Who takes the traces, if anybody does."""

    accept: Accept | None = None
    takes: Callable[[str], bool] = staticmethod(lambda _uri: False)
    is_there = False


_protection: Final = _Protection()


def protect(accept: Accept, takes: Callable[[str], bool]) -> None:
    """Give `accept` what MLflow's exporter would send to a tracking URI that it `takes`.

    Raises:
        AttributeError: MLflow's exporter is not what it was.
        ImportError: the same.
    """
    exporter = importlib.import_module(_EXPORTER).MlflowV3SpanExporter
    processor = importlib.import_module(_PROCESSOR).BaseMlflowSpanProcessor
    if not _protection.is_there:
        whole = exporter.export, exporter._log_trace, exporter._should_log_async, processor._on_end_impl  # noqa: SLF001
        exporter.export = _export(whole[0])
        exporter._log_trace = _log_trace(whole[1])  # noqa: SLF001
        exporter._should_log_async = _should_log_async(whole[2])  # noqa: SLF001
        processor._on_end_impl = _on_end(whole[3], exporter)  # noqa: SLF001
        _protection.is_there = True
    _protection.accept, _protection.takes = accept, staticmethod(takes)


def unprotect() -> None:
    """Let MLflow's exporter send what it has itself again."""
    _protection.accept = None


def _is_asked(exporter: Any) -> bool:
    """Whether traces are taken here and now; an evaluation reads them back at once, so not in one."""
    if _protection.accept is None or not _protection.takes(exporter._client.tracking_uri):  # noqa: SLF001
        return False
    utils = importlib.import_module("mlflow.tracing.utils")
    return not utils.maybe_get_request_id(is_evaluate=True)


def _export(export: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(export)
    def exported(self: Any, spans: Sequence[Any]) -> Any:
        if not _is_asked(self):
            return export(self, spans)
        for span in spans:
            _take_part(self, span)
        return self._export_traces(spans)

    return exported


def _take_part(exporter: Any, span: Any) -> None:
    """Take a span of a trace that another process began: it is sent by itself, as MLflow does."""
    manager = importlib.import_module("mlflow.tracing.trace_manager").InMemoryTraceManager.get_instance()
    with manager._lock:  # noqa: SLF001
        known_as = manager._otel_id_to_mlflow_trace_id.get(span.context.trace_id)  # noqa: SLF001
        kept = manager._traces.get(known_as) if known_as else None  # noqa: SLF001
    if kept is None or not kept.is_remote_trace or span.parent is None or _protection.accept is None:
        return
    live = kept.span_dict.get(f"{span.context.span_id:016x}")
    if live is not None:
        record = span_record(live, time.time_ns())
        trace = TraceRecord(span.context.trace_id.to_bytes(16), record.name, spans=[record])
        trace.host = SpanLink(trace.trace_id, span.parent.span_id.to_bytes(8))
        record.parent_id = None
        _protection.accept(trace, exporter._client.tracking_uri, None)  # noqa: SLF001


def _log_trace(log_trace: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(log_trace)
    def logged(self: Any, trace: Any, prompts: Any = (), *arguments: Any, **named: Any) -> Any:
        if not _is_asked(self) or _protection.accept is None:
            return log_trace(self, trace, prompts, *arguments, **named)
        location = trace.info.trace_location
        experiment = getattr(getattr(location, "mlflow_experiment", None), "experiment_id", None)
        _protection.accept(_record(trace, prompts), self._client.tracking_uri, experiment)
        return None

    return logged


def _should_log_async(should: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(should)
    def asked(self: Any) -> bool:
        return not _is_asked(self) and should(self)

    return asked


def _on_end(on_end: Callable[..., Any], exporter: type) -> Callable[..., Any]:
    """Let a span that ends reach the exporter at once: it only takes it, and the process may end any time."""

    @functools.wraps(on_end)
    def ended(self: Any, span: Any) -> Any:
        waiting = getattr(self, "_batch_delegate", None)
        if (
            waiting is not None
            and _protection.accept is not None
            and isinstance(self.span_exporter, exporter)
        ):
            self._batch_delegate = None
            threading.Thread(target=waiting.shutdown, daemon=True).start()
        return on_end(self, span)

    return ended


def _record(trace: Any, prompts: Any) -> TraceRecord:
    """Return a trace of MLflow's as one of ours, root first."""
    now = time.time_ns()
    made = [span_record(span, now) for span in trace.data.spans]
    spans = sorted(made, key=lambda one: one.parent_id is not None)
    record = TraceRecord(bytes.fromhex(trace.info.trace_id.removeprefix("tr-")), spans=spans)
    take_trace(record, trace.info, prompts)
    return record
