"""Catches exceptions that must not reach the application: of hooks, and of code that is not ours."""

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
Values = TypeVarTuple("Values")


class Worker(threading.Thread):
    """A thread of ours, which does not keep the process from ending.

    Python runs the handlers of signals on the main thread only. So here a `KeyboardInterrupt` or `SystemExit`
    comes from foreign code, not from a signal: the loops of these threads catch every
    `BaseException`.
    """

    def __init__(self, name: str, run: Callable[[], object]) -> None:
        """Call `run` once started."""
        super().__init__(target=run, name=f"mlflow-tracer-{name}", daemon=True)


def attempt(call: Callable[[*Values], T], otherwise: Callable[[BaseException], T], *values: *Values) -> T:
    """Return the result of `call`, or of `otherwise` with the exception that `call` raised.

    It is for foreign code, such as a payload's `__repr__` or a user's redaction function: an error there may
    lose that value, but not its trace. Only this function, the hooks and the loops of threads catch every
    exception.

    On a caller's thread a `BaseException` that is no `Exception` is raised again: a signal of the application
    may have raised it.
    """
    try:
        return call(*values)
    except BaseException as error:  # foreign code may raise anything
        if not isinstance(error, Exception) and not isinstance(threading.current_thread(), Worker):
            raise
        return otherwise(error)


class Guard:
    """Catches every `Exception` of a hook, so that it does not reach LangChain; counts and logs it.

    A context manager, not a decorator: hooks have many arguments, and a wrapper takes Python twice as long.
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
        # Not the exception's text: it may contain inputs of the run.
        frames = [*traceback.walk_tb(stack)]
        (hook, _), (frame, line) = frames[0], frames[-1]
        self._log.report(
            "hook_failed", "%s could not record a run: %s at %s:%s",
            hook.f_code.co_name, type(error).__name__, frame.f_code.co_filename, line,
        )  # fmt: skip
        return True
