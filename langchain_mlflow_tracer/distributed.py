"""Carries a trace from process to process: W3C's `traceparent`, read and written without mlflow."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from langchain_mlflow_tracer.record import SpanLink

__all__ = ["Caller", "current_caller", "header", "join_trace"]

HEADER: Final = "traceparent"

_FORM: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_NONE: Final = frozenset({"0" * 32, "0" * 16})
_SAMPLED: Final = 1
"""The bit of the flags that says that the caller records its trace."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The span of another process that called this one, and whether that is recorded."""

    span: SpanLink
    is_sampled: bool


_caller: Final[ContextVar[Caller | None]] = ContextVar("langchain_mlflow_tracer_caller", default=None)


@contextlib.contextmanager
def join_trace(headers: Mapping[str, str]) -> Iterator[None]:
    """Let the chains inside become part of the trace of whoever sent these HTTP headers.

    For a service that is called by another one. The header is `traceparent` (W3C Trace Context); `headers` is
    any mapping, names in any case. Without such a header, or with one that is none, chains begin
    traces of their own; if it says that the caller records nothing, nothing is recorded. mlflow is not
    needed. The caller's process delivers the root, this one its part, both to the same MLflow experiment.
    """
    found = next((value for name, value in headers.items() if name.lower() == HEADER), "")
    token = _caller.set(_parsed(found))
    try:
        yield
    finally:
        _caller.reset(token)


def current_caller() -> Caller | None:
    """Return who called, here and now."""
    return _caller.get()


def header(trace_id: bytes, span_id: bytes) -> dict[str, str]:
    """Return the header by which another process joins a trace below a span."""
    return {HEADER: f"00-{trace_id.hex()}-{span_id.hex()}-{_SAMPLED:02x}"}


def _parsed(text: str) -> Caller | None:
    match = _FORM.fullmatch(text.strip())
    if match is None or not _NONE.isdisjoint(match.groups()):
        return None
    trace_id, span_id = bytes.fromhex(match[1]), bytes.fromhex(match[2])
    return Caller(SpanLink(trace_id, span_id), bool(int(match[3], 16) & _SAMPLED))
