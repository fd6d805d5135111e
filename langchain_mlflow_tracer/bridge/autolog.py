"""Lets `mlflow.langchain.autolog()` pass over the runs that a tracer of ours records: nothing is told twice.

Autolog puts a handler of its own beside ours on every chain. It starts its spans in one place and ends them
in another (mlflow 3.12 to 3.17); there it is asked first whether the run is ours. Of a run of which only a
model's own callbacks tell us, it hears before we do; what it began is taken back.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.mlflow_private import Gone, Wrap, autolog
from langchain_mlflow_tracer.mlflow_private.autolog import Autologging

if TYPE_CHECKING:
    from langchain_mlflow_tracer.mlflow_private.tracing import Mlflow

__all__ = ["Autolog", "take_back"]

Records = Callable[[int], bool]
"""Whether a tracer records the run of that number."""

_BESIDE: Final = "mlflow.langchain.autolog() is on: it leaves to a tracer what that records, nothing is twice"
_TWICE: Final = "mlflow.langchain.autolog() may record again what a tracer records: mlflow has changed (%s)"

_GIVEN: Final = ("span_name", "parent_run_id", "span_type", "run_id")
"""What a span of it begins with."""

_tracers: Final[weakref.WeakSet[Autolog]] = weakref.WeakSet()
_stepped_before: Final[set[type]] = set()

_begun: Final[ContextVar[tuple[UUID, Any, Autologging] | None]] = ContextVar(
    "langchain_mlflow_tracer_begun", default=None
)
"""The run of which autolog has begun a span last, its handler, and how that works."""


class Autolog:
    """One tracer of ours, as far as autolog is concerned."""

    def __init__(self, records: Records, log: Log) -> None:
        self.records = records
        self._log = log
        self._is_met = False

    def look(self) -> None:
        """Step before autolog, once it is there; said once."""
        if self._is_met:
            return
        try:
            if autolog.is_on():
                self._is_met = True
                _tracers.add(self)
                _step_before(autolog.find())
                self._log.report("autolog_beside", _BESIDE)
        except Gone as gone:
            self._is_met = True
            self._log.report("autolog_twice", _TWICE, gone)


def _step_before(found: Autologging) -> None:
    if found.handler not in _stepped_before:
        _stepped_before.add(found.handler)
        found.change(_starting(found), _ending(found))


def _is_ours(run_id: Any) -> bool:
    return any(one.records(run_id.int) for one in list(_tracers))


def _starting(found: Autologging) -> Wrap:
    def wrap(start: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(start)
        def starting(self: Any, *arguments: Any, **named: Any) -> Any:
            given = {**dict(zip(_GIVEN, arguments, strict=False)), **named}
            run_id, parent_run_id = given.get("run_id"), given.get("parent_run_id")
            if run_id is None:
                return start(self, *arguments, **named)
            # Below what was passed over it would record nothing either, but hide that we do.
            if _is_ours(run_id) or (parent_run_id and found.is_passed_over(self, parent_run_id)):
                return found.pass_over(self, run_id)
            span = start(self, *arguments, **named)
            _begun.set((run_id, self, found))
            return span

        return starting

    return wrap


def take_back(run_id: UUID, mlflow: Mlflow) -> None:
    """Undo what autolog has just begun for a run that is ours."""
    begun = _begun.get()
    if begun is not None and begun[0] == run_id:
        _begun.set(None)
        attempt(_undo, lambda _: None, begun[2], begun[1], run_id, mlflow)


def _undo(found: Autologging, handler: Any, run_id: UUID, mlflow: Mlflow) -> None:
    otel_id, span_id = found.take_back(handler, run_id)
    kept = mlflow.kept(otel_id)
    if kept is not None:
        kept.span_dict.pop(span_id, None)
        if not kept.span_dict:
            mlflow.drop(otel_id, kept)


def _ending(found: Autologging) -> Wrap:
    def wrap(end: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(end)
        def ending(self: Any, run_id: Any, span: Any, *arguments: Any, **named: Any) -> Any:
            if found.is_passed_over(self, run_id):
                found.forget(self, run_id)
                return None
            return end(self, run_id, span, *arguments, **named)

        return ending

    return wrap
