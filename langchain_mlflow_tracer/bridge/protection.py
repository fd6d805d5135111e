"""Sends what MLflow traces itself, outside of any chain, through the spool too, in place of MLflow's queue.

MLflow's queue is in memory, and holds the end of the process for minutes while the server is down. Its
exporter is asked by every provider that MLflow makes, so its class is changed, once (mlflow 3.12 to 3.17).
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from langchain_mlflow_tracer.bridge import fork
from langchain_mlflow_tracer.bridge.from_mlflow import span_record, take_trace
from langchain_mlflow_tracer.core.record import SpanLink, TraceRecord
from langchain_mlflow_tracer.mlflow_private import Gone, Wrap, exporter, tracing
from langchain_mlflow_tracer.mlflow_private.exporter import ExporterNames

__all__ = ["protect", "unprotect"]

Accept = Callable[[TraceRecord, str | None, str | None], None]
"""Takes a trace, and the tracking URI and the experiment's id for which MLflow made it."""

Experiment = Callable[[], tuple[str | None, bool]]
"""Finds the experiment's id for a trace that begins now; without one, whether its name is known."""

_EXPERIMENT_ID: Final = "mlflow.experimentId"
"""The attribute of a root span for which the caller named an experiment."""


class _Protection:
    """Who takes the traces, if anybody does."""

    accept: Accept | None = None
    takes: Callable[[str], bool] = staticmethod(lambda _uri: False)
    experiment: Experiment = staticmethod(lambda: (None, False))
    is_there = False


_protection: Final = _Protection()


def protect(accept: Accept, takes: Callable[[str], bool], experiment: Experiment) -> None:
    """Give `accept` what MLflow's exporter would send to a tracking URI that it `takes`.

    Without an experiment's id, where `experiment` said that only its name is known.

    Raises:
        Gone: MLflow's exporter is not what it was.
    """
    names = exporter.find()
    with contextlib.suppress(Gone):  # then a forked child's part is lost, as it is without protection
        fork.watch(tracing.find())
    if not _protection.is_there:
        names.change(
            experiment_id=_experiment_id(names),
            export=_export(names),
            log_trace=_log_trace(names),
            should_log_async=_should_log_async(names),
            on_end=_on_end(names),
        )
        _protection.is_there = True
    _protection.accept, _protection.takes = accept, staticmethod(takes)
    _protection.experiment = staticmethod(experiment)


def unprotect() -> None:
    """Let MLflow's exporter send what it has itself again."""
    _protection.accept = None


def _is_asked(names: ExporterNames, instance: Any) -> bool:
    """Whether traces are taken here and now; an evaluation reads them back at once, so not in one."""
    return _takes_now(names, names.tracking_uri(instance))


def _takes_now(names: ExporterNames, tracking_uri: str) -> bool:
    if _protection.accept is None or not _protection.takes(tracking_uri):
        return False
    return not names.is_evaluation()


def _experiment_id(names: ExporterNames) -> Wrap:
    """Let a trace begin without a question to the server: who delivers it asks."""

    def wrap(find: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(find)
        def experiment_of(span: Any) -> Any:
            is_given = _EXPERIMENT_ID in (span.attributes or {})
            if is_given or not _takes_now(names, names.current_uri()):
                return find(span)
            identity, is_named = _protection.experiment()
            return find(span) if identity is None and not is_named else identity

        return experiment_of

    return wrap


def _export(names: ExporterNames) -> Wrap:
    def wrap(export: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(export)
        def exported(self: Any, spans: Sequence[Any]) -> Any:
            if not _is_asked(names, self):
                return export(self, spans)
            for span in spans:
                _take_part(names, self, span)
            return names.export_traces(self, spans)

        return exported

    return wrap


def _take_part(names: ExporterNames, instance: Any, span: Any) -> None:
    """Take a span of a trace that another process began: it is sent by itself, as MLflow does."""
    live = names.remote_part(span)
    if live is not None and _protection.accept is not None:
        record = span_record(live, time.time_ns())
        trace = TraceRecord(span.context.trace_id.to_bytes(16), record.name, spans=[record])
        trace.host = SpanLink(trace.trace_id, span.parent.span_id.to_bytes(8))
        record.parent_id = None
        _protection.accept(trace, names.tracking_uri(instance), _protection.experiment()[0])


def _log_trace(names: ExporterNames) -> Wrap:
    def wrap(log_trace: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(log_trace)
        def logged(self: Any, trace: Any, *arguments: Any, **named: Any) -> Any:
            if not _is_asked(names, self) or _protection.accept is None:
                return log_trace(self, trace, *arguments, **named)
            location = trace.info.trace_location
            experiment = getattr(getattr(location, "mlflow_experiment", None), "experiment_id", None)
            _protection.accept(_record(trace), names.tracking_uri(self), experiment)
            return None

        return logged

    return wrap


def _should_log_async(names: ExporterNames) -> Wrap:
    def wrap(should: Callable[..., bool]) -> Callable[..., bool]:
        @functools.wraps(should)
        def asked(self: Any) -> bool:
            return not _is_asked(names, self) and should(self)

        return asked

    return wrap


def _on_end(names: ExporterNames) -> Wrap:
    """Let a span that ends reach the exporter at once: it only takes it, and the process may end any time."""

    def wrap(on_end: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(on_end)
        def ended(self: Any, span: Any) -> Any:
            waiting = names.take_batch(self) if _protection.accept is not None else None
            if waiting is not None:
                threading.Thread(target=waiting.shutdown, daemon=True).start()
            return on_end(self, span)

        return ended

    return wrap


def _record(trace: Any) -> TraceRecord:
    """Return a trace of MLflow's as one of ours, root first."""
    now = time.time_ns()
    made = [span_record(span, now) for span in trace.data.spans]
    spans = sorted(made, key=lambda one: one.parent_id is not None)
    record = TraceRecord(bytes.fromhex(trace.info.trace_id.removeprefix("tr-")), spans=spans)
    take_trace(record, trace.info)
    return record
