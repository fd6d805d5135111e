"""What a check has found, and the bound on how long it may look."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeVar

__all__ = ["Finding", "Outcome", "bounded", "checked", "failed", "ok", "warning"]

PATIENCE: Final = 15.0
"""Seconds for one check: connecting and one answer have 11; name servers and disks may hang without end."""

_CREDENTIALS: Final = re.compile(r"//[^/@\s]*@")

T = TypeVar("T")


class Outcome(StrEnum):
    """How a check went: `warning` is worth knowing, `failed` keeps traces from MLflow."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, what to do about it, and the destination that it is about, if it is about one."""

    check: str
    outcome: Outcome
    found: str
    advice: str = ""
    about: str = ""


def ok(check: str, found: str, advice: str = "") -> Finding:
    """Return a finding that is as it should be."""
    return Finding(check, Outcome.OK, _masked(found), advice)


def warning(check: str, found: str, advice: str) -> Finding:
    """Return a finding that somebody should know."""
    return Finding(check, Outcome.WARNING, _masked(found), advice)


def failed(check: str, found: str, advice: str) -> Finding:
    """Return a finding that somebody has to change something about."""
    return Finding(check, Outcome.FAILED, _masked(found), advice)


def _masked(text: str) -> str:
    """Take user and password out of URIs that somebody else's message quotes."""
    return _CREDENTIALS.sub("//", text)


def bounded(call: Callable[[], T], seconds: float = PATIENCE) -> T:
    """Return what `call` returns, or raise what it raises.

    Raises:
        TimeoutError: it takes longer than `seconds`; its thread is left to the end of the process.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised again where the answer is awaited
            answer.set_exception(error)

    threading.Thread(target=run, name="mlflow-tracer-doctor", daemon=True).start()
    return answer.result(seconds)


def checked(
    check: str, look: Callable[[], Iterable[Finding]], about: str = "", seconds: float = PATIENCE
) -> list[Finding]:
    """Return what `look` finds about a destination or the spool; that it hangs or breaks is a finding too."""
    try:
        found = bounded(lambda: list(look()), seconds)
    except TimeoutError:
        found = [
            failed(check, f"no answer within {seconds:.0f} s", "See whether that disk or network hangs.")
        ]
    except Exception as error:  # noqa: BLE001 - a check that breaks must not hide the others
        found = [failed(check, f"{type(error).__name__}: {error}", "See what the message is about.")]
    return [replace(finding, about=about) for finding in found]
