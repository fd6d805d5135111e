"""Joins the runs of one tracer with MLflow's own spans: asked when runs begin, and when roots end."""

from __future__ import annotations

import functools
import sys
import uuid
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Final, Protocol
from uuid import UUID

from opentelemetry import trace as otel_trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span

from langchain_mlflow_tracer.bridge import evaluation, fork, opentelemetry
from langchain_mlflow_tracer.bridge.current_span import Ambient, Unrecorded, open_span
from langchain_mlflow_tracer.bridge.joined_trace import Host, Joined, Set
from langchain_mlflow_tracer.bridge.opentelemetry import link_of
from langchain_mlflow_tracer.bridge.span_facade import Facade
from langchain_mlflow_tracer.bridge.to_mlflow import hand_over
from langchain_mlflow_tracer.core.attributes import REQUEST_ID, TRACE_SESSION, TRACE_USER
from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import SpanRecord, TraceRecord
from langchain_mlflow_tracer.mlflow_private import Gone, autolog
from langchain_mlflow_tracer.mlflow_private.evaluation import MODULE, is_evaluating
from langchain_mlflow_tracer.mlflow_private.span import otel_span
from langchain_mlflow_tracer.mlflow_private.tracing import Mlflow
from langchain_mlflow_tracer.recording import run_info
from langchain_mlflow_tracer.recording.recorder import Recorder
from langchain_mlflow_tracer.recording.trace_context import MARK, Caller, called_by, parsed

__all__ = ["Bridge"]

LEAVES: Final = frozenset({"CHAT_MODEL", "LLM", "RETRIEVER", "EMBEDDING"})
"""Runs whose code LangChain's context does not name (langchain-core 1.7)."""

_TWICE: Final = (
    "autolog is on too: chains are recorded twice; switch it off by mlflow.langchain.autolog(disable=True)"
)
_LEFT: Final = (
    "mlflow.genai.evaluate has switched autolog on, which records the chains it runs; to record them with the"
    " tracer instead, call mlflow.langchain.autolog(disable=True) before it"
)

_NOWHERE: Final = Context()

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
        self,
        mlflow: Mlflow,
        recorder: Recorder,
        prepare: Prepare,
        name: Callable[[bytes], object],
        log: Log,
    ) -> None:
        """`prepare` readies spans for MLflow's own exporter; `name` is told the id of a trace that joins."""
        fork.watch(mlflow, _forget_all)
        self._name = name
        self._mlflow = mlflow
        self._recorder = recorder
        self._prepare = prepare
        self._log = log
        self._is_warned = False
        # Bound, since they are asked at each root.
        self._around_own, self._around_all = mlflow.contexts[0].get, mlflow.shared_context.get
        ambient = Ambient(_NOWHERE, lambda: recorder.is_recording, self._running)
        self._here = otel_trace.set_span_in_context(ambient, _NOWHERE)
        """What stands in a context where nothing else does, while runs are recorded."""

    # The start.

    def _is_alone(self) -> bool:
        """Whether there is nothing around what begins here and now, as is usual: seen at a glance."""
        here, own, everyones = self._here, self._around_own(), self._around_all()
        return (not own or own is here) and (not everyones or everyones is here)

    def decided(self) -> bool | Caller | None:
        """Return what is decided already of a trace that begins here and now; None where that is open.

        False where MLflow records nothing here; the span in another process that called this one;
        True for what is part of a trace that MLflow records: then no chance decides.
        """
        if not self._mlflow.is_enabled():
            return False
        if _is_left_to_autolog():
            self._log.report("left_to_autolog", _LEFT)
            return False
        if self._is_alone():
            return None
        below, _ = open_span(self._around_own())
        if isinstance(below, NonRecordingSpan):
            # A span that was dropped drops what is below it; what a gateway does not record says nothing.
            context = below.get_span_context()
            if not context.is_remote and not context.trace_flags.sampled:
                return False
        called = self._caller(below)
        if called is not None:
            return called
        return True if below is not None and self._host(below) is not None else None

    def _caller(self, below: Span | None) -> Caller | None:
        """Return who called this process, unless a span of MLflow's that was made here is around."""
        if below is None or _is_foreign(below):
            return opentelemetry.caller()
        context = below.get_span_context()
        if not context.is_remote:
            return None
        if self._mlflow.is_asked_to_join(context.trace_id):
            told = Caller(link_of(context), context.trace_flags.sampled)
            return called_by(told, parsed(context.trace_state.get(MARK) or ""))
        return opentelemetry.caller()

    def dropped(self, run_id: UUID, span_type: str) -> None:
        """Note that a run began that is not recorded; nor is what MLflow makes in it."""
        number = run_id.int
        if _is_left_to_autolog():
            return
        if not self._is_dropped(number):  # a handler that is passed twice hears of a run twice
            return
        if span_type in LEAVES:
            _leaf.set(number)
        for variable in self._mlflow.contexts:
            _, previous = open_span(variable.get())
            if not self._is_placed(previous):
                is_open = functools.partial(self._recorder.is_open, number)
                place = Unrecorded(previous, is_open, self._is_dropped_at_work)
                variable.set(otel_trace.set_span_in_context(place, previous))

    def _is_placed(self, context: Context) -> bool:
        current = otel_trace.get_current_span(context)
        return isinstance(current, Unrecorded) and current.is_at_work == self._is_dropped_at_work

    def _is_dropped_at_work(self) -> bool:
        named, leaf = run_info.named_parent(), _leaf.get()
        at_work = (None if named is None else named.int, leaf)
        return any(one is not None and self._is_dropped(one) for one in at_work)

    def _is_dropped(self, number: int) -> bool:
        return self._recorder.find(number) is None and self._recorder.is_open(number)

    def started(self, run_id: UUID, span: SpanRecord, trace: TraceRecord | None) -> None:
        """Note that a run began; with a root comes its trace, whose id may change here, once."""
        if trace is not None:
            # What MLflow does there is foreign: whatever it is, the run is recorded with what it was given.
            attempt(self._begin, self._failed, span, trace)
        if span.span_type in LEAVES:
            _leaf.set(run_id.int)
        elif _told and trace is None:
            self._move(run_id, span)

    def _failed(self, error: BaseException) -> None:
        self._log.report(
            "bridge_failed", "MLflow's own spans stand apart from a chain: %s", type(error).__name__
        )

    def _begin(self, root: SpanRecord, trace: TraceRecord) -> None:
        if not self._is_warned and autolog.is_on():
            self._is_warned = True
            self._log.report("autolog_on", _TWICE)
        is_alone = self._is_alone()
        host = None if is_alone else self._host_here()
        host = host or self._evaluation(root, trace)
        if host is not None:
            trace.trace_id = host.span.trace_id
            trace.host = host.span
            self._name(trace.trace_id)
        elif trace.host is not None:
            host = Host(trace.host, is_remote=True)
        elif not is_alone:
            opentelemetry.link_to_what_is_around(root)
        self._tell(trace)
        joined = trace.joined = Joined(self._mlflow, trace, root, host)
        self._stand(root, joined)
        self._mlflow.note_last_here(joined.known_as)

    def _stand(self, record: SpanRecord, joined: Joined) -> None:
        """Stand in MLflow's context for a run: whoever makes a span there asks who is at work."""
        for variable in self._mlflow.contexts:
            context = variable.get()
            if context is self._here:
                continue
            _, previous = open_span(context)
            if previous:
                is_open = functools.partial(_has_not_ended, record)
                ambient = Ambient(previous, is_open, functools.partial(self._running, joined.trace, record))
                mine = otel_trace.set_span_in_context(ambient, previous)
                joined.note(Set(variable, mine, previous))
                variable.set(mine)
            else:
                variable.set(self._here)

    def _leave(self) -> None:
        """Take back the place that stands for all runs that begin where nothing is; none runs any more."""
        for variable in self._mlflow.contexts:
            if variable.get() is self._here:
                variable.set(_NOWHERE)

    def _tell(self, trace: TraceRecord) -> None:
        """Say of a trace what MLflow was told of all traces that begin here."""
        told, tags = self._mlflow.told()
        if not told and not tags:
            return
        metadata = dict(told)
        session, user = metadata.pop(TRACE_SESSION, None), metadata.pop(TRACE_USER, None)
        trace.session_id = trace.session_id or session
        trace.user_id = trace.user_id or user
        if metadata:
            trace.metadata = {**metadata, **trace.metadata}
        trace.tags = {**tags, **trace.tags}

    def _host_here(self) -> Host | None:
        below, _ = open_span(self._around_own())
        return None if below is None else self._host(below)

    def _host(self, below: Span) -> Host | None:
        """Return where a root hangs that begins inside a span of MLflow's."""
        if not below.is_recording() or _is_foreign(below):
            return None
        context = below.get_span_context()
        joined = _touched.get(context.trace_id)
        return Host(link_of(context), joined is None and fork.is_inherited(context.trace_id), joined)

    def _evaluation(self, root: SpanRecord, trace: TraceRecord) -> Host | None:
        """Return where a root hangs that an evaluation runs."""
        if MODULE not in sys.modules or trace.host is not None:
            return None
        around = attempt(evaluation.begin, self._stands_alone, self._mlflow, root)
        if around is None:
            return None
        below = otel_span(around)
        return Host(link_of(below.get_span_context()), around=around) if isinstance(below, Span) else None

    def _stands_alone(self, error: BaseException) -> None:
        """Say why an evaluation would not find a trace."""
        why = str(error) if isinstance(error, Gone) else type(error).__name__
        self._log.report("not_evaluated", "mlflow.genai.evaluate may not find a row's trace: %s", why)

    # In between: on whatever thread makes a span through MLflow.

    def _running(self, trace: TraceRecord | None = None, base: SpanRecord | None = None) -> Facade | None:
        """Return the run whose code is at work here: of `trace` only `base`, or one that began after it."""
        found = self._innermost()
        if found is None or (base is not None and found[1] is trace and found[0].start_ns < base.start_ns):
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
        named, leaf = run_info.named_parent(), _leaf.get()
        found = None if named is None else self._recorder.find(named.int)
        other = None if leaf is None else self._recorder.find(leaf)
        if found is None or other is None:
            return other if found is None else found
        return max(found, other, key=lambda one: one[0].start_ns)

    def _move(self, run_id: UUID, span: SpanRecord) -> None:
        """Hang a run below the span of MLflow's in which it began, and let what it makes hang below it."""
        context = self._around_own()
        below = otel_trace.get_current_span(context)
        if isinstance(below, Ambient | NonRecordingSpan) or not below.is_recording():
            return
        found = self._recorder.find(run_id.int)
        joined: Joined | None = None if found is None else found[1].joined
        if found is None or joined is None or joined not in _told or span.parent_id is None:
            return
        if joined.has_above(below, span.parent_id):
            joined.move(span.span_id, link_of(below.get_span_context()).span_id)
            self._stand(span, joined)

    # The end.

    def finished(self, trace: TraceRecord) -> TraceRecord | None:
        """Return a trace as it is to be delivered; None when somebody else delivers it."""
        joined: Joined | None = trace.joined
        if joined is None:
            return trace
        trace.joined = None
        for one in reversed(joined.sets):
            one.take_back()
        if not self._recorder.is_recording:
            self._leave()
        unseen = joined.close()
        if self._mlflow.span_processors:
            self._apply_processors(trace, unseen)
        if joined.is_touched:
            _forget(joined)
        if joined.host is None or joined.host.is_remote:
            self._mlflow.note_last(joined.known_as)
            return trace
        has_joined = self._joins(joined, joined.host)
        if joined.host.around is not None:
            evaluation.end(joined.host.around, trace.spans[0])
        return None if has_joined else self._alone(trace, joined.host)

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

    def _apply_processors(self, trace: TraceRecord, spans: Sequence[SpanRecord]) -> None:
        for span in spans:
            span.run_deferred()
            facade = Facade(trace.trace_id, span, span.parent_id)
            live = self._mlflow.live_span(facade, trace.mlflow_id, span.span_type)
            self._mlflow.apply_processors(live)
            facade.settle()


def _has_not_ended(record: SpanRecord) -> bool:
    return record.end_ns is None


def _forget_all() -> None:
    _told.clear()
    _touched.clear()


def _forget(joined: Joined) -> None:
    _told.discard(joined)
    if not joined.is_elsewhere:
        _touched.pop(int.from_bytes(joined.trace.trace_id), None)


def _is_left_to_autolog() -> bool:
    """Whether an evaluation records what begins here: twice would double the tokens that it counts."""
    return MODULE in sys.modules and autolog.is_on() and attempt(is_evaluating, lambda _: False)


def _is_foreign(span: Span) -> bool:
    """Whether a span is one that MLflow does not know, where its context is OpenTelemetry's."""
    return span.is_recording() and REQUEST_ID not in (getattr(span, "attributes", None) or {})
