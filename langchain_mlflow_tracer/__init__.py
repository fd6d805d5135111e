"""Records every LangChain and LangGraph run as an MLflow trace, without slowing down your application.

LangChain is imported when the first name that needs it is used: the sender process and the command need
none of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from langchain_mlflow_tracer.core.errors import (
    ConfigurationError,
    ExportError,
    PermanentExportError,
    SpoolError,
    TracerError,
    TransientExportError,
)
from langchain_mlflow_tracer.settings.settings import installed_by_environment

__all__ = [
    "ConfigurationError",
    "ExportError",
    "MlflowTracer",
    "PermanentExportError",
    "SpoolError",
    "Stats",
    "TracerError",
    "TransientExportError",
    "__version__",
    "http_clients",
    "install",
    "join_trace",
    "protect_mlflow_tracing",
    "uninstall",
    "unprotect_mlflow_tracing",
    "whole_messages",
]

__version__ = "0.1.0"

_HOMES: Final = {
    "MlflowTracer": "tracer.tracer", "http_clients": "wire", "install": "tracer.install",
    "uninstall": "tracer.install", "join_trace": "recording.trace_context",
    "protect_mlflow_tracing": "tracer.protect", "unprotect_mlflow_tracing": "tracer.protect",
    "Stats": "tracer.stats", "whole_messages": "encoding.whole_messages",
}  # fmt: skip
"""The modules of the names that are imported at their first use, because they need LangChain."""

if TYPE_CHECKING:
    from langchain_mlflow_tracer.encoding.whole_messages import whole_messages
    from langchain_mlflow_tracer.recording.trace_context import join_trace
    from langchain_mlflow_tracer.tracer.install import install, uninstall
    from langchain_mlflow_tracer.tracer.protect import protect_mlflow_tracing, unprotect_mlflow_tracing
    from langchain_mlflow_tracer.tracer.stats import Stats
    from langchain_mlflow_tracer.tracer.tracer import MlflowTracer
    from langchain_mlflow_tracer.wire import http_clients
else:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
        return globals().setdefault(name, getattr(module, name))

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


if installed_by_environment():
    importlib.import_module(f"{__name__}.tracer.install").install_lazily()
