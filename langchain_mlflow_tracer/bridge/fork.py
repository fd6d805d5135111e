"""Makes strangers, in a forked child, of the traces that its parent has begun: those the parent delivers.

The child has a copy of everything that MLflow keeps of them, but most children end without a word, and what
they added to such a copy would be lost. So to the child they are traces of another process, which it joins.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Final

from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.mlflow_private.tracing import Mlflow

__all__ = ["is_inherited", "lock", "watch"]

lock: Final = threading.RLock()
"""Held while MLflow is told of a trace of ours, and while such a trace ends: rarely, and shortly."""

PATIENCE: Final = 2.0
"""Seconds that a fork waits for a lock that is held shortly: beyond, its holder hangs."""


class _Fork:
    """What must not be copied in the middle of a change, and what was copied."""

    def __init__(self) -> None:
        self.mlflow: Mlflow | None = None
        self.forget: Callable[[], None] = lambda: None
        self.inherited: frozenset[int] = frozenset()
        self._held: list[Any] = []

    def before(self) -> None:
        """Wait until nobody changes anything: a child could never release what another thread holds."""
        self._held = [one for one in (lock, *self._of_mlflow()) if one.acquire(timeout=PATIENCE)]

    def after_in_parent(self) -> None:
        """Go on."""
        for one in reversed(self._held):
            one.release()

    def after_in_child(self) -> None:
        """Go on without what the parent has begun."""
        self.after_in_parent()
        self.forget()
        if self.mlflow is not None:
            self.inherited |= attempt(self.mlflow.inherited, lambda _: frozenset())

    def _of_mlflow(self) -> list[Any]:
        mlflow = self.mlflow
        return [] if mlflow is None else attempt(lambda: [mlflow.lock()], lambda _: [])


_fork: Final = _Fork()


def watch(mlflow: Mlflow, forget: Callable[[], None] | None = None) -> None:
    """Let forks of this process go well; `forget` drops, in a child, what is known of open traces."""
    if _fork.mlflow is None and hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
        os.register_at_fork(
            before=_fork.before,
            after_in_parent=_fork.after_in_parent,
            after_in_child=_fork.after_in_child,
        )
    _fork.mlflow, _fork.forget = mlflow, forget or _fork.forget


def is_inherited(otel_id: int) -> bool:
    """Whether a trace was begun by a parent of this process, by its OpenTelemetry id."""
    return otel_id in _fork.inherited
