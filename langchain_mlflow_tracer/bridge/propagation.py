"""Lets OpenTelemetry's own `inject` carry traces of ours: to a service that is called inside a run.

A run is no span of OpenTelemetry's: in its context it would become the parent of what other people record
elsewhere. So its ids are written where a call leaves, by the class that writes W3C's headers, changed once
(seen in opentelemetry-api 1.45): the mark always, `traceparent` only where there would be none.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, Final

from opentelemetry.propagators.textmap import default_setter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from langchain_mlflow_tracer import run
from langchain_mlflow_tracer.distributed import HEADER, STATE, headers_of
from langchain_mlflow_tracer.foreign import attempt
from langchain_mlflow_tracer.recorder import Recorder

__all__ = ["carry"]

_recorders: Final[weakref.WeakSet[Recorder]] = weakref.WeakSet()
_changed: Final[set[type]] = set()


def carry(recorder: Recorder) -> None:
    """Let the runs of a recorder be known to whoever is called inside of them."""
    _recorders.add(recorder)
    if TraceContextTextMapPropagator not in _changed:
        _changed.add(TraceContextTextMapPropagator)
        injecting = _injecting(TraceContextTextMapPropagator.inject)
        TraceContextTextMapPropagator.inject = injecting  # type: ignore[method-assign]


def _injecting(inject: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(inject)
    def injecting(self: Any, carrier: Any, context: Any = None, setter: Any = default_setter) -> None:
        said: dict[str, str] = {}
        inject(self, said, context)
        for name, value in {**said, **attempt(lambda: _ours(said), lambda _: {})}.items():
            setter.set(carrier, name, value)

    return injecting


def _ours(said: dict[str, str]) -> dict[str, str]:
    """Return what is to be said beside, or in place of, what OpenTelemetry says."""
    run_id = run.named_parent()
    for recorder in list(_recorders) if run_id is not None else ():
        if found := headers_of(recorder, run_id):
            state = _beside(said.get(STATE, ""), found[STATE])
            return {HEADER: said.get(HEADER, found[HEADER]), STATE: state}
    return {}


def _beside(others: str, mine: str) -> str:
    """Put the mark first, as W3C wants it of who wrote last, and leave out an older one."""
    key = mine.partition("=")[0]
    kept = [member for member in others.split(",") if member and member.partition("=")[0].strip() != key]
    return ",".join([mine, *kept])
