"""Finds where a root belongs: in a span of MLflow's, a run of another process, an evaluation, or nowhere."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span

from langchain_mlflow_tracer.bridge import evaluation, fork, opentelemetry
from langchain_mlflow_tracer.bridge.current_span import open_span
from langchain_mlflow_tracer.bridge.joined_trace import Joined, known_by_id
from langchain_mlflow_tracer.bridge.span_facade import link_of
from langchain_mlflow_tracer.core.attributes import REQUEST_ID
from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import SpanLink, SpanRecord, TraceRecord
from langchain_mlflow_tracer.mlflow_private import Gone, autolog
from langchain_mlflow_tracer.mlflow_private.evaluation import MODULE, is_evaluating
from langchain_mlflow_tracer.mlflow_private.span import otel_span
from langchain_mlflow_tracer.mlflow_private.tracing import Mlflow
from langchain_mlflow_tracer.recording.trace_context import MARK, Caller, called_by, parsed

__all__ = ["Host", "Surroundings", "is_left_to_autolog"]

_LEFT: Final = (
    "mlflow.genai.evaluate has switched autolog on, which records the chains it runs; to record them with the"
    " tracer instead, call mlflow.langchain.autolog(disable=True) before it"
)


@dataclass(frozen=True, slots=True)
class Host:
    """The span below which a root hangs: of a trace that began in MLflow, in another process, or with us."""

    span: SpanLink
    is_remote: bool = False
    joined: Joined | None = None
    """The trace of ours in which MLflow made that span."""
    around: Any = None
    """That span itself, where it was made for the root, and ends with it (see `evaluation`)."""


class Surroundings:
    """What is around a root of one tracer where it begins."""

    def __init__(self, mlflow: Mlflow, here: Context, log: Log) -> None:
        """`here` is the context that the tracer itself sets, which counts as nothing."""
        self._mlflow = mlflow
        self._here = here
        self._log = log
        # Bound, since they are asked at each root.
        self.own, self._shared = mlflow.contexts[0].get, mlflow.shared_context.get

    def is_alone(self) -> bool:
        """Whether there is nothing around what begins here and now, as is usual: seen at a glance."""
        here, own, everyones = self._here, self.own(), self._shared()
        return (not own or own is here) and (not everyones or everyones is here)

    def decided(self) -> bool | Caller | None:
        """Return what is decided already of a trace that begins here and now; None where that is open.

        False where MLflow records nothing here; the span in another process that called this one;
        True for what is part of a trace that MLflow records: then no chance decides.
        """
        if not self._mlflow.is_enabled():
            return False
        if is_left_to_autolog():
            self._log.report("left_to_autolog", _LEFT)
            return False
        if self.is_alone():
            return None
        below, _ = open_span(self.own())
        if isinstance(below, NonRecordingSpan) and _is_left_out(below):
            return False
        called = self._caller(below)
        if called is not None:
            return called
        return None if self._host(below) is None else True

    def _caller(self, below: Span | None) -> Caller | None:
        """Return who called this process, unless a span of MLflow's that was made here is around."""
        if below is None or _is_foreign(below):
            return opentelemetry.caller()
        context = below.get_span_context()
        if not context.is_remote:
            return None
        if self._mlflow.is_asked_to_join(context.trace_id):
            caller = Caller(link_of(context), context.trace_flags.sampled)
            return called_by(caller, parsed(context.trace_state.get(MARK) or ""))
        return opentelemetry.caller()

    def host_here(self) -> Host | None:
        """Return where a root hangs that begins here, in a span that MLflow knows."""
        below, _ = open_span(self.own())
        return self._host(below)

    def _host(self, below: Span | None) -> Host | None:
        """Return where a root hangs that begins inside a span of MLflow's."""
        if below is None or not below.is_recording() or _is_foreign(below):
            return None
        context = below.get_span_context()
        joined = known_by_id.get(context.trace_id)
        return Host(link_of(context), joined is None and fork.is_inherited(context.trace_id), joined)

    def evaluation(self, root: SpanRecord, trace: TraceRecord) -> Host | None:
        """Return where a root hangs that an evaluation runs."""
        if MODULE not in sys.modules or trace.host is not None:
            return None
        around = attempt(evaluation.begin, self._report_missing_trace, self._mlflow, root)
        if around is None:
            return None
        below = otel_span(around)
        return Host(link_of(below.get_span_context()), around=around) if isinstance(below, Span) else None

    def _report_missing_trace(self, error: BaseException) -> None:
        """Say why an evaluation would not find a trace."""
        why = str(error) if isinstance(error, Gone) else type(error).__name__
        self._log.report("not_evaluated", "mlflow.genai.evaluate may not find a row's trace: %s", why)


def is_left_to_autolog() -> bool:
    """Whether an evaluation records what begins here: twice would double the tokens that it counts."""
    return MODULE in sys.modules and autolog.is_on() and attempt(is_evaluating, lambda _: False)


def _is_left_out(span: NonRecordingSpan) -> bool:
    """Whether a span of this process is not sampled, nor is what is below it; a gateway's decides nothing."""
    context = span.get_span_context()
    return not context.is_remote and not context.trace_flags.sampled


def _is_foreign(span: Span) -> bool:
    """Whether a span is one that MLflow does not know, where its context is OpenTelemetry's."""
    return span.is_recording() and REQUEST_ID not in (getattr(span, "attributes", None) or {})
