"""Splits an application into several processes: each runs the chain, and the parent waits for its children.

A way takes a function that runs the chain, given the number of its first question. It returns when each child
ended, by process id.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable

__all__ = ["FAMILIES", "Ask", "Gone"]

Ask = Callable[[int], None]
Gone = dict[int, float]

APART = 1_000
"""Distance between the numbers of the first questions of two processes."""

WORKERS = 4
"""Processes that a pre-forking server has here."""

BETWEEN_FORKS = 0.3
"""Seconds: with answers that take longer, an export is under way at most of the forks."""


def fork(ask: Ask, number: int = 1) -> int:
    """Run the chain in a forked child, which exits normally; return its process id."""
    child = os.fork()
    if child:
        return child
    ask(number * APART)
    sys.exit(0)


def reaped(children: int) -> Gone:
    """Wait for the children, in the order in which they end."""
    gone = {}
    for _ in range(children):
        child, status = os.wait()
        assert status == 0, f"a child ended with {status}"
        gone[child] = time.time()
    return gone


def after(ask: Ask) -> Gone:
    """Fork when the parent's work is done."""
    ask(0)
    fork(ask)
    return reaped(1)


def before(ask: Ask) -> Gone:
    """Fork before the first use."""
    fork(ask)
    ask(0)
    return reaped(1)


def in_export(ask: Ask) -> Gone:
    """Fork several times while the parent's traces are being sent."""
    ask(0)
    for number in range(1, 4):
        time.sleep(BETWEEN_FORKS)
        fork(ask, number)
    return reaped(3)


def prefork(ask: Ask) -> Gone:
    """Fork workers that run the chain; the parent only waits for them, as a pre-forking server does."""
    for number in range(1, WORKERS + 1):
        fork(ask, number)
    return reaped(WORKERS)


def spawn(ask: Ask) -> Gone:
    """Start a new interpreter; the job is sent to it by pickle."""
    ask(0)
    child = multiprocessing.get_context("spawn").Process(target=ask, args=(APART,))
    child.start()
    child.join()
    assert child.exitcode == 0, f"the child ended with {child.exitcode}"
    assert child.pid is not None
    return {child.pid: time.time()}


FAMILIES: dict[str, Callable[[Ask], Gone]] = {
    "fork": after,
    "fork_before": before,
    "fork_in_export": in_export,
    "prefork": prefork,
    "spawn": spawn,
}
