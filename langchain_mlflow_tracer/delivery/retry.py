"""Says which failures are worth another attempt, how long to wait before it, and when to give up: never."""

from __future__ import annotations

import random
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential
from tenacity.wait import wait_base

from langchain_mlflow_tracer.core.errors import TransientExportError

__all__ = ["CREDENTIALS", "until_delivered"]

FIRST_WAIT: Final = 1.0
"""Seconds after a first failure, at most: a restart of a server's worker takes about that."""

GROWTH: Final = 1.2
"""How much longer each wait may be: an outage of 20 seconds is noticed to be over within ten."""

LONGEST_WAIT: Final = 60.0
"""Seconds between attempts in a long outage: soon enough after its end, and no load in between."""

LONGEST_ASKED: Final = 900.0
"""Seconds that a destination may ask for: beyond it somebody has mistaken the unit."""

CREDENTIALS_WAIT: Final = 5.0
"""Seconds between attempts while credentials are refused, at least: a person has to change something, and
many failures in a row lock accounts."""

CREDENTIALS: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class _Wait(wait_base):
    """Exponential backoff, from half to the whole of it by chance, so that a fleet does not come back as one.

    The wait that the destination asked for is kept, and some chance after it.
    """

    def __init__(self, chance: random.Random) -> None:
        self._backoff = wait_exponential(multiplier=FIRST_WAIT, exp_base=GROWTH, max=LONGEST_WAIT)
        self._chance = chance

    def __call__(self, retry_state: RetryCallState) -> float:
        wait = self._backoff(retry_state) * self._chance.uniform(0.5, 1.0)
        error = retry_state.outcome.exception() if retry_state.outcome is not None else None
        if not isinstance(error, TransientExportError):
            return wait
        if error.status in CREDENTIALS:
            wait = max(wait, CREDENTIALS_WAIT)
        if error.retry_after is not None:
            wait = max(wait, min(error.retry_after, LONGEST_ASKED) + self._chance.uniform(0.0, FIRST_WAIT))
        return wait


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
        # A generator of its own: an application that seeds Python's must not bring a fleet into step.
        wait=_Wait(random.Random()),  # noqa: S311 - no secret
        stop=lambda _state: stop(),
        sleep=sleep,
        before_sleep=before_sleep,
        reraise=True,
    )
