"""Says which failures are worth another attempt, how long to wait before it, and when to give up: never."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential, wait_random
from tenacity.wait import wait_base

from langchain_mlflow_tracer.errors import TransientExportError

__all__ = ["until_delivered"]

FIRST_WAIT: Final = 0.5
"""Seconds after a first failure: a restart of a server's worker takes about that."""

LONGEST_WAIT: Final = 60.0
"""Seconds between attempts in a long outage: soon enough after its end, and no load in between."""

JITTER: Final = 1.0
"""Seconds of chance in every wait, so that a fleet does not come back as one."""


class _Wait(wait_base):
    """Exponential backoff with jitter, or the wait that the destination asked for where that is longer."""

    def __init__(self) -> None:
        self._backoff = wait_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT - JITTER) + wait_random(
            0, JITTER
        )

    def __call__(self, retry_state: RetryCallState) -> float:
        wait = self._backoff(retry_state)
        error = retry_state.outcome.exception() if retry_state.outcome is not None else None
        asked = error.retry_after if isinstance(error, TransientExportError) else None
        return wait if asked is None else max(wait, min(asked, LONGEST_WAIT))


def until_delivered(
    sleep: Callable[[float], None], stop: Callable[[], bool], failed: Callable[[TransientExportError], None]
) -> Retrying:
    """Return the policy of a delivery: transient failures are retried until `stop` says so.

    `failed` is told of each failure before the wait; `sleep` waits, and may return early.
    """

    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, TransientExportError):
            failed(error)

    return Retrying(
        retry=retry_if_exception_type(TransientExportError),
        wait=_Wait(),
        stop=lambda _state: stop(),
        sleep=sleep,
        before_sleep=before_sleep,
        reraise=True,
    )
