"""Imports mlflow: once, in one thread at a time, and never while the process forks."""

from __future__ import annotations

import importlib
from typing import Final

from langchain_mlflow_tracer.core.forks import ForkLock, Order
from langchain_mlflow_tracer.mlflow_private import imported

__all__ = ["import_mlflow", "is_done"]

MODULES: Final = ("mlflow", "mlflow.tracking", "mlflow.utils.rest_utils")

FORK_PATIENCE: Final = 10.0
"""Seconds that a fork waits for the import, which takes two."""

_lock: Final = ForkLock(Order.IMPORT, FORK_PATIENCE)


def is_done() -> bool:
    """Whether what is needed of mlflow was imported, by us or by the application."""
    return all(imported(name) for name in MODULES)


def import_mlflow() -> None:
    """Import what is needed of mlflow, which takes a second or two.

    Threads that import it at the same time may each get half of it (seen with mlflow 3.17 on Python 3.11).
    """
    with _lock:
        for name in MODULES:
            importlib.import_module(name)
