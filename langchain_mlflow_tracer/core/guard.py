"""Catches what must not reach the application: exceptions of hooks, and of code that is not ours."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from langchain_mlflow_tracer.core.log import Log

__all__ = ["Guard", "Worker", "attempt"]

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


class Guard:
    """Catches every `Exception` of a hook, so that it does not reach LangChain; counts and logs it.

    A context manager, not a decorator: to wrap a hook, with its many arguments, takes Python twice as long.
    """

    __slots__ = ("_log",)

    def __init__(self, log: Log) -> None:
        self._log = log

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        # Not the exception's text: it may hold inputs of the run.
        frames = [*traceback.walk_tb(stack)]
        (hook, _), (frame, line) = frames[0], frames[-1]
        self._log.report(
            "hook_failed", "%s could not record a run: %s at %s:%s",
            hook.f_code.co_name, type(error).__name__, frame.f_code.co_filename, line,
        )  # fmt: skip
        return True
