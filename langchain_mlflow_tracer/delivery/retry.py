"""Decides which failures are retried, and how long to wait before the next attempt; it never gives up."""

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
"""Seconds after a first failure, at most: restarting a worker of a server takes about that long."""

GROWTH: Final = 1.2
"""Factor of each wait: the end of an outage of 20 seconds is noticed within ten."""

LONGEST_WAIT: Final = 60.0
"""Seconds between attempts in a long outage: its end is noticed soon, and the load is low."""

LONGEST_ASKED: Final = 900.0
"""Seconds that a destination may ask for, at most: a larger number is probably in another unit."""

CREDENTIALS_WAIT: Final = 5.0
"""Seconds between attempts while credentials are rejected, at least: a person must change something, and many
failures in a row lock accounts."""

CREDENTIALS: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class _Wait(wait_base):
    """Exponential backoff, randomly half of it to all of it, so that not all processes retry at once.

    A wait that the destination asked for is respected, plus a random part.
    """

    def __init__(self, generator: random.Random) -> None:
        self._backoff = wait_exponential(multiplier=FIRST_WAIT, exp_base=GROWTH, max=LONGEST_WAIT)
        self._random = generator

    def __call__(self, retry_state: RetryCallState) -> float:
        wait = self._backoff(retry_state) * self._random.uniform(0.5, 1.0)
        error = retry_state.outcome.exception() if retry_state.outcome is not None else None
        if not isinstance(error, TransientExportError):
            return wait
        if error.status in CREDENTIALS:
            wait = max(wait, CREDENTIALS_WAIT)
        if error.retry_after is not None:
            wait = max(wait, min(error.retry_after, LONGEST_ASKED) + self._random.uniform(0.0, FIRST_WAIT))
        return wait


def until_delivered(
    sleep: Callable[[float], None], stop: Callable[[], bool], failed: Callable[[TransientExportError], None]
) -> Retrying:
    """Return the policy for sending: transient failures are retried until `stop` returns True.

    `failed` is called with each failure before the wait; `sleep` waits, and may return early.
    """

    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, TransientExportError):
            failed(error)

    return Retrying(
        retry=retry_if_exception_type(TransientExportError),
        # A generator of its own: if the application seeds Python's, all its processes wait equally long.
        wait=_Wait(random.Random()),  # noqa: S311 - no secret
        stop=lambda _state: stop(),
        sleep=sleep,
        before_sleep=before_sleep,
        reraise=True,
    )
