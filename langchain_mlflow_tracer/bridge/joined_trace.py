"""Joins one trace of ours with MLflow: where its root hangs, and which spans MLflow made inside it."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context

from langchain_mlflow_tracer.bridge import from_mlflow
from langchain_mlflow_tracer.bridge.fork import lock
from langchain_mlflow_tracer.bridge.from_mlflow import HiddenSpans
from langchain_mlflow_tracer.bridge.span_facade import Facade
from langchain_mlflow_tracer.core import prompts
from langchain_mlflow_tracer.core.attributes import LINKED_PROMPTS, TRACE_NAME, TRACE_SESSION, TRACE_USER
from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.core.record import Outcome, SpanRecord, TraceRecord
from langchain_mlflow_tracer.mlflow_private.span import otel_span
from langchain_mlflow_tracer.mlflow_private.tracing import Mlflow

if TYPE_CHECKING:
    from langchain_mlflow_tracer.bridge.host import Host

__all__ = ["ContextChange", "Joined", "forget", "forget_all", "known", "known_by_id", "note"]


@dataclass(slots=True)
class ContextChange:
    """What was put into a context, and what had been there."""

    variable: ContextVar[Context]
    mine: Context
    previous: Context

    def take_back(self) -> None:
        """Put back what had been there, unless the context was changed again since."""
        if self.variable.get() is self.mine:
            self.variable.set(self.previous)


class Joined:
    """One trace of ours, from its start to its end; MLflow learns of it only when a span is made in it."""

    # Not made for each: most traces never need them.
    changes: Sequence[ContextChange] = ()
    moved: Mapping[bytes, bytes] = MappingProxyType({})
    """Spans of ours that run inside a span of MLflow's, and that one: by their ids."""
    is_closed = False
    _kept: Any = None
    _facades: Mapping[bytes, Facade] = MappingProxyType({})
    _guests: Sequence[SpanRecord] = ()

    def __init__(self, mlflow: Mlflow, trace: TraceRecord, root: SpanRecord, host: Host | None) -> None:
        self.trace = trace
        self.root = root
        self.host = host
        self._mlflow = mlflow
        self.known_as = trace.mlflow_id

    @property
    def _otel_id(self) -> int:
        return int.from_bytes(self.trace.trace_id)

    @property
    def is_known(self) -> bool:
        """Whether MLflow knows of it."""
        return self._kept is not None

    @property
    def is_elsewhere(self) -> bool:
        """Whether its spans are part of a trace that MLflow, or another trace of ours, sends as a whole."""
        return self.host is not None and not self.host.is_remote

    def facade(self, record: SpanRecord) -> Facade | None:
        """Return a span as MLflow sees it, and let MLflow know it; None if the trace is over."""
        with lock:
            if self.is_closed or not self._is_known():
                return None
            facade = self._facades.get(record.span_id)
            if facade is None:
                facade = self._made(record)
                self._facades = {**self._facades, record.span_id: facade}
        return facade

    def is_above(self, span: Any, span_id: bytes | None) -> bool:
        """Whether a span of MLflow's is below one of ours, with none but MLflow's in between."""
        if self._kept is None or span_id is None:
            return False
        spans, wanted = self._kept.span_dict, int.from_bytes(span_id)
        for _ in range(len(spans)):
            parent = span.parent
            if parent is None or parent.span_id == wanted:
                return parent is not None
            above = dict.get(spans, f"{parent.span_id:016x}")
            if above is None or isinstance(otel_span(above), Facade):
                return False
            span = otel_span(above)
        return False

    def note(self, change: ContextChange) -> None:
        """Remember what was put into a context for it: by any of its threads."""
        with lock:
            self.changes = [*self.changes, change]

    def move(self, span_id: bytes, below: bytes) -> None:
        """Hang a span of ours below one of MLflow's: by any of its threads."""
        with lock:
            self.moved = {**self.moved, span_id: below}

    def _made(self, record: SpanRecord) -> Facade:
        above = self.host.span.span_id if record is self.root and self.host else record.parent_id
        facade = Facade(self.trace.trace_id, record, above)
        spans, span_id = self._kept.span_dict, record.span_id.hex()
        if isinstance(spans, HiddenSpans):
            spans.own.add(span_id)
        spans[span_id] = self._mlflow.live_span(facade, self.trace.mlflow_id, record.span_type)
        return facade

    def _is_known(self) -> bool:
        """Let MLflow know the trace, at the first time; whether it does."""
        if self._kept is None:
            self._kept = self._registered()
        return self._kept is not None

    def _registered(self) -> Any | None:
        kept = self._mlflow.kept(self._otel_id) if self.host else None
        if self.is_elsewhere:
            return kept
        kept = kept or self._mlflow.keep(self._otel_id, self._info())
        kept.span_dict = HiddenSpans(kept.span_dict)
        return kept

    def _info(self) -> Any:
        trace, mlflow = self.trace, self._mlflow
        return mlflow.trace_info(
            trace_id=trace.mlflow_id,
            trace_location=mlflow.trace_location.from_experiment_id(None),
            request_time=self.root.start_ns // 1_000_000,
            state=mlflow.trace_state.IN_PROGRESS,
            trace_metadata=self._metadata(),
            tags={**trace.tags, TRACE_NAME: trace.name},
        )

    def _metadata(self) -> dict[str, str]:
        """Return the trace's metadata, with its session and user under the names that MLflow has for them."""
        names = {TRACE_SESSION: self.trace.session_id, TRACE_USER: self.trace.user_id}
        return {**self.trace.metadata, **{name: value for name, value in names.items() if value}}

    # The end.

    def add_guest(self, guest: TraceRecord, spans: list[SpanRecord]) -> bool:
        """Take in the spans of a trace that hung below a span of this one; False if this one has ended."""
        with lock:
            if self.is_closed:
                return False
            self._guests = [*self._guests, *spans]
            _lend(guest, self.trace)
        return True

    def close(self) -> list[SpanRecord]:
        """Copy what was written and made through MLflow; afterwards MLflow no longer knows the trace.

        Returns the spans of which MLflow has not seen the end.
        """
        own = self.trace.spans
        # Closed before anything is read: a thread that comes later makes no facade. The lock then waits for
        # a thread that is making one. Most traces are unknown to MLflow, and need no lock.
        self.is_closed = True
        if self._kept is None:
            return own
        with lock:
            facades, guests = list(self._facades.values()), self._guests
        for facade in facades:
            facade.settle()
        for span in own:
            span.parent_id = self.moved.get(span.span_id, span.parent_id)
        return own if self.is_elsewhere else [*own, *self._take_over(guests)]

    def _take_over(self, guests: Sequence[SpanRecord]) -> list[SpanRecord]:
        """Add the spans that were made in this trace; return those of MLflow's that have not ended."""
        now = time.time_ns()
        made = [from_mlflow.span_record(span, now) for span in self._kept.span_dict.take_hidden()]
        self.trace.spans = [*self.trace.spans, *made, *guests]
        if self.host is None:
            self._mlflow.drop(self._otel_id, self._kept)
            from_mlflow.take_trace(self.trace, self._kept.info)
        return [span for span in made if span.outcome is Outcome.ABANDONED]

    def copy_to_host(self) -> None:
        """Copy tags, metadata, session and user to MLflow's trace, where it has none of its own."""
        kept = self._mlflow.kept(self._otel_id)
        if kept is None:
            return
        tags = dict(self.trace.tags)
        linked = tags.pop(LINKED_PROMPTS, None)
        _add(kept.info.tags, tags)
        _add(kept.info.trace_metadata, self._metadata())
        for name, version in prompts.read(linked):
            link = functools.partial(self._mlflow.link_prompt, kept, name, version)
            attempt(link, lambda _: None)  # it reads a tag that anybody may have written


def _add(texts: dict[str, str], more: Mapping[str, str]) -> None:
    """Add to tags or metadata of MLflow's what is not in them yet."""
    for key, value in more.items():
        texts.setdefault(key, value)


def _lend(guest: TraceRecord, host: TraceRecord) -> None:
    host.session_id = host.session_id or guest.session_id
    host.user_id = host.user_id or guest.user_id
    host.tags = {**guest.tags, **host.tags}
    host.metadata = {**guest.metadata, **host.metadata}


known_by_id: Final[dict[int, Joined]] = {}
"""Our traces that MLflow knows of and that have not ended, by their OpenTelemetry ids."""

known: Final[set[Joined]] = set()
"""The same, with the parts of traces that began in MLflow."""


def note(joined: Joined) -> None:
    """Note that MLflow knows of a trace."""
    known.add(joined)
    if not joined.is_elsewhere:
        known_by_id[int.from_bytes(joined.trace.trace_id)] = joined
    if joined.is_closed:  # by another thread, just now
        forget(joined)


def forget(joined: Joined) -> None:
    """Note that a trace has ended."""
    known.discard(joined)
    if not joined.is_elsewhere:
        known_by_id.pop(int.from_bytes(joined.trace.trace_id), None)


def forget_all() -> None:
    """Forget the traces of the parent in a forked child."""
    known.clear()
    known_by_id.clear()
