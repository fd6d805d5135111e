"""Shows a span of ours to MLflow, as a span of OpenTelemetry that MLflow can read and write.

Its ids are the record's own, not those of the context: else MLflow could get a circle of parents, and
follow it without end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status as OtelStatus
from opentelemetry.trace.status import StatusCode

from langchain_mlflow_tracer.core.attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_TYPE,
    REQUEST_ID,
    SPAN_INPUTS,
    SPAN_OUTPUTS,
    SPAN_TYPE,
)
from langchain_mlflow_tracer.core.json_text import json_bytes
from langchain_mlflow_tracer.core.record import SpanEvent, SpanLink, SpanRecord, Status, mlflow_id

__all__ = ["Facade", "context_of", "decoded", "link_of"]


_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_CODES: Final = {Status.UNSET: StatusCode.UNSET, Status.OK: StatusCode.OK, Status.ERROR: StatusCode.ERROR}
_STATUSES: Final = {code: status for status, code in _CODES.items()}


def context_of(trace_id: bytes, span_id: bytes) -> SpanContext:
    """Return the two ids as OpenTelemetry has them."""
    return SpanContext(
        int.from_bytes(trace_id), int.from_bytes(span_id), is_remote=False, trace_flags=_SAMPLED
    )


def link_of(context: SpanContext) -> SpanLink:
    """Return the two ids as a record has them."""
    return SpanLink(context.trace_id.to_bytes(16), context.span_id.to_bytes(8))


class Facade(ReadableSpan, Span):  # type: ignore[misc]  # as OpenTelemetry's own Span does
    """One span of ours. What is written to it while it runs is kept at the end of its run."""

    def __init__(self, trace_id: bytes, record: SpanRecord, parent_id: bytes | None) -> None:
        context = context_of(trace_id, record.span_id)
        self._known_as = mlflow_id(trace_id)
        self._record = record
        super().__init__(
            record.name, context, None if parent_id is None else context_of(trace_id, parent_id),
            kind=SpanKind.INTERNAL, instrumentation_scope=InstrumentationScope("langchain_mlflow_tracer"),
            start_time=record.start_ns,
        )  # fmt: skip
        self._written: dict[str, Any] = {}
        self._written_status: tuple[Status, str] | None = None
        self._is_open = True

    # Reading, as MLflow does.

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What is known of it, each value as JSON: that is how MLflow keeps them."""
        record = self._record
        shown = {SPAN_TYPE: record.span_type, SPAN_INPUTS: record.inputs, SPAN_OUTPUTS: record.outputs}
        known = {key: value for key, value in shown.items() if value is not None}
        known |= dict(record.attributes) | self._written
        return {
            REQUEST_ID: json.dumps(self._known_as),
            **{k: json_bytes(v).decode() for k, v in known.items()},
        }

    @property
    def name(self) -> str:
        """The name of its run."""
        return self._record.name

    @property
    def end_time(self) -> int | None:
        """When its run ended, None while it runs."""
        return self._record.end_ns

    @property
    def _end_time(self) -> int | None:
        return self._record.end_ns

    @_end_time.setter
    def _end_time(self, _value: object) -> None:
        """It ends when its run ends."""

    @property
    def status(self) -> OtelStatus:
        """How it went so far."""
        status, message = self._written_status or (self._record.status, self._record.status_message)
        return OtelStatus(_CODES[status], message if status is Status.ERROR else None)

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened so far."""
        return tuple(Event(one.name, _primitive(one.attributes), one.time_ns) for one in self._record.events)

    @property
    def links(self) -> tuple[Link, ...]:
        """The spans it has to do with."""
        return tuple(Link(context_of(one.trace_id, one.span_id)) for one in self._record.links)

    def is_recording(self) -> bool:
        """Whether it may be written to: until its run ends, and once more for span processors."""
        return self._is_open and self._record.end_ns is None

    # Writing.

    def set_attribute(self, key: str, value: Any) -> None:
        """Take an attribute; MLflow gives it as JSON, others as it is."""
        if key != REQUEST_ID and self._is_open:
            self._written[key] = decoded(value)
            self._record.size += len(value) if isinstance(value, str) else 0

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Take several attributes."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def set_status(self, status: Any, description: str | None = None) -> None:
        """Take how it went; how its run ends stands beside it as `lc.outcome`."""
        code = getattr(status, "status_code", status)
        message = description or getattr(status, "description", None) or ""
        self._written_status = _STATUSES[code], message

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Take an event."""
        now = timestamp if timestamp is not None else self._record.start_ns
        self._record.events.append(SpanEvent(name, now, dict(attributes or {})))

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        """Take a link to another span; its attributes are left out."""
        self._record.links = (*self._record.links, link_of(context))

    def update_name(self, name: str) -> None:
        """Take another name."""
        self._record.name = name

    def record_exception(self, exception: BaseException, *_: Any, **__: Any) -> None:
        """Take an exception as an event."""
        facts = {EXCEPTION_TYPE: type(exception).__name__, EXCEPTION_MESSAGE: str(exception)}
        self.add_event("exception", facts)

    def end(self, end_time: int | None = None) -> None:
        """Ends nothing: the run does."""

    def settle(self) -> None:
        """Write into the record what was written here; later writes are lost."""
        record, written = self._record, dict(self._written)
        self._is_open = False
        record.span_type = written.pop(SPAN_TYPE, record.span_type)
        record.inputs = written.pop(SPAN_INPUTS, record.inputs)
        record.outputs = written.pop(SPAN_OUTPUTS, record.outputs)
        record.attributes.update(written)
        if self._written_status is not None and self._written_status[0] is not Status.UNSET:
            record.status, record.status_message = self._written_status


def decoded(value: Any) -> Any:
    """Return the value of an attribute: MLflow writes each as JSON text, others as it is."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return list(value) if isinstance(value, tuple) else value


def _primitive(attributes: Mapping[str, object]) -> dict[str, Any]:
    return {
        key: value if isinstance(value, str | bool | int | float) else json_bytes(value).decode()
        for key, value in attributes.items()
    }
