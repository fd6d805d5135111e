"""Carries a trace from process to process: W3C's `traceparent`, read and written without mlflow.

A service mesh, or an HTTP client that OpenTelemetry instruments, may replace our `traceparent` by its own.
All of them pass `tracestate` on. So `tracestate` has our `traceparent` too, under a key of its own: the mark.
The mark means that MLflow has, or will have, the root of that trace.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import weakref
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from langchain_mlflow_tracer.core.record import SpanLink
from langchain_mlflow_tracer.recording.recorder import Recorder

__all__ = [
    "HEADER",
    "MARK",
    "STATE",
    "Caller",
    "called_by",
    "carry",
    "current_caller",
    "headers_here",
    "headers_of",
    "join_trace",
    "parsed",
]

HEADER: Final = "traceparent"
STATE: Final = "tracestate"

MARK: Final = "langchain-mlflow-tracer"
"""The key of our `traceparent` in `tracestate`."""

_FORM: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_NONE: Final = frozenset({"0" * 32, "0" * 16})
_SAMPLED: Final = 1
"""The bit of the flags that is set if the caller records its trace."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The span in another process that called this one, and whether the caller records it."""

    span: SpanLink
    is_sampled: bool


_recorders: Final[weakref.WeakSet[Recorder]] = weakref.WeakSet()
_caller: Final[ContextVar[Caller | None]] = ContextVar("langchain_mlflow_tracer_caller", default=None)


@contextlib.contextmanager
def join_trace(headers: Mapping[str, str]) -> Iterator[None]:
    """Record the chains inside the `with` block as part of the trace of the calling service.

    Pass the HTTP headers of the request: a mapping, with names in upper or lower case. The headers that
    count are `traceparent` and `tracestate` (W3C Trace Context).

    - Without a valid `traceparent`, each chain starts a trace of its own.
    - If the caller does not record its trace, the chains are not recorded either.

    mlflow is not needed. The caller's process sends the root of the trace, this process sends its own spans;
    both must send to the same MLflow experiment.
    """
    known = {name.lower(): value for name, value in headers.items()}
    marked = parsed(_mark_in(known.get(STATE, "")) or "")
    token = _caller.set(called_by(parsed(known.get(HEADER, "")), marked))
    try:
        yield
    finally:
        _caller.reset(token)


def current_caller() -> Caller | None:
    """Return the caller that the current `join_trace` block has; None outside of one."""
    return _caller.get()


def called_by(sender: Caller | None, marked: Caller | None) -> Caller | None:
    """Return the caller, from the `traceparent` (`sender`) and from the mark in its `tracestate` (`marked`).

    The caller writes the same value into both. If they differ, a mesh has put a span
    of its own into `traceparent`, which MLflow never gets: so the mark is right.
    """
    return sender if sender is None or marked is None else marked


def headers_of(recorder: Recorder, run_id: UUID | None) -> dict[str, str]:
    """Return the headers by which another process joins a trace below an open run; else none.

    For a run that is not recorded the flag "sampled" is not set, and the ids are random.
    """
    if run_id is None:
        return {}
    if (run := recorder.find(run_id.int)) is not None:
        span, trace = run
        return _headers(trace.trace_id, span.span_id, _SAMPLED)
    if recorder.is_open(run_id.int):
        return _headers(secrets.token_bytes(16), secrets.token_bytes(8), 0)
    return {}


def carry(recorder: Recorder) -> None:
    """Make the open runs of a recorder known to OpenTelemetry's `inject` (see `bridge.propagation`)."""
    _recorders.add(recorder)


def headers_here() -> dict[str, str]:
    """Return the headers of the run, of any tracer, whose code calls this; no headers outside of runs."""
    if not _recorders:
        return {}
    from langchain_mlflow_tracer.recording import run_info  # noqa: PLC0415 - with a tracer, LangChain is imported

    run_id = run_info.named_parent()
    candidates = (headers_of(recorder, run_id) for recorder in list(_recorders))
    return next((headers for headers in candidates if headers), {})


def parsed(text: str) -> Caller | None:
    """Read a `traceparent`; None if the text is not a valid one."""
    match = _FORM.fullmatch(text.strip())
    if match is None or not _NONE.isdisjoint(match.groups()):
        return None
    trace_id, span_id = bytes.fromhex(match[1]), bytes.fromhex(match[2])
    return Caller(SpanLink(trace_id, span_id), bool(int(match[3], 16) & _SAMPLED))


def _mark_in(state: str) -> str | None:
    """Return our `traceparent` from a `tracestate`; None without the mark."""
    members = (member.strip().partition("=") for member in state.split(","))
    return next((value for key, _, value in members if key == MARK), None)


def _headers(trace_id: bytes, span_id: bytes, flags: int) -> dict[str, str]:
    text = f"00-{trace_id.hex()}-{span_id.hex()}-{flags:02x}"
    return {HEADER: text, STATE: f"{MARK}={text}"}
