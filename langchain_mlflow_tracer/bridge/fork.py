"""Lets a forked child treat the open traces of its parent as traces of another process, which it joins.

The child has a copy of everything that MLflow keeps of them, but most children end without delivering
anything, and what they added to such a copy would be lost. The parent delivers these traces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from langchain_mlflow_tracer.core import forks
from langchain_mlflow_tracer.mlflow_private.tracing import Mlflow

__all__ = ["is_inherited", "lock", "watch"]

PATIENCE: Final = 2.0
"""Seconds that a fork waits for each of the two locks: both are held for microseconds."""

lock: Final = forks.ForkLock(forks.Order.BRIDGE, PATIENCE)
"""Held while MLflow is given a trace of ours, and while such a trace ends."""


class _Fork:
    """What a fork needs to know of MLflow."""

    def __init__(self) -> None:
        self.mlflow: Mlflow | None = None
        self.forget: Callable[[], None] = lambda: None
        self.inherited: frozenset[int] = frozenset()
        self._mlflow_lock: Any = None
        forks.enter(
            self, forks.Order.MLFLOW,
            before=_Fork._acquire, in_parent=_Fork._release, in_child=_Fork._make_foreign,
        )  # fmt: skip

    def _acquire(self) -> None:
        mlflow_lock = None if self.mlflow is None else self.mlflow.lock()
        if mlflow_lock is not None and mlflow_lock.acquire(timeout=PATIENCE):
            self._mlflow_lock = mlflow_lock

    def _release(self) -> None:
        mlflow_lock, self._mlflow_lock = self._mlflow_lock, None
        if mlflow_lock is not None:
            mlflow_lock.release()

    def _make_foreign(self) -> None:
        self._release()
        self.forget()
        if self.mlflow is not None:
            self.inherited |= self.mlflow.inherited()


_fork: Final = _Fork()


def watch(mlflow: Mlflow, forget: Callable[[], None] | None = None) -> None:
    """Prepare forks of this process; `forget` drops, in a child, what is known of open traces."""
    _fork.mlflow, _fork.forget = mlflow, forget or _fork.forget


def is_inherited(otel_id: int) -> bool:
    """Whether a trace was begun by a parent of this process, by its OpenTelemetry id."""
    return otel_id in _fork.inherited
