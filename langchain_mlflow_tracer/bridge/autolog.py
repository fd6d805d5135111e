"""Lets `mlflow.langchain.autolog()` pass over the runs that a tracer of ours records: nothing is told twice.

Autolog puts a handler of its own beside ours on every chain. It starts its spans in one place and ends them
in another (mlflow 3.12 to 3.17); there it is asked first whether the run is ours.
"""

from __future__ import annotations

import functools
import importlib
import sys
import weakref
from collections.abc import Callable
from typing import Any, Final

from langchain_mlflow_tracer.notices import Notices

__all__ = ["Autolog"]

MODULE: Final = "mlflow.langchain.langchain_tracer"
SWITCH: Final = "mlflow.langchain.autolog"

Records = Callable[[int], bool]
"""Whether a tracer records the run of that number."""

_BESIDE: Final = "mlflow.langchain.autolog() is on: it leaves to a tracer what that records, nothing is twice"

_tracers: Final[weakref.WeakSet[Autolog]] = weakref.WeakSet()
_stepped_before: Final[set[type]] = set()


class Autolog:
    """One tracer of ours, as far as autolog is concerned."""

    def __init__(self, records: Records, notices: Notices) -> None:
        self.records = records
        self._notices = notices
        self._is_met = False

    def look(self) -> None:
        """Step before autolog, once it is there; said once."""
        if not self._is_met and SWITCH in sys.modules and _is_on():
            self._is_met = True
            _tracers.add(self)
            try:
                _step_before()
            except (ImportError, AttributeError) as gone:
                self._notices.warn("autolog_twice", "mlflow.langchain.autolog() records again: %s", gone)
            else:
                self._notices.warn("autolog_beside", _BESIDE)


def _is_on() -> bool:
    utils = sys.modules.get("mlflow.utils.autologging_utils")
    config: dict[str, Any] | None = getattr(utils, "AUTOLOGGING_INTEGRATIONS", {}).get("langchain")
    # What is only imported has an empty entry (mlflow 3.17).
    return config is not None and not config.get("disable", True)


def _step_before() -> None:
    handler = importlib.import_module(MODULE).MlflowLangchainTracer
    if handler not in _stepped_before:
        _stepped_before.add(handler)
        handler._start_span = _starting(handler._start_span)  # noqa: SLF001
        handler._end_span = _ending(handler._end_span)  # noqa: SLF001


def _is_ours(run_id: Any) -> bool:
    return any(one.records(run_id.int) for one in list(_tracers))


def _starting(start: Callable[..., Any]) -> Callable[..., Any]:
    module = sys.modules[MODULE]

    @functools.wraps(start)
    def starting(self: Any, *arguments: Any, **named: Any) -> Any:
        run_id = named.get("run_id", arguments[3] if len(arguments) > 3 else None)  # noqa: PLR2004 - its fourth
        if run_id is None or not _is_ours(run_id):
            return start(self, *arguments, **named)
        nothing = module.mlflow.entities.NoOpSpan()
        self._run_span_mapping[str(run_id)] = module.SpanWithToken(nothing, None)
        return nothing

    return starting


def _ending(end: Callable[..., Any]) -> Callable[..., Any]:
    nothing: Any = sys.modules[MODULE].mlflow.entities.NoOpSpan

    @functools.wraps(end)
    def ending(self: Any, run_id: Any, span: Any, *arguments: Any, **named: Any) -> Any:
        kept = self._run_span_mapping.get(str(run_id))
        if kept is not None and kept.token is None and isinstance(span, nothing):
            del self._run_span_mapping[str(run_id)]
            return None
        return end(self, run_id, span, *arguments, **named)

    return ending
