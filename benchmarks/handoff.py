"""Measures the minimum time of `durability="sync"`: two thread switches and one commit.

    python -m benchmarks.handoff

A disk may hang, but the caller must not. So a separate thread commits, and this adds two wake-ups: of that
thread, and of the caller that waits for it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer.spool.rows import Item
from langchain_mlflow_tracer.spool.spool import Spool

TIMES: Final = 1_500
"""Number of measurements of each kind, about a second in all: enough for a stable median."""

BETWEEN: Final = 400_000
"""Nanoseconds of work before each measurement, as in an invoke: then the other thread and its core sleep."""

PAYLOAD: Final = 1_417
"""Bytes of a trace of four spans."""


def wake_ups() -> float:
    """Return the microseconds to wake another thread and to be woken by it."""
    told, answered = _lock(), _lock()

    def answer() -> None:
        while True:
            told.acquire()
            answered.release()

    threading.Thread(target=answer, daemon=True).start()

    def ask() -> None:
        told.release()
        answered.acquire()

    return _median(ask)


def commit() -> float:
    """Return the microseconds to commit one trace."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), 2**30)
        median = _median(lambda: spool.put([Item(uuid.uuid4().hex, "there", "here", os.urandom(PAYLOAD))]))
        spool.close()
    return median


def _lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


def _median(work: Callable[[], object]) -> float:
    return statistics.median(_timed(work) for _ in range(TIMES)) / 1e3


def _timed(work: Callable[[], object]) -> int:
    until = time.perf_counter_ns() + BETWEEN
    while time.perf_counter_ns() < until:
        pass
    began = time.perf_counter_ns()
    work()
    return time.perf_counter_ns() - began


if __name__ == "__main__":
    print(f"two wake-ups: {wake_ups():.0f} µs")
    print(f"a commit of one trace: {commit():.0f} µs")
