"""Reads an encoded trace (see `encoding.otlp`) as plain data, and as lines that show it as a tree.

Without mlflow, whose import takes seconds.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Final

from opentelemetry.proto.trace.v1.trace_pb2 import Span as Encoded
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from langchain_mlflow_tracer.cli.printing import plain, shortened
from langchain_mlflow_tracer.core.attributes import (
    SPAN_INPUTS,
    SPAN_OUTPUTS,
    SPAN_TYPE,
    TAG_PREFIX,
    TRACE_NAME,
)
from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.encoding.attribute_values import values
from langchain_mlflow_tracer.encoding.payload import read_spans

__all__ = ["Span", "Trace"]

_NAME: Final = TAG_PREFIX + TRACE_NAME

SHORT: Final = 100
"""Characters of an input or output on a terminal: one line, to recognise it by. --json has all of it."""

_CODES: Final = {Status.STATUS_CODE_OK: "ok", Status.STATUS_CODE_ERROR: "error"}
_NANO: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Span:
    """A span; times in seconds since the epoch."""

    span_id: str
    parent_id: str | None
    name: str
    type: str
    status: str
    message: str
    start: float
    end: float | None
    inputs: object
    outputs: object
    attributes: Mapping[str, object]
    events: tuple[Mapping[str, object], ...]

    def facts(self) -> dict[str, object]:
        """Return all that it has. Its values are not copied, as `asdict` would: they may be nested deep."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def lines(self, began: float) -> Iterator[str]:
        """Yield a line with name, type, status and times, and one for each of inputs, outputs and error."""
        lasted = "not ended" if self.end is None else f"{self.end - self.start:.3f} s"
        what = f"{plain(self.name)}  {plain(self.type)}  {self.status}"
        yield f"{what}  {lasted}, from {self.start - began:.3f} s"
        for label, value in (("in ", self.inputs), ("out", self.outputs), ("!  ", self.message or None)):
            if value is not None:
                yield f"  {label} {shortened(_text(value), SHORT)}"


@dataclass(frozen=True, slots=True)
class Trace:
    """The spans of a trace, in the order in which they were encoded."""

    spans: tuple[Span, ...]

    @classmethod
    def read(cls, payload: bytes) -> Trace | None:
        """Return the trace in `payload`, or None where there is none that can be read."""
        spans = tuple(map(_span, attempt(lambda: read_spans(payload), lambda _error: [])))
        return cls(spans) if spans else None

    @property
    def name(self) -> str:
        """The name that MLflow shows."""
        known = (span.attributes.get(_NAME) for span in self.spans)
        return str(next(filter(None, known), self.spans[0].name))

    def tree(self) -> Iterator[str]:
        """Draw the spans below each other, each indented below its parent, the earlier first."""
        below = self._children()
        began = min(span.start for span in self.spans)
        left = [(span, 0) for span in below[None]]
        while left:
            span, depth = left.pop()
            yield from ("  " * depth + line for line in span.lines(began))
            left += [(child, depth + 1) for child in below[span.span_id]]

    def _children(self) -> dict[str | None, list[Span]]:
        """Return the spans by the id of their parent, None if it is not in the trace; the latest first."""
        ids = {span.span_id for span in self.spans}
        children: dict[str | None, list[Span]] = defaultdict(list)
        for span in sorted(self.spans, key=lambda span: span.start, reverse=True):
            children[span.parent_id if span.parent_id in ids else None].append(span)
        return children


def _span(encoded: Encoded) -> Span:
    attributes = values(encoded.attributes)
    return Span(
        span_id=encoded.span_id.hex(),
        parent_id=encoded.parent_span_id.hex() or None,
        name=encoded.name,
        type=str(attributes.pop(SPAN_TYPE, "UNKNOWN")),
        status=_CODES.get(encoded.status.code, "unset"),
        message=encoded.status.message,
        start=encoded.start_time_unix_nano / _NANO,
        end=encoded.end_time_unix_nano / _NANO if encoded.end_time_unix_nano else None,
        inputs=attributes.pop(SPAN_INPUTS, None),
        outputs=attributes.pop(SPAN_OUTPUTS, None),
        attributes=attributes,
        events=tuple(
            {
                "name": event.name,
                "time": event.time_unix_nano / _NANO,
                "attributes": values(event.attributes),
            }
            for event in encoded.events
        ),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
