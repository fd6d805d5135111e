"""Knows the private names of MLflow, all of them, and whether they are still there (mlflow 3.12 to 3.17).

Imported only when the application has imported mlflow: everything here is looked up in what is there.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.context import Context

__all__ = ["Gone", "Mlflow", "find"]

PROPAGATE: Final = "MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT"
"""MLflow's switch to show its spans to all of OpenTelemetry (mlflow 3.15)."""


class Gone(Exception):  # noqa: N818 - what has happened to a name
    """A private name of MLflow is not where it was; says which."""


@dataclass(frozen=True, slots=True)
class Mlflow:
    """What the bridge needs of MLflow, in the form in which this version has it."""

    contexts: tuple[ContextVar[Context], ...]
    """Where the current span is kept: MLflow's own place, and OpenTelemetry's where MLflow was told so."""
    manager: Callable[[], Any]
    """Returns the one that holds the traces which have not ended, `InMemoryTraceManager`."""
    live_span: Callable[..., Any]
    trace_info: Callable[..., Any]
    trace_location: Any
    trace_state: Any
    user_context: ContextVar[Any]
    """What `mlflow.tracing.context(...)` said."""
    provider: Any
    current_provider: Callable[[], object]
    """Returns the provider of tracers, None before the first span."""
    fluent: Any
    tracking: Any
    config: Any
    apply_processors: Callable[[Any], None]

    # What MLflow was told.

    def is_enabled(self) -> bool:
        """Whether MLflow traces here and now: `mlflow.tracing.disable()`, `context(enabled=False)`."""
        told = self.user_context.get()
        if told is not None and told.enabled is False:
            return False
        # Not is_tracing_enabled(), which asks the provider for a tracer, and reads the environment: 20 µs.
        return type(self.current_provider()).__name__ != "NoOpTracerProvider"

    def told_tags(self) -> Mapping[str, str]:
        """Return the tags that `mlflow.tracing.context(...)` gives to traces."""
        told = self.user_context.get()
        return told.tags if told is not None else {}

    def told_metadata(self) -> Mapping[str, str]:
        """Return the metadata that MLflow gives to a trace that starts now: run, model, context."""
        metadata: dict[str, str] = {}
        if any(self.tracking._active_run_stack.get_all_thread_values().values()):  # noqa: SLF001
            run = self.tracking._get_latest_active_run()  # noqa: SLF001
            metadata |= {} if run is None else {"mlflow.sourceRun": run.info.run_id}
        if model := self._active_model():
            metadata["mlflow.modelId"] = model
        told = self.user_context.get()
        return {**metadata, **told.metadata} if told is not None else metadata

    def _active_model(self) -> str | None:
        # Where no thread has one, and this one was asked before, there is nothing to be looked for.
        models = self.tracking._ACTIVE_MODEL_CONTEXT.get_all_thread_values()  # noqa: SLF001
        here = models.get(threading.get_ident())
        if here is not None and not any(one.model_id for one in models.values()):
            return None
        model: str | None = self.tracking._get_active_model_id_global()  # noqa: SLF001
        return model

    @property
    def span_processors(self) -> list[Callable[[Any], None]]:
        """What `mlflow.tracing.configure(span_processors=…)` was given."""
        return list(self.config.get_config().span_processors)

    # What MLflow knows.

    def note_last(self, trace_id: str) -> None:
        """Let `mlflow.get_last_active_trace_id()` return a trace."""
        self.fluent._set_last_active_trace_id(trace_id)  # noqa: SLF001

    def note_last_here(self, trace_id: str) -> None:
        """Let `mlflow.get_last_active_trace_id(thread_local=True)` return a trace that begins here."""
        self.fluent._LAST_ACTIVE_TRACE_ID_THREAD_LOCAL.set(trace_id)  # noqa: SLF001

    def kept(self, otel_id: int) -> Any | None:
        """Return what MLflow keeps of a trace that has not ended, or None."""
        manager = self.manager()
        with manager._lock:  # noqa: SLF001
            trace_id = manager._otel_id_to_mlflow_trace_id.get(otel_id)  # noqa: SLF001
            return None if trace_id is None else manager._traces.get(trace_id)  # noqa: SLF001

    def keep(self, otel_id: int, info: Any) -> Any:
        """Make a trace known to MLflow, and return what it keeps of it."""
        manager = self.manager()
        manager.register_trace(otel_id, info)
        with manager._lock:  # noqa: SLF001
            return manager._traces[info.trace_id]  # noqa: SLF001

    def drop(self, otel_id: int, kept: Any) -> None:
        """Let MLflow forget a trace, if it still keeps that one."""
        manager = self.manager()
        with manager._lock:  # noqa: SLF001
            if manager._traces.get(kept.info.trace_id) is kept:  # noqa: SLF001
                del manager._traces[kept.info.trace_id]  # noqa: SLF001
                manager._otel_id_to_mlflow_trace_id.pop(otel_id, None)  # noqa: SLF001

    def ended(self, span: Any) -> None:
        """Let MLflow export a span that has ended, as it does with its own."""
        processors = getattr(self.provider.provider.get(), "_active_span_processor", None)
        if processors is not None:
            processors.on_end(span)


def find() -> Mlflow:
    """Find everything in the mlflow that is imported, and try what can be tried.

    Raises:
        Gone: something is missing, or is not what it was.
    """
    try:
        return _tested(_found())
    except (ImportError, AttributeError, TypeError, LookupError) as error:
        raise Gone(f"{type(error).__name__}: {error}") from error


def _found() -> Mlflow:
    provider = importlib.import_module("mlflow.tracing.provider")
    entities = importlib.import_module("mlflow.entities")
    return Mlflow(
        contexts=_contexts(provider),
        manager=importlib.import_module("mlflow.tracing.trace_manager").InMemoryTraceManager.get_instance,
        live_span=importlib.import_module("mlflow.entities.span").LiveSpan,
        trace_info=entities.TraceInfo,
        trace_location=entities.TraceLocation,
        trace_state=entities.TraceState,
        user_context=importlib.import_module("mlflow.tracing.context")._USER_TRACE_CONTEXT,  # noqa: SLF001
        provider=provider,
        current_provider=_current_provider(provider),
        fluent=importlib.import_module("mlflow.tracing.fluent"),
        tracking=importlib.import_module("mlflow.tracking.fluent"),
        config=importlib.import_module("mlflow.tracing.config"),
        apply_processors=importlib.import_module("mlflow.tracing.utils.processor").apply_span_processors,
    )


def _current_provider(provider: Any) -> Callable[[], object]:
    holder = provider.provider
    if provider.get_context_api() is otel_context:
        return lambda: otel_trace._TRACER_PROVIDER  # noqa: SLF001
    return lambda: holder._isolated_tracer_provider  # noqa: SLF001


def _contexts(provider: Any) -> tuple[ContextVar[Context], ...]:
    shared = otel_context._RUNTIME_CONTEXT._current_context  # type: ignore[attr-defined]  # noqa: SLF001
    api = provider.get_context_api()
    if api is otel_context:
        return (shared,)
    own = api._current_context  # noqa: SLF001
    flag = getattr(sys.modules["mlflow.environment_variables"], PROPAGATE, None)
    return (own, shared) if flag is not None and flag.get() else (own,)


def _tested(mlflow: Mlflow) -> Mlflow:
    """Use each name once, in ways that change nothing."""
    mlflow.is_enabled()
    mlflow.told_metadata()
    _ = mlflow.span_processors
    mlflow.kept(0)
    for variable in mlflow.contexts:
        dict(variable.get())
    for owner, name in (
        (mlflow.fluent, "_set_last_active_trace_id"),
        (mlflow.fluent._LAST_ACTIVE_TRACE_ID_THREAD_LOCAL, "set"),  # noqa: SLF001
        (mlflow.tracking, "_get_latest_active_run"),
        (mlflow.tracking, "_get_active_model_id_global"),
        (mlflow.manager(), "register_trace"),
        (mlflow.manager()._lock, "acquire"),  # noqa: SLF001
    ):
        getattr(owner, name)
    return mlflow
