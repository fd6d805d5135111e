"""Imports mlflow: once, in one thread at a time, and never while the process forks."""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Final

__all__ = ["after_fork", "before_fork", "import_mlflow", "is_done"]

MODULES: Final = ("mlflow.tracking", "mlflow.utils.rest_utils")

FORK_PATIENCE: Final = 10.0
"""Seconds that a fork waits for the import, which takes two: a child would have half of mlflow for ever."""

_lock = threading.Lock()
_forking: list[bool] = []
"""Whether the lock was had, for a fork that is under way."""


def is_done() -> bool:
    """Whether what is needed of mlflow was imported, by us or by the application."""
    return all(name in sys.modules for name in MODULES) and not _lock.locked()


def import_mlflow() -> None:
    """Import what is needed of mlflow, which takes a second or two.

    Threads that import it at the same time may each get half of it (seen with mlflow 3.17 on Python 3.11).
    """
    with _lock:
        for name in MODULES:
            importlib.import_module(name)


def before_fork() -> None:
    """Wait until no import is under way, and let none begin."""
    _forking.append(_lock.acquire(timeout=FORK_PATIENCE))


def after_fork() -> None:
    """Let imports begin, in the parent and in the child."""
    if _forking and _forking.pop():
        _lock.release()
