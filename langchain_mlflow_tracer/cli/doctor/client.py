"""Checks the mlflow that is installed here: all destinations are used through it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

from langchain_mlflow_tracer.cli.doctor.finding import Finding, ok
from langchain_mlflow_tracer.settings.installed_mlflow import opens_databases

__all__ = ["IMPORT", "look"]

IMPORT: Final = 60.0
"""Seconds for importing mlflow: two on a machine at rest, many on a cold or busy one."""

MODULES: Final = ("mlflow.tracking", "mlflow.utils.rest_utils", "mlflow.store.db.utils")
"""What is used for servers, and last what opens databases."""


def look() -> Iterator[Finding]:
    """Import mlflow, so that no later check takes longer for it, and report its version."""
    for name in MODULES if opens_databases() else MODULES[:-1]:
        importlib.import_module(name)
    whole = "mlflow" if opens_databases() else "mlflow-tracing"
    yield ok("client", f"{whole} {version(whole)} is installed here")
