"""Finds the private names that join MLflow's spans with ours: its contexts, its traces, its settings.

Imported only when the application has imported mlflow: everything here is looked up in what is there.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from langchain_mlflow_tracer.mlflow_private import gone, made_with
from langchain_mlflow_tracer.mlflow_private.span import check_span

__all__ = ["Mlflow", "find"]

PROPAGATE: Final = "MLFLOW_TRACE_PROPAGATE_TO_OTEL_CONTEXT"
"""MLflow's switch to show its spans to all of OpenTelemetry (mlflow 3.15)."""

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

_model_id: Final = attrgetter("model_id")


@dataclass(frozen=True, slots=True)
class Mlflow:
    """What the bridge needs of MLflow, in the form in which this version has it."""

    contexts: tuple[ContextVar[Context], ...]
    """Where the current span is kept: MLflow's own place, and OpenTelemetry's if MLflow is set to it."""
    manager: Callable[[], Any]
    """Returns the one that holds the traces which have not ended, `InMemoryTraceManager`."""
    kept_trace: type
    """What it holds of each."""
    live_span: Callable[..., Any]
    """Makes a span of MLflow's from one of OpenTelemetry that runs."""
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
    prompt_version: Callable[..., Any]

    # MLflow's settings.

    def is_enabled(self) -> bool:
        """Whether MLflow traces here and now: `mlflow.tracing.disable()`, `context(enabled=False)`."""
        context = self.user_context.get()
        if context is not None and context.enabled is False:
            return False
        # Not is_tracing_enabled(), which asks the provider for a tracer, and reads the environment: 20 µs.
        return type(self.current_provider()).__name__ != "NoOpTracerProvider"

    def trace_defaults(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Return the metadata and tags that MLflow gives to a trace that starts now: run, model, context."""
        metadata: dict[str, str] = {}
        if any(self.tracking._active_run_stack.get_all_thread_values().values()):
            run = self.tracking._get_latest_active_run()
            metadata |= {} if run is None else {"mlflow.sourceRun": run.info.run_id}
        if model := self._active_model():
            metadata["mlflow.modelId"] = model
        context = self.user_context.get()
        return (metadata, _NOTHING) if context is None else ({**metadata, **context.metadata}, context.tags)

    def _active_model(self) -> str | None:
        # Where no thread has one, and this one was asked before, there is nothing to be looked for.
        models = self.tracking._ACTIVE_MODEL_CONTEXT.get_all_thread_values()
        if threading.get_ident() in models and not any(map(_model_id, models.values())):
            return None
        model: str | None = self.tracking._get_active_model_id_global()
        return model

    @property
    def span_processors(self) -> Sequence[Callable[[Any], None]]:
        """What `mlflow.tracing.configure(span_processors=…)` was given."""
        given: Sequence[Callable[[Any], None]] = self.config.get_config().span_processors
        return given

    # What MLflow knows.

    def note_last(self, trace_id: str) -> None:
        """Let `mlflow.get_last_active_trace_id()` return a trace."""
        self.fluent._set_last_active_trace_id(trace_id)

    def note_last_here(self, trace_id: str) -> None:
        """Let `mlflow.get_last_active_trace_id(thread_local=True)` return a trace that begins here."""
        self.fluent._LAST_ACTIVE_TRACE_ID_THREAD_LOCAL.set(trace_id)

    def kept(self, otel_id: int) -> Any | None:
        """Return what MLflow keeps of a trace that has not ended, or None."""
        manager = self.manager()
        with manager._lock:
            trace_id = manager._otel_id_to_mlflow_trace_id.get(otel_id)
            return None if trace_id is None else manager._traces.get(trace_id)

    def keep(self, otel_id: int, info: Any) -> Any:
        """Make a trace known to MLflow, and return what it keeps of it."""
        manager = self.manager()
        manager.register_trace(otel_id, info)
        with manager._lock:
            return manager._traces[info.trace_id]

    @property
    def shared_context(self) -> ContextVar[Context]:
        """Where OpenTelemetry keeps the current span, of whomever it is."""
        return _shared()

    def is_asked_to_join(self, otel_id: int) -> bool:
        """Whether the remote span that is current was put there through MLflow, to be joined.

        In a context of its own nobody else puts one; in OpenTelemetry's MLflow notes the trace of it.
        """
        return self.contexts[0] is not _shared() or self.kept(otel_id) is not None

    def drop(self, otel_id: int, kept: Any) -> None:
        """Let MLflow forget a trace, if it still keeps that one."""
        manager = self.manager()
        with manager._lock:
            if manager._traces.get(kept.info.trace_id) is kept:
                del manager._traces[kept.info.trace_id]
                manager._otel_id_to_mlflow_trace_id.pop(otel_id, None)

    def lock(self) -> Any:
        """Return the lock that MLflow holds while it changes what it keeps."""
        return self.manager()._lock

    def inherited(self) -> frozenset[int]:
        """In a forked child: let MLflow take the traces it keeps for another process's; return their ids."""
        manager = self.manager()
        for kept in list(manager._traces.values()):
            kept.is_remote_trace = True
            kept.span_dict = dict(kept.span_dict)  # its own again
        return frozenset(manager._otel_id_to_mlflow_trace_id)

    def link_prompt(self, kept: Any, name: str, version: str) -> None:
        """Let MLflow link a prompt's version to a trace that it keeps, as one that is loaded inside it."""
        prompt = self.prompt_version(name, int(version), "")
        self.manager().register_prompt(kept.info.trace_id, prompt)

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
    with gone():
        return _tested(_found())


def _found() -> Mlflow:
    provider = importlib.import_module("mlflow.tracing.provider")
    managing = importlib.import_module("mlflow.tracing.trace_manager")
    entities = importlib.import_module("mlflow.entities")
    return Mlflow(
        contexts=_contexts(provider),
        manager=managing.InMemoryTraceManager.get_instance,
        kept_trace=managing._Trace,
        live_span=importlib.import_module("mlflow.entities.span").LiveSpan,
        trace_info=entities.TraceInfo,
        trace_location=entities.TraceLocation,
        trace_state=entities.TraceState,
        user_context=importlib.import_module("mlflow.tracing.context")._USER_TRACE_CONTEXT,
        provider=provider,
        current_provider=_current_provider(provider),
        fluent=importlib.import_module("mlflow.tracing.fluent"),
        tracking=importlib.import_module("mlflow.tracking.fluent"),
        config=importlib.import_module("mlflow.tracing.config"),
        apply_processors=importlib.import_module("mlflow.tracing.utils.processor").apply_span_processors,
        prompt_version=importlib.import_module("mlflow.entities.model_registry").PromptVersion,
    )


def _current_provider(provider: Any) -> Callable[[], object]:
    holder = provider.provider
    if provider.get_context_api() is otel_context:
        return lambda: otel_trace._TRACER_PROVIDER
    return lambda: holder._isolated_tracer_provider


def _shared() -> ContextVar[Context]:
    found: ContextVar[Context] = otel_context._RUNTIME_CONTEXT._current_context  # type: ignore[attr-defined]
    return found


def _contexts(provider: Any) -> tuple[ContextVar[Context], ...]:
    shared = _shared()
    api = provider.get_context_api()
    if api is otel_context:
        return (shared,)
    own = api._current_context
    flag = getattr(sys.modules["mlflow.environment_variables"], PROPAGATE, None)
    return (own, shared) if flag is not None and flag.get() else (own,)


def _tested(mlflow: Mlflow) -> Mlflow:
    """Use each name once, in ways that change nothing."""
    mlflow.is_enabled()
    mlflow.trace_defaults()
    _ = list(mlflow.span_processors)
    mlflow.kept(0)
    for variable in mlflow.contexts:
        dict(variable.get())
    for owner, name in (
        (mlflow.fluent, "_set_last_active_trace_id"),
        (mlflow.fluent._LAST_ACTIVE_TRACE_ID_THREAD_LOCAL, "set"),
        (mlflow.tracking, "_get_latest_active_run"),
        (mlflow.tracking, "_get_active_model_id_global"),
        (mlflow.manager(), "register_trace"),
        (mlflow.manager(), "register_prompt"),
        (mlflow.manager()._lock, "acquire"),
        (mlflow.manager()._traces, "get"),
        (mlflow.provider.provider, "get"),
    ):
        getattr(owner, name)
    made_with(TracerProvider, "_active_span_processor")
    _test_entities(mlflow)
    return mlflow


def _test_entities(mlflow: Mlflow) -> None:
    check_span()
    mlflow.live_span(_Writable("self-test"), "tr-1", "UNKNOWN")
    info = mlflow.trace_info(
        trace_id="tr-1",
        trace_location=mlflow.trace_location.from_experiment_id(None),
        request_time=0,
        state=mlflow.trace_state.IN_PROGRESS,
        trace_metadata={},
        tags={},
    )
    for name in ("client_request_id", "request_preview", "response_preview", "tags", "trace_metadata"):
        getattr(info, name)
    made_with(mlflow.kept_trace, "info", "span_dict", "prompts", "is_remote_trace")


class _Writable(ReadableSpan):
    """A span as MLflow wants one that runs."""

    def set_attribute(self, _key: str, _value: Any) -> None:
        """Nothing new."""
