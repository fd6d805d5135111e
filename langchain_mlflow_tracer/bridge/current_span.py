"""A current span for MLflow's context, which finds the run that is at work when it is read.

An empty context gets one for all runs of a tracer, any other one for each root. Only code that makes spans
reads it. LangChain's own context names the run whose code is at work; if it names none, or one that has
ended, the span that was current before counts. So contexts need not be restored in order, and one that is
never restored has no effect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, INVALID_SPAN_CONTEXT, Span, SpanContext

from langchain_mlflow_tracer.bridge.span_facade import Facade
from langchain_mlflow_tracer.core.attributes import REQUEST_ID
from langchain_mlflow_tracer.recording import run_info

__all__ = ["LEAVES", "Ambient", "leaf", "open_span", "runs_at_work"]

LEAVES: Final = frozenset({"CHAT_MODEL", "LLM", "RETRIEVER", "EMBEDDING"})
"""Runs whose code LangChain's context does not name (langchain-core 1.7)."""

leaf: Final[ContextVar[int | None]] = ContextVar("langchain_mlflow_tracer_leaf", default=None)
"""The number of the last such run that began here."""

_NOBODY: Final = {REQUEST_ID: json.dumps("nobody")}
"""The attributes of a span of which MLflow knows nothing: to it, no span is active."""

Ask = Callable[[], Facade | None]
"""Finds the run whose code is at work."""


class Ambient(Span):
    """A current span: `ask` finds the run at work, as long as the root for which it was set `is_open`."""

    def __init__(self, previous: Context, is_open: Callable[[], bool], ask: Ask) -> None:
        self.previous = previous
        self._is_open = is_open
        self._ask = ask

    @property
    def is_over(self) -> bool:
        """Whether the root for which it was set has ended."""
        return not self._is_open()

    def target(self) -> Span:
        """Return the span of ours that is running here, or what was current before."""
        facade = None if self.is_over else self._ask()
        if facade is not None:
            return facade
        below = trace.get_current_span(self.previous)
        return below.target() if isinstance(below, Ambient) else below

    # What MLflow and OpenTelemetry ask a current span for.

    def get_span_context(self) -> SpanContext:
        """Return the ids of whatever is running."""
        return self.target().get_span_context()

    @property
    def context(self) -> SpanContext:
        """The ids of whatever is running."""
        return self.get_span_context()

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What is known of whatever is running; MLflow reads from it which trace that is in."""
        attributes: Mapping[str, Any] | None = getattr(self.target(), "attributes", None)
        return _NOBODY if attributes is None else attributes

    @property
    def parent(self) -> SpanContext | None:
        """The span above whatever is running."""
        parent: SpanContext | None = getattr(self.target(), "parent", None)
        return parent

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target(), name)

    def is_recording(self) -> bool:
        """Whether there is anything to write to."""
        return self.target().is_recording()

    def set_attribute(self, key: str, value: Any) -> None:
        """Write to whatever is running."""
        self.target().set_attribute(key, value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Write to whatever is running."""
        self.target().set_attributes(attributes)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Write to whatever is running."""
        self.target().add_event(name, attributes, timestamp)

    def update_name(self, name: str) -> None:
        """Write to whatever is running."""
        self.target().update_name(name)

    def set_status(self, status: Any, description: str | None = None) -> None:
        """Write to whatever is running."""
        self.target().set_status(status, description)

    def record_exception(self, exception: BaseException, *arguments: Any, **named: Any) -> None:
        """Write to whatever is running."""
        self.target().record_exception(exception, *arguments, **named)

    def end(self, end_time: int | None = None) -> None:
        """Ends nothing."""


def runs_at_work() -> list[int]:
    """Return the numbers of the runs whose code may run here: the one LangChain names, and the last leaf."""
    named, last = run_info.named_parent(), leaf.get()
    return [number for number in (None if named is None else named.int, last) if number is not None]


def open_span(context: Context) -> tuple[Span | None, Context]:
    """Return the span of others that is current in a context, and the context without what has ended."""
    if not context:  # the usual case
        return None, context
    current = trace.get_current_span(context)
    while isinstance(current, Ambient) and current.is_over:
        context = current.previous
        current = trace.get_current_span(context)
    below = current
    while isinstance(below, Ambient):
        below = trace.get_current_span(below.previous)
    is_there = below is not INVALID_SPAN and below.get_span_context() != INVALID_SPAN_CONTEXT
    return (below if is_there else None), context
