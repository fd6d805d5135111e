"""Records every LangChain and LangGraph run in MLflow, durably, and never in the application's way."""

from __future__ import annotations

from langchain_mlflow_tracer.errors import (
    ConfigurationError,
    ExportError,
    PermanentExportError,
    SpoolError,
    TracerError,
    TransientExportError,
)
from langchain_mlflow_tracer.everywhere import install, install_lazily, uninstall
from langchain_mlflow_tracer.settings import installed_by_environment
from langchain_mlflow_tracer.tracer import MlflowTracer
from langchain_mlflow_tracer.wire import http_clients

__all__ = [
    "ConfigurationError",
    "ExportError",
    "MlflowTracer",
    "PermanentExportError",
    "SpoolError",
    "TracerError",
    "TransientExportError",
    "__version__",
    "http_clients",
    "install",
    "uninstall",
]

__version__ = "0.1.0"

if installed_by_environment():
    install_lazily()
