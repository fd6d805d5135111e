"""Calls code that is not ours, which may raise anything, and goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

__all__ = ["Worker", "attempt"]

T = TypeVar("T")
Given = TypeVarTuple("Given")


class Worker(threading.Thread):
    """A thread of ours, which does not keep the process from ending.

    Python runs the handlers of signals on the main thread only. So here a `KeyboardInterrupt` or `SystemExit`
    comes from foreign code, and is meant for nobody: the loops of these threads survive every
    `BaseException`.
    """

    def __init__(self, name: str, run: Callable[[], object]) -> None:
        """Do `run`, once started."""
        super().__init__(target=run, name=f"mlflow-tracer-{name}", daemon=True)


def attempt(call: Callable[[*Given], T], otherwise: Callable[[BaseException], T], *given: *Given) -> T:
    """Return what `call` returns of what it is given, or what `otherwise` makes of the exception it raised.

    A payload's `__repr__` and a user's redaction function are foreign: one bad value may cost itself,
    never the trace it is in. This is the one place outside the hooks and the threads' loops that
    catches everything.

    On a caller's thread what is no `Exception` goes on: a signal may have raised it, for the application.
    """
    try:
        return call(*given)
    except BaseException as error:  # foreign code raises what it likes
        if not isinstance(error, Exception) and not isinstance(threading.current_thread(), Worker):
            raise
        return otherwise(error)
