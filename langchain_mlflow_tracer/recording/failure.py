"""Describes how a run ended by its exception: error, timeout, cancellation, abandoned stream or interrupt."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Mapping
from typing import Final

from langchain_mlflow_tracer.core.attributes import (
    AZURE_ERROR_CODE,
    EXCEPTION_MESSAGE,
    EXCEPTION_TYPE,
    HTTP_STATUS,
    LLM_PROVIDER,
)
from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.core.record import Outcome, SpanRecord
from langchain_mlflow_tracer.recording.endings import Failure
from langchain_mlflow_tracer.recording.models import azure

__all__ = ["Stack", "failure", "refusal"]

MAX_FRAMES: Final = 50
"""Innermost frames kept of a stack: where it failed, without the thousand repetitions of a recursion."""

MAX_MESSAGE: Final = 10_000
"""Characters kept of an exception's message: each run that it passes has a copy, the stack has the whole."""

_ERRORS: Final = frozenset({Outcome.ERROR, Outcome.TIMEOUT})
_NO_FAILURES: Final = frozenset({Outcome.COMPLETED, Outcome.INTERRUPTED})

_TIMEOUTS: Final = frozenset({
    "TimeoutError",  # Python's own
    "APITimeoutError",  # openai, anthropic
    "TimeoutException",  # httpx
    "Timeout",  # requests
    "NodeTimeoutError",  # langgraph
})  # fmt: skip
"""Names of the exceptions for a timeout, in the usual libraries: they share no base class."""


class Stack:
    """A stack trace whose lines of source are read when it is printed, not when it is taken."""

    __slots__ = ("_taken",)

    def __init__(self, error: BaseException) -> None:
        """Take the frames of `error` and of what caused it, without reading a file."""
        self._taken = traceback.TracebackException(
            type(error), error, error.__traceback__, limit=-MAX_FRAMES, lookup_lines=False, compact=True
        )

    def __str__(self) -> str:
        """Return the stack as Python prints it."""
        return "".join(self._taken.format())


def failure(error: BaseException, *, with_text: bool) -> Failure:
    """Describe how a run that raised `error` ended; without text the exception's message is left out."""
    name = type(error).__qualname__
    message = _message(error) if with_text else ""
    outcome = _outcome(error)
    if outcome not in _ERRORS:
        return Failure(outcome, "" if outcome in _NO_FAILURES else outcome.value, id(error))

    def attributes() -> dict[str, object]:
        event: dict[str, object] = {EXCEPTION_TYPE: _qualified(type(error)), EXCEPTION_MESSAGE: message}
        if with_text:
            event["exception.stacktrace"] = attempt(lambda: Stack(error), lambda _: f"{name}: {message}")
        return event

    def add_facts(span: SpanRecord) -> None:
        span.run_deferred()
        is_azure = span.attributes.get(LLM_PROVIDER) == "azure"
        # By `attempt`: reading the attributes of a foreign exception may raise.
        span.attributes |= attempt(
            lambda: azure.of_exception(error, with_text=with_text, is_azure=is_azure), lambda _: {}
        )

    status_message = f"{name}: {message}" if message else name
    return Failure(outcome, status_message, (id(error), name, message), attributes, add_facts)


def refusal(facts: Mapping[str, object]) -> Failure:
    """Describe the end of a run whose request got an error as its answer; no exception was raised yet."""
    status, code = facts.get(HTTP_STATUS), facts.get(AZURE_ERROR_CODE)
    message = f"HTTP {status}" if code is None else f"HTTP {status} {code}"
    return Failure(Outcome.ERROR, message, object())


def _message(error: BaseException) -> str:
    text = attempt(lambda: str(error), lambda _: "<no message: its str() raised>")
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}… ({len(text)} characters)"


def _outcome(error: BaseException) -> Outcome:
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | SystemExit):
        return Outcome.CANCELLED
    if isinstance(error, GeneratorExit):
        return Outcome.ABANDONED
    if _is_langgraph(error, "GraphBubbleUp"):
        # A node that passes control to its parent graph has done its work.
        return Outcome.COMPLETED if _is_langgraph(error, "ParentCommand") else Outcome.INTERRUPTED
    is_timeout = any(kind.__name__ in _TIMEOUTS for kind in type(error).__mro__)
    return Outcome.TIMEOUT if is_timeout else Outcome.ERROR


def _is_langgraph(error: BaseException, name: str) -> bool:
    """Whether this is LangGraph's exception of that name; langgraph must be loaded for that."""
    base = getattr(sys.modules.get("langgraph.errors"), name, None)
    return isinstance(base, type) and isinstance(error, base)


def _qualified(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
