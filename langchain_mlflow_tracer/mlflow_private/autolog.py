"""Knows how `mlflow.langchain.autolog()` records runs: its handler, and whether it is on."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langchain_mlflow_tracer.mlflow_private import Wrap, gone, imported, made_with, span
from langchain_mlflow_tracer.mlflow_private.span import otel_span

__all__ = ["Autologging", "find", "is_on"]


@dataclass(frozen=True, slots=True)
class Autologging:
    """The handler that autolog puts beside others on every chain."""

    handler: Any
    """Its class."""
    entry: Callable[[Any, None], Any]
    """Makes what the handler remembers of a run: its span, and no token of a context."""
    nothing: Callable[[], Any]
    """Makes the span of a run that is not recorded."""
    detach: Callable[[Any], None]
    """Takes a span out of the context into which a token says that it was put."""

    def change(self, start: Wrap, end: Wrap) -> None:
        """Let the handler start and end its spans in other ways."""
        handler = self.handler
        handler._start_span = start(handler._start_span)
        handler._end_span = end(handler._end_span)

    def pass_over(self, handler: Any, run_id: UUID) -> Any:
        """Let a handler remember that a run is not recorded; return the span of such runs."""
        nothing = self.nothing()
        handler._run_span_mapping[str(run_id)] = self.entry(nothing, None)
        return nothing

    def take_back(self, handler: Any, run_id: UUID) -> tuple[int, str]:
        """Let a handler forget what it has begun for a run, and pass it over; return its trace and span."""
        begun = handler._run_span_mapping[str(run_id)]
        self.pass_over(handler, run_id)
        if begun.token is not None:
            self.detach(begun.token)
        return otel_span(begun.span).get_span_context().trace_id, begun.span.span_id

    def is_passed_over(self, handler: Any, run_id: UUID) -> bool:
        """Whether a run was passed over, and has not ended."""
        kept = handler._run_span_mapping.get(str(run_id))
        return kept is not None and kept.token is None and isinstance(kept.span, type(self.nothing()))

    def forget(self, handler: Any, run_id: UUID) -> None:
        """Let a handler forget a run."""
        del handler._run_span_mapping[str(run_id)]


def is_on() -> bool:
    """Whether somebody has called it.

    Raises:
        Gone: MLflow keeps that elsewhere.
    """
    utils = imported("mlflow.utils.autologging_utils")
    if utils is None:
        return False
    with gone():
        config = utils.AUTOLOGGING_INTEGRATIONS.get("langchain")
    # What is only imported has an empty entry (mlflow 3.17).
    return config is not None and not config.get("disable", True)


def find() -> Autologging:
    """Find all of it, and try what can be tried.

    Raises:
        Gone: something is missing, or is not what it was.
    """
    with gone():
        handler = importlib.import_module("mlflow.langchain.langchain_tracer").MlflowLangchainTracer
        entry = importlib.import_module("mlflow.tracing.utils.token").SpanWithToken
        nothing = importlib.import_module("mlflow.entities").NoOpSpan
        detach = importlib.import_module("mlflow.tracing.provider").detach_span_from_context
        return _tested(Autologging(handler, entry, nothing, detach))


def _tested(found: Autologging) -> Autologging:
    handler = found.handler
    for method, names in (
        (handler._start_span, {2: "parent_run_id", 4: "run_id"}),
        (handler._end_span, {1: "run_id", 2: "span"}),
    ):
        taken = list(inspect.signature(method).parameters)
        for place, name in names.items():
            if taken[place] != name:
                raise TypeError(f"{method.__name__} takes {', '.join(taken)}")
    made_with(handler, "_run_span_mapping")
    span.test()
    _ = found.entry(found.nothing(), None).token
    return found
