"""Carries a trace from process to process: W3C's `traceparent`, read and written without mlflow.

Who stands between two services may put its own `traceparent` in the place of ours: a mesh, a client that
OpenTelemetry instruments. All of them pass `tracestate` on. So ours stands there too, under a key of our own,
the mark: it says that MLflow has, or will have, the root of that trace.
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
"""The key in `tracestate` under which a `traceparent` of ours stands."""

_FORM: Final = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_NONE: Final = frozenset({"0" * 32, "0" * 16})
_SAMPLED: Final = 1
"""The bit of the flags that says that the caller records its trace."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The span of another process that called this one, and whether that is recorded."""

    span: SpanLink
    is_sampled: bool


_recorders: Final[weakref.WeakSet[Recorder]] = weakref.WeakSet()
_caller: Final[ContextVar[Caller | None]] = ContextVar("langchain_mlflow_tracer_caller", default=None)


@contextlib.contextmanager
def join_trace(headers: Mapping[str, str]) -> Iterator[None]:
    """Let the chains inside become part of the trace of whoever sent these HTTP headers.

    For a service that is called by another one. The header is `traceparent` (W3C Trace Context), with its
    `tracestate`; `headers` is any mapping, names in any case. Without such a header, or with one that is
    none, chains begin traces of their own; if it says that the caller records nothing, nothing is recorded.
    mlflow is not needed. The caller's process delivers the root, this one its part, both to the same MLflow
    experiment.
    """
    known = {name.lower(): value for name, value in headers.items()}
    marked = parsed(_mark_in(known.get(STATE, "")) or "")
    token = _caller.set(called_by(parsed(known.get(HEADER, "")), marked))
    try:
        yield
    finally:
        _caller.reset(token)


def current_caller() -> Caller | None:
    """Return who called, here and now, where `join_trace` was told."""
    return _caller.get()


def called_by(told: Caller | None, marked: Caller | None) -> Caller | None:
    """Return who called, by a `traceparent` and by the mark beside it.

    Who called wrote both alike. Where they differ somebody in between has put its own span into the first,
    in a trace of its own or in the same, as meshes do: a span that MLflow never sees.
    """
    return told if told is None or marked is None else marked


def headers_of(recorder: Recorder, run_id: UUID | None) -> dict[str, str]:
    """Return the headers by which another process joins a trace below an open run; none where there is none.

    Of a run that is not recorded they say so, with ids that mean nothing.
    """
    found = None if run_id is None else recorder.find(run_id.int)
    if found is not None:
        return _headers(found[1].trace_id, found[0].span_id, _SAMPLED)
    if run_id is not None and recorder.is_open(run_id.int):
        return _headers(secrets.token_bytes(16), secrets.token_bytes(8), 0)
    return {}


def carry(recorder: Recorder) -> None:
    """Let OpenTelemetry's `inject` find the open runs of a recorder (see `bridge.propagation`)."""
    _recorders.add(recorder)


def headers_here() -> dict[str, str]:
    """Return the headers of the run, of any tracer, whose code calls this; none outside of runs."""
    if not _recorders:
        return {}
    from langchain_mlflow_tracer.recording import run_info  # noqa: PLC0415 - with a tracer, LangChain is imported

    run_id = run_info.named_parent()
    found = (headers_of(recorder, run_id) for recorder in list(_recorders))
    return next((headers for headers in found if headers), {})


def parsed(text: str) -> Caller | None:
    """Read a `traceparent`; None if it is none."""
    match = _FORM.fullmatch(text.strip())
    if match is None or not _NONE.isdisjoint(match.groups()):
        return None
    trace_id, span_id = bytes.fromhex(match[1]), bytes.fromhex(match[2])
    return Caller(SpanLink(trace_id, span_id), bool(int(match[3], 16) & _SAMPLED))


def _mark_in(state: str) -> str | None:
    """Return the `traceparent` of ours that stands in a `tracestate`."""
    members = (member.strip().partition("=") for member in state.split(","))
    return next((value for key, _, value in members if key == MARK), None)


def _headers(trace_id: bytes, span_id: bytes, flags: int) -> dict[str, str]:
    text = f"00-{trace_id.hex()}-{span_id.hex()}-{flags:02x}"
    return {HEADER: text, STATE: f"{MARK}={text}"}
