"""Looks at the mlflow that is installed here: it speaks to every destination."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

from langchain_mlflow_tracer.doctor.finding import Finding, ok

__all__ = ["IMPORT", "look"]

IMPORT: Final = 60.0
"""Seconds for importing mlflow: two on a machine at rest, many on a cold or busy one."""


def look() -> Iterator[Finding]:
    """Import mlflow, so that no later check is charged for it, and say its version."""
    for name in ("mlflow.tracking", "mlflow.utils.rest_utils", "mlflow.store.db.utils"):
        importlib.import_module(name)
    yield ok("client", f"mlflow {version('mlflow')} is installed here")
