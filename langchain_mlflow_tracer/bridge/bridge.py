"""Joins the runs of one tracer with MLflow's own spans; called when runs begin, and when roots end."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Sequence
from typing import Final, Protocol
from uuid import UUID

from opentelemetry import trace as otel_trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan

from langchain_mlflow_tracer.bridge import evaluation, fork, joined_trace, opentelemetry
from langchain_mlflow_tracer.bridge.current_span import LEAVES, Ambient, leaf, open_span, runs_at_work
from langchain_mlflow_tracer.bridge.host import Host, Surroundings
from langchain_mlflow_tracer.bridge.joined_trace import ContextChange, Joined, known
from langchain_mlflow_tracer.bridge.span_facade import Facade, link_of
from langchain_mlflow_tracer.bridge.to_mlflow import hand_over
from langchain_mlflow_tracer.bridge.unrecorded import UnrecordedRuns
from langchain_mlflow_tracer.core.attributes import TRACE_SESSION, TRACE_USER
from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import SpanRecord, TraceRecord
from langchain_mlflow_tracer.mlflow_private import autolog
from langchain_mlflow_tracer.mlflow_private.tracing import Mlflow
from langchain_mlflow_tracer.recording.recorder import Recorder

__all__ = ["Bridge"]

_TWICE: Final = (
    "autolog is on too: chains are recorded twice; switch it off by mlflow.langchain.autolog(disable=True)"
)

_NOWHERE: Final = Context()


class Prepare(Protocol):
    """Makes spans fit to leave this process: masks what is secret."""

    def __call__(self, trace: TraceRecord) -> TraceRecord: ...


class Bridge:
    """Between one tracer's recorder and the MLflow of this process."""

    def __init__(
        self,
        mlflow: Mlflow,
        recorder: Recorder,
        prepare: Prepare,
        name: Callable[[bytes], object],
        log: Log,
    ) -> None:
        """`prepare` masks spans for MLflow's own exporter; `name` is given the id of a trace that joins."""
        fork.watch(mlflow, joined_trace.forget_all)
        self._name = name
        self._mlflow = mlflow
        self._recorder = recorder
        self._prepare = prepare
        self._log = log
        self._is_warned = False
        ambient = Ambient(_NOWHERE, lambda: recorder.is_recording, self._running)
        self._here = otel_trace.set_span_in_context(ambient, _NOWHERE)
        """Set in an otherwise empty context while runs are recorded: one for all roots of the tracer."""
        self._surroundings = Surroundings(mlflow, self._here, log)
        self._unrecorded = UnrecordedRuns(mlflow, recorder)
        # What the tracer and the handler ask for.
        self.decided = self._surroundings.decided
        self.dropped = self._unrecorded.dropped

    # The start.

    def started(self, run_id: UUID, span: SpanRecord, trace: TraceRecord | None) -> None:
        """Note that a run began; with a root comes its trace, whose id may change here, once."""
        if trace is not None:
            # Code of MLflow runs there. If it fails, the run is recorded all the same.
            attempt(self._begin, self._failed, span, trace)
        if span.span_type in LEAVES:
            leaf.set(run_id.int)
        elif known and trace is None:
            self._move(run_id, span)

    def _failed(self, error: BaseException) -> None:
        self._log.report(
            "bridge_failed", "MLflow's own spans are not joined with a chain: %s", type(error).__name__
        )

    def _begin(self, root: SpanRecord, trace: TraceRecord) -> None:
        self._warn_of_autolog()
        around = self._surroundings
        is_alone = around.is_alone()
        host = None if is_alone else around.host_here()
        host = host or around.evaluation(root, trace)
        if host is not None:
            trace.trace_id = host.span.trace_id
            trace.host = host.span
            self._name(trace.trace_id)
        elif trace.host is not None:
            host = Host(trace.host, is_remote=True)
        elif not is_alone:
            opentelemetry.link_to_what_is_around(root)
        self._add_defaults(trace)
        joined = trace.joined = Joined(self._mlflow, trace, root, host)
        self._enter(root, joined)
        self._mlflow.note_last_here(joined.known_as)

    def _warn_of_autolog(self) -> None:
        if not self._is_warned and autolog.is_on():
            self._is_warned = True
            self._log.report("autolog_on", _TWICE)

    def _enter(self, record: SpanRecord, joined: Joined) -> None:
        """Set our span in MLflow's context for a run: it finds the current run when MLflow makes a span."""
        for variable in self._mlflow.contexts:
            context = variable.get()
            if context is self._here:
                continue
            _, previous = open_span(context)
            if previous:
                is_open = functools.partial(_has_not_ended, record)
                ambient = Ambient(previous, is_open, functools.partial(self._running, joined.trace, record))
                mine = otel_trace.set_span_in_context(ambient, previous)
                joined.note(ContextChange(variable, mine, previous))
                variable.set(mine)
            else:
                variable.set(self._here)

    def _leave(self, joined: Joined) -> None:
        """Take back what was put into contexts for a trace, and after the last one, for all."""
        for change in reversed(joined.changes):
            change.take_back()
        if self._recorder.is_recording:
            return
        for variable in self._mlflow.contexts:
            if variable.get() is self._here:
                variable.set(_NOWHERE)

    def _add_defaults(self, trace: TraceRecord) -> None:
        """Add the metadata and tags that MLflow gives to all traces that begin here."""
        defaults, tags = self._mlflow.trace_defaults()
        if not defaults and not tags:
            return
        metadata = dict(defaults)
        session, user = metadata.pop(TRACE_SESSION, None), metadata.pop(TRACE_USER, None)
        trace.session_id = trace.session_id or session
        trace.user_id = trace.user_id or user
        trace.metadata = {**metadata, **trace.metadata}
        trace.tags = {**tags, **trace.tags}

    # In between: on whatever thread makes a span through MLflow.

    def _running(self, trace: TraceRecord | None = None, base: SpanRecord | None = None) -> Facade | None:
        """Return the run whose code is at work here: of `trace` only `base`, or one that began after it."""
        run = self._innermost()
        if run is None or (base is not None and run[1] is trace and run[0].start_ns < base.start_ns):
            return None
        joined: Joined | None = run[1].joined
        if joined is None:
            return None
        facade = joined.facade(run[0])
        if facade is not None:
            joined_trace.note(joined)
        return facade

    def _innermost(self) -> tuple[SpanRecord, TraceRecord] | None:
        runs = filter(None, map(self._recorder.find, runs_at_work()))
        return max(runs, key=lambda run: run[0].start_ns, default=None)

    def _move(self, run_id: UUID, span: SpanRecord) -> None:
        """Hang a run below the span of MLflow's in which it began, and let what it makes hang below it."""
        below = otel_trace.get_current_span(self._surroundings.own())
        if isinstance(below, Ambient | NonRecordingSpan) or not below.is_recording():
            return
        joined = self._known_trace(run_id)
        if joined is not None and joined.is_above(below, span.parent_id):
            joined.move(span.span_id, link_of(below.get_span_context()).span_id)
            self._enter(span, joined)

    def _known_trace(self, run_id: UUID) -> Joined | None:
        """Return the trace of a run if MLflow knows of it."""
        run = self._recorder.find(run_id.int)
        joined: Joined | None = None if run is None else run[1].joined
        return joined if joined in known else None

    # The end.

    def finished(self, trace: TraceRecord) -> TraceRecord | None:
        """Return the trace to send; None if its spans became part of another trace."""
        joined: Joined | None = trace.joined
        if joined is None:
            return trace
        trace.joined = None
        # Contexts first: MLflow must not make a span in a trace that is being closed.
        self._leave(joined)
        unseen = joined.close()
        if self._mlflow.span_processors:
            self._apply_processors(trace, unseen)
        if joined.is_known:
            joined_trace.forget(joined)
        host = joined.host
        if host is None or host.is_remote:
            self._mlflow.note_last(joined.known_as)
            return trace
        has_joined = self._joins(joined, host)
        if host.around is not None:
            evaluation.end(host.around, trace.spans[0])
        return None if has_joined else self._alone(trace, host)

    def _joins(self, joined: Joined, host: Host) -> bool:
        """Give the spans to the trace they hang in, if that has not ended."""
        trace = joined.trace
        if host.joined is not None:
            trace.spans[0].parent_id = host.span.span_id
            return host.joined.add_guest(trace, trace.spans)
        otel_id = int.from_bytes(trace.trace_id)
        if self._mlflow.kept(otel_id) is None:
            return False
        prepared = self._prepare(trace)  # takes time, in which the host may end: so it is looked up again
        kept = self._mlflow.kept(otel_id)
        if kept is None:
            return False
        prepared.spans[0].parent_id = host.span.span_id
        joined.copy_to_host()
        hand_over(self._mlflow, kept, prepared.trace_id, prepared.spans)
        return True

    def _alone(self, trace: TraceRecord, host: Host) -> TraceRecord:
        """Make it a trace of its own, with a link to where it would have hung."""
        trace.trace_id, trace.host = uuid.uuid4().bytes, None
        root = trace.spans[0]
        root.parent_id, root.links = None, (*root.links, host.span)
        self._name(trace.trace_id)
        self._mlflow.note_last(trace.mlflow_id)
        return trace

    def _apply_processors(self, trace: TraceRecord, spans: Sequence[SpanRecord]) -> None:
        for span in spans:
            span.run_deferred()
            facade = Facade(trace.trace_id, span, span.parent_id)
            live = self._mlflow.live_span(facade, trace.mlflow_id, span.span_type)
            self._mlflow.apply_processors(live)
            facade.settle()


def _has_not_ended(record: SpanRecord) -> bool:
    return record.end_ns is None
