"""Describes exceptions of every kind, as the runs that raised them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import linecache
from typing import Any

import httpx
import pytest
from langgraph.errors import GraphBubbleUp, GraphDrained, GraphInterrupt, GraphRecursionError, ParentCommand
from langgraph.types import Command

from langchain_mlflow_tracer.core.record import Outcome
from langchain_mlflow_tracer.recording.failure import MAX_FRAMES, MAX_MESSAGE, Stack, failure


class AppError(Exception):
    pass


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def raised(error: BaseException) -> BaseException:
    try:
        raise error  # noqa: TRY301 - an exception has a stack only once it was raised
    except BaseException as caught:  # noqa: BLE001 - it comes back
        return caught


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("x"), Outcome.ERROR),
        (TimeoutError(), Outcome.TIMEOUT),
        (httpx.ReadTimeout("x"), Outcome.TIMEOUT),
        (StopIteration(), Outcome.ERROR),
        (ExceptionGroup("several", [ValueError("x")]), Outcome.ERROR),
        (GraphRecursionError("x"), Outcome.ERROR),
        (concurrent.futures.CancelledError(), Outcome.ERROR),
        (asyncio.CancelledError(), Outcome.CANCELLED),
        (KeyboardInterrupt(), Outcome.CANCELLED),
        (SystemExit(1), Outcome.CANCELLED),
        (GeneratorExit(), Outcome.ABANDONED),
        (GraphInterrupt(()), Outcome.INTERRUPTED),
        (GraphDrained(), Outcome.INTERRUPTED),
        (ParentCommand(Command()), Outcome.COMPLETED),
        (GraphBubbleUp(), Outcome.INTERRUPTED),
    ],
)
def test_the_type_of_an_exception_determines_the_outcome_of_its_run(
    error: BaseException, outcome: Outcome
) -> None:
    assert failure(raised(error), with_text=True).outcome is outcome


def test_only_an_error_gets_an_exception_event() -> None:
    assert failure(raised(asyncio.CancelledError("stop")), with_text=True).event is None
    assert failure(raised(GeneratorExit()), with_text=True).event is None
    assert failure(raised(ValueError()), with_text=True).event is not None


def test_an_error_is_recorded_with_its_type_message_and_stack() -> None:
    told = failure(raised(AppError("not today")), with_text=True)
    assert told.message == "AppError: not today"
    assert told.event is not None
    event = told.event()
    assert event["exception.type"] == f"{__name__}.AppError"
    assert event["exception.message"] == "not today"
    assert str(event["exception.stacktrace"]).startswith("Traceback (most recent call last):")
    assert str(event["exception.stacktrace"]).endswith("AppError: not today\n")


def test_a_builtin_error_is_recorded_without_a_module_name() -> None:
    told = failure(raised(ValueError()), with_text=True)
    assert told.message == "ValueError"
    assert told.event is not None
    assert told.event()["exception.type"] == "ValueError"


def test_an_error_without_its_text_is_recorded_only_with_its_type() -> None:
    told = failure(raised(AppError("s3cret")), with_text=False)
    assert told.message == "AppError"
    assert told.event is not None
    assert told.event() == {"exception.type": f"{__name__}.AppError", "exception.message": ""}


def test_an_exception_whose_str_raises_is_recorded_with_a_substitute_message() -> None:
    told = failure(raised(MuteError()), with_text=True)
    assert told.message == "MuteError: <no message: its str() raised>"
    assert told.event is not None
    assert "MuteError" in str(told.event()["exception.stacktrace"])


def test_a_long_error_message_is_shortened_and_its_stack_contains_the_whole_message() -> None:
    told = failure(raised(ValueError("x" * 50_000)), with_text=True)
    assert len(told.message) < MAX_MESSAGE + 100
    assert told.message.endswith("… (50000 characters)")
    assert told.event is not None
    assert "x" * 50_000 in str(told.event()["exception.stacktrace"])


def test_a_reraised_exception_keeps_its_cause_number_and_an_equal_exception_gets_another() -> None:
    error = raised(ValueError("x"))
    assert failure(error, with_text=True).cause == failure(raised(error), with_text=True).cause
    assert failure(error, with_text=True).cause != failure(raised(ValueError("x")), with_text=True).cause


def test_the_stack_of_an_error_contains_its_cause() -> None:
    error = AppError("second")
    error.__cause__ = raised(KeyError("first"))
    stack = str(Stack(raised(error)))
    assert "KeyError: 'first'" in stack
    assert "direct cause" in stack
    assert stack.endswith("AppError: second\n")


def test_a_deep_stack_keeps_its_innermost_frames() -> None:
    def down(levels: int) -> None:
        if levels == 0:
            raise ValueError("at the bottom")
        down(levels - 1)

    try:
        down(200)
    except ValueError as error:
        stack = str(Stack(error))
    assert stack.count("in down") + stack.count("more times") <= MAX_FRAMES + 1
    assert 'raise ValueError("at the bottom")' in stack


def test_taking_the_stack_of_an_exception_reads_no_source_file(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = linecache.updatecache

    def update(filename: str, module_globals: dict[str, Any] | None = None) -> list[str]:
        read.append(filename)
        return original(filename, module_globals)

    linecache.clearcache()
    monkeypatch.setattr(linecache, "updatecache", update)
    stack = Stack(raised(AppError("x")))
    assert read == []
    assert "raise error" in str(stack)
    assert read == [__file__]
