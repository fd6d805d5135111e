"""Calls code that is not ours, which may raise anything, and goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

__all__ = ["attempt"]

T = TypeVar("T")
Given = TypeVarTuple("Given")


def attempt(call: Callable[[*Given], T], otherwise: Callable[[Exception], T], *given: *Given) -> T:
    """Return what `call` returns of what it is given, or what `otherwise` makes of the exception it raised.

    A payload's `__repr__` and a user's redaction function are foreign: one bad value may cost itself,
    never the trace it is in. This is the one place outside the hooks and the threads' loops that
    catches everything.
    """
    try:
        return call(*given)
    except Exception as error:  # noqa: BLE001 - foreign code raises what it likes
        return otherwise(error)
