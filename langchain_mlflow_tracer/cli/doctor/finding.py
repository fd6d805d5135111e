"""The finding of a check, and the time limit of checks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeVar

from langchain_mlflow_tracer.core.guard import Worker

__all__ = ["Finding", "Outcome", "bounded", "checked", "failed", "ok", "warning"]

PATIENCE: Final = 15.0
"""Seconds for one check: connecting and one answer have 11; name servers and disks may hang."""

_CREDENTIALS: Final = re.compile(r"//[^/@\s]*@")

T = TypeVar("T")


class Outcome(StrEnum):
    """The result of a check: `warning` is useful to know, `failed` means that traces do not reach MLflow."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, how to fix it, and the destination that it is about, if any."""

    check: str
    outcome: Outcome
    found: str
    advice: str = ""
    about: str = ""


def ok(check: str, found: str, advice: str = "") -> Finding:
    """Return a finding that is no problem."""
    return Finding(check, Outcome.OK, _masked(found), advice)


def warning(check: str, found: str, advice: str) -> Finding:
    """Return a finding that is useful to know."""
    return Finding(check, Outcome.WARNING, _masked(found), advice)


def failed(check: str, found: str, advice: str) -> Finding:
    """Return a finding that must be fixed."""
    return Finding(check, Outcome.FAILED, _masked(found), advice)


def _masked(text: str) -> str:
    """Remove user and password from URIs in texts from elsewhere."""
    return _CREDENTIALS.sub("//", text)


def bounded(call: Callable[[], T], seconds: float = PATIENCE) -> T:
    """Return what `call` returns, or raise what it raises.

    Raises:
        TimeoutError: it takes longer than `seconds`; its thread runs until the process ends.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except Exception as error:  # noqa: BLE001 - it is raised again where the answer is awaited
            answer.set_exception(error)
        except BaseException as error:  # noqa: BLE001 - raised by foreign code, as of a plugin of MLflow: see `Worker`
            answer.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))

    Worker("doctor", run).start()
    return answer.result(seconds)


def checked(
    check: str, look: Callable[[], Iterable[Finding]], about: str = "", seconds: float = PATIENCE
) -> list[Finding]:
    """Return what `look` finds about a destination or the spool; that it hangs or raises is a finding too."""
    try:
        findings = bounded(lambda: list(look()), seconds)
    except TimeoutError:
        findings = [
            failed(check, f"no answer within {seconds:.0f} s", "Check whether that disk or network hangs.")
        ]
    except Exception as error:  # noqa: BLE001 - a check that breaks must not hide the others
        findings = [failed(check, f"{type(error).__name__}: {error}", "Read the message.")]
    return [replace(finding, about=about) for finding in findings]
