"""Counts a long text once in the size of a trace, however many of its spans were given it.

Spans share immutable values (see `freeze`): a picture of ten megabytes that passes through five steps takes
ten megabytes, not fifty, and must not keep other traces out of the queue for so much.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from langchain_mlflow_tracer.core.record import SpanRecord, TraceRecord

__all__ = ["count_once"]

LARGE: Final = 1024 * 1024
"""Bytes from which a trace is worth a look: smaller ones have room however they are counted."""

LONG: Final = 16 * 1024
"""Characters from which a text counts at all."""

LOOKED_AT: Final = 10_000
"""Values that are looked at, two milliseconds of the caller's time: pictures are in small structures."""


def count_once(trace: TraceRecord) -> int:
    """Take repetitions of long texts off the sizes of the spans; return the size of the trace."""
    size = trace.size
    if size < LARGE:
        return size
    _take_off_repetitions(trace)
    return trace.size


def _take_off_repetitions(trace: TraceRecord) -> None:
    counted: set[int] = set()
    left: list[tuple[SpanRecord, object]] = [
        (span, value) for span in trace.spans for value in (span.inputs, span.outputs, span.attributes)
    ]
    for _ in range(LOOKED_AT):
        if not left:
            return
        span, value = left.pop()
        if isinstance(value, str):
            _count(value, span, counted)
        else:
            left += [(span, item) for item in _items(value)]


def _count(text: str, span: SpanRecord, counted: set[int]) -> None:
    if len(text) >= LONG:
        if id(text) in counted:
            span.size -= len(text)
        counted.add(id(text))


def _items(value: object) -> Iterable[object]:
    """Return what a structure holds; of one that is itself too large to look at, nothing."""
    if not isinstance(value, dict | list) or len(value) > LOOKED_AT:
        return ()
    return value.values() if isinstance(value, dict) else value
