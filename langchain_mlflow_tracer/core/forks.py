"""Prepares forks of this process: one ordered list of what is locked before, and what is renewed after.

A forked child has a copy of all memory, but of all threads only the one that forked. So a lock that another
thread holds at that moment is never released in the child, and what that thread was changing stays half done.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
import weakref
from collections.abc import Callable
from enum import IntEnum, auto
from operator import itemgetter
from types import TracebackType
from typing import Final, TypeVar

from langchain_mlflow_tracer.core.guard import attempt

__all__ = ["ForkLock", "Order", "enter"]

T = TypeVar("T")


class Order(IntEnum):
    """The order before a fork; after it, in parent and child, the reverse.

    Code that needs two of these locks takes them in this order. A fork takes all of them, so it must keep
    to it: else a fork and another thread could wait for each other.
    """

    BRIDGE = auto()
    """A lock: while MLflow is given a trace of ours."""
    MLFLOW = auto()
    """The lock of MLflow's own table of traces, taken by code that holds the lock of the bridge."""
    REGISTRY = auto()
    """A lock: while pipelines are made, which open spools."""
    IMPORT = auto()
    """A lock: while mlflow is imported. A child would keep a half imported module until its end."""
    PIPELINE = auto()
    """A lock: while a spool is opened, so that none is opened between this step and the next."""
    DATABASE = auto()
    """Two locks, and a connection that is closed: SQLite forbids a child to use or close its parent's."""

    # The following have a step in the child only. There the order is reversed, so RECORDER is the first,
    # then WRITER and LOG: the garbage collector may run at any moment and close a stream, which takes the
    # locks of these three. So these locks are replaced before any other step.

    FILE_LOCK = auto()
    """A copy of an open file, by which the child would keep the lock of its parent."""
    PROCESS = auto()
    """Copies of pipes, which would keep the forwarder process of the parent running."""
    LOG = auto()
    WRITER = auto()
    RECORDER = auto()


_entries: Final[dict[int, tuple[Order, dict[str, Callable[[], None]]]]] = {}
"""What is done at a fork with each object, by the number of its entry."""

_numbers: Final = itertools.count()
_turn: Final = threading.RLock()
"""Held during a fork: of two threads that fork at once, one waits, so that no object is in two forks."""


def enter(
    entered: T,
    order: Order,
    *,
    before: Callable[[T], object] | None = None,
    in_parent: Callable[[T], object] | None = None,
    in_child: Callable[[T], object] | None = None,
) -> None:
    """Call these functions with `entered` at each fork of this process, while others refer to it.

    They are functions of its class, not bound methods, which would keep it in memory.
    """
    number = next(_numbers)
    steps = {"before": before, "in_parent": in_parent, "in_child": in_child}
    reference = weakref.ref(entered, lambda _: _entries.pop(number, None))
    _entries[number] = order, {name: _step(reference, call) for name, call in steps.items() if call}


def _step(reference: weakref.ref[T], call: Callable[[T], object]) -> Callable[[], None]:
    def step() -> None:
        entered = reference()
        if entered is not None:
            call(entered)

    return step


def _run(step: str, *, reverse: bool) -> None:
    # Other threads may enter objects meanwhile: `sorted` copies the values in one step of the interpreter.
    for _, steps in sorted(_entries.values(), key=itemgetter(0), reverse=reverse):
        if step in steps:
            attempt(steps[step], lambda _: None)  # a failed step must not prevent the next


def _before() -> None:
    _turn.acquire()
    _run("before", reverse=False)


def _after(step: str) -> None:
    try:
        _run(step, reverse=True)
    finally:
        # In the child too: its only thread took it. Not taken if the handler of a signal raised.
        with contextlib.suppress(RuntimeError):
            _turn.release()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(
        before=_before,
        after_in_parent=functools.partial(_after, "in_parent"),
        after_in_child=functools.partial(_after, "in_child"),
    )


class ForkLock:
    """A lock that a fork waits for, so that no child begins in the middle of what it guards."""

    def __init__(self, order: Order, patience: float) -> None:
        """`patience`: seconds that a fork waits; a thread that holds the lock longer hangs."""
        self._patience = patience
        self._is_held = False
        self._lock = threading.RLock()
        enter(self, order, before=ForkLock._acquire, in_parent=ForkLock._release, in_child=ForkLock._renew)

    def _acquire(self) -> None:
        self._is_held = self._lock.acquire(timeout=self._patience)

    def _release(self) -> None:
        if self._is_held:
            self._is_held = False
            self._lock.release()

    def _renew(self) -> None:
        if not self._is_held:
            self._lock = threading.RLock()  # its holder is a thread that the child does not have
        self._release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self._lock.release()
