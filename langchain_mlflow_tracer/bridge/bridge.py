"""Joins the runs of one tracer with MLflow's own spans: asked when runs begin, and when roots end."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Final, Protocol
from uuid import UUID

from opentelemetry import trace as otel_trace
from opentelemetry.trace import NonRecordingSpan, Span

from langchain_mlflow_tracer import run
from langchain_mlflow_tracer.bridge.ambient import Ambient, open_span
from langchain_mlflow_tracer.bridge.facade import REQUEST_ID, Facade
from langchain_mlflow_tracer.bridge.handing import hand_over
from langchain_mlflow_tracer.bridge.joined import Host, Joined, Set
from langchain_mlflow_tracer.bridge.names import Mlflow
from langchain_mlflow_tracer.record import SpanLink, SpanRecord, TraceRecord
from langchain_mlflow_tracer.recorder import Recorder

__all__ = ["Bridge"]

LEAVES: Final = frozenset({"CHAT_MODEL", "LLM", "RETRIEVER", "EMBEDDING"})
"""Runs whose code LangChain's context does not name (langchain-core 1.7)."""

_leaf: Final[ContextVar[int | None]] = ContextVar("langchain_mlflow_tracer_leaf", default=None)
_touched: Final[dict[int, Joined]] = {}
"""The traces of this process that MLflow was told of, and that have not ended: by their OpenTelemetry ids."""

_told: Final[set[Joined]] = set()
"""The same, with the parts of traces that began in MLflow."""


class Prepare(Protocol):
    """Makes spans fit to leave this process: masks what is secret."""

    def __call__(self, trace: TraceRecord) -> TraceRecord: ...


class Bridge:
    """Between one tracer's recorder and the MLflow of this process."""

    def __init__(
        self, mlflow: Mlflow, recorder: Recorder, prepare: Prepare, name: Callable[[bytes], object]
    ) -> None:
        """`prepare` readies spans for MLflow's own exporter; `name` is told the id of a trace that joins."""
        self._name = name
        self._mlflow = mlflow
        self._recorder = recorder
        self._prepare = prepare

    # The start.

    def allows(self) -> bool:
        """Whether MLflow would record a trace that begins here and now."""
        if not self._mlflow.is_enabled():
            return False
        below, _ = open_span(self._mlflow.contexts[0].get())
        # A span that was dropped, here or by whoever called this process, drops what is below it.
        return not isinstance(below, NonRecordingSpan) or below.get_span_context().trace_flags.sampled

    def started(self, run_id: UUID, span: SpanRecord, trace: TraceRecord | None) -> None:
        """Note that a run began; with a root comes its trace, whose id may change here, once."""
        if trace is not None:
            self._begin(span, trace)
        if span.span_type in LEAVES:
            _leaf.set(run_id.int)
        elif _told and trace is None:
            self._move(run_id, span)

    def _begin(self, root: SpanRecord, trace: TraceRecord) -> None:
        below, _ = open_span(self._mlflow.contexts[0].get())
        host = None if below is None else self._host(below)
        if host is not None:
            trace.trace_id = host.span.trace_id
            trace.host = host.span
            self._name(trace.trace_id)
        elif trace.host is not None:
            host = Host(trace.host, is_remote=True)
        elif below is not None and below.is_recording():
            root.links = (*root.links, _link(below))
        self._tell(trace)
        joined = trace.joined = Joined(self._mlflow, trace, root, host)
        joined.sets = self._set(root, trace)
        self._mlflow.note_last_here(joined.known_as)

    def _set(self, record: SpanRecord, trace: TraceRecord) -> Sequence[Set]:
        sets = []
        for variable in self._mlflow.contexts:
            _, previous = open_span(variable.get())
            mine = otel_trace.set_span_in_context(Ambient(record, trace, previous, self._running), previous)
            variable.set(mine)
            sets.append(Set(variable, mine, previous))
        return sets

    def _tell(self, trace: TraceRecord) -> None:
        """Say of a trace what MLflow was told of all traces that begin here."""
        told, tags = self._mlflow.told_metadata(), self._mlflow.told_tags()
        if not told and not tags:
            return
        metadata = dict(told)
        session, user = metadata.pop("mlflow.trace.session", None), metadata.pop("mlflow.trace.user", None)
        trace.session_id = trace.session_id or session
        trace.user_id = trace.user_id or user
        if metadata:
            trace.metadata = {**metadata, **trace.metadata}
        trace.tags = {**tags, **trace.tags}

    def _host(self, below: Span) -> Host | None:
        """Return where a root hangs that begins inside a span of others."""
        context = below.get_span_context()
        if isinstance(below, NonRecordingSpan):
            return Host(_link(below), is_remote=True) if context.is_remote else None
        attributes = getattr(below, "attributes", None) or {}
        if not below.is_recording() or REQUEST_ID not in attributes:
            return None
        return Host(_link(below), joined=_touched.get(context.trace_id))

    # In between: on whatever thread makes a span through MLflow.

    def _running(self, trace: TraceRecord, base: SpanRecord) -> Facade | None:
        """Return the run whose code is at work here, if it is `base`, below it, or in another trace."""
        found = self._innermost()
        if found is None or (found[1] is trace and found[0].start_ns < base.start_ns):
            return None
        joined: Joined | None = found[1].joined
        if joined is None:
            return None
        facade = joined.facade(found[0])
        if facade is not None:
            _told.add(joined)
            if not joined.is_elsewhere:
                _touched[int.from_bytes(found[1].trace_id)] = joined
            if joined.is_closed:  # by another thread, just now
                _forget(joined)
        return facade

    def _innermost(self) -> tuple[SpanRecord, TraceRecord] | None:
        named, leaf = run.named_parent(), _leaf.get()
        found = None if named is None else self._recorder.find(named.int)
        other = None if leaf is None else self._recorder.find(leaf)
        if found is None or other is None:
            return other if found is None else found
        return max(found, other, key=lambda one: one[0].start_ns)

    def _move(self, run_id: UUID, span: SpanRecord) -> None:
        """Hang a run below the span of MLflow's in which it began, and let what it makes hang below it."""
        context = self._mlflow.contexts[0].get()
        below = otel_trace.get_current_span(context)
        if isinstance(below, Ambient | NonRecordingSpan) or not below.is_recording():
            return
        found = self._recorder.find(run_id.int)
        joined: Joined | None = None if found is None else found[1].joined
        if found is None or joined is None or joined not in _told or span.parent_id is None:
            return
        if joined.has_above(below, span.parent_id):
            joined.moved = {**joined.moved, span.span_id: _link(below).span_id}
            joined.sets = [*joined.sets, *self._set(span, found[1])]

    # The end.

    def finished(self, trace: TraceRecord) -> TraceRecord | None:
        """Return a trace as it is to be delivered; None when somebody else delivers it."""
        joined: Joined | None = trace.joined
        if joined is None:
            return trace
        trace.joined = None
        for one in reversed(joined.sets):
            one.take_back()
        joined.close()
        self._apply_processors(trace)
        if joined.is_touched:
            _forget(joined)
        if joined.host is None or joined.host.is_remote:
            self._mlflow.note_last(joined.known_as)
            return trace
        return None if self._joins(joined, joined.host) else self._alone(trace, joined.host)

    def _joins(self, joined: Joined, host: Host) -> bool:
        """Give the spans to the trace they hang in, if that has not ended."""
        trace = joined.trace
        if host.joined is not None:
            trace.spans[0].parent_id = host.span.span_id
            return host.joined.take_in(trace, trace.spans)
        otel_id = int.from_bytes(trace.trace_id)
        if self._mlflow.kept(otel_id) is None:
            return False
        prepared = self._prepare(trace)
        kept = self._mlflow.kept(otel_id)
        if kept is None:
            return False
        prepared.spans[0].parent_id = host.span.span_id
        joined.tell_host()
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

    def _apply_processors(self, trace: TraceRecord) -> None:
        processors = self._mlflow.span_processors
        for span in trace.spans if processors else ():
            span.complete()
            facade = Facade(trace.trace_id, span, span.parent_id)
            live = self._mlflow.live_span(facade, trace.mlflow_id, span.span_type)
            self._mlflow.apply_processors(live)
            facade.settle()


def _forget(joined: Joined) -> None:
    _told.discard(joined)
    if not joined.is_elsewhere:
        _touched.pop(int.from_bytes(joined.trace.trace_id), None)


def _link(span: Span) -> SpanLink:
    context: Any = span.get_span_context()
    return SpanLink(context.trace_id.to_bytes(16), context.span_id.to_bytes(8))
