"""Checks whether a sender is running, which traces are pending and why, and which were rejected."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer.cli import units
from langchain_mlflow_tracer.cli.doctor.file import read_only
from langchain_mlflow_tracer.cli.doctor.finding import Finding, ok, warning
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.spool.rows import Failed, Totals
from langchain_mlflow_tracer.spool.schema import SCHEMA_VERSION
from langchain_mlflow_tracer.spool.spool import FILE, Spool

__all__ = ["destinations", "look"]

LONG: Final = 60.0
"""Seconds that a trace may be pending: without a problem it is one or two."""


def look(folder: Path) -> Iterator[Finding]:
    """Whether pending traces are sent."""
    if not _up_to_date(folder):
        return
    with closing(_opened(folder)) as spool:
        totals, forwarding = spool.figures.totals(), spool.is_drained()
        yield _forwarder(totals, forwarding=forwarding)
        yield _waiting(totals)
        yield from map(_failure, spool.figures.failures())
        yield _dead_letters(totals)


def destinations(folder: Path) -> list[Destination]:
    """Return the destinations of pending traces, the longest pending first."""
    if not _up_to_date(folder):
        return []
    with closing(_opened(folder)) as spool:
        return [Destination.from_text(text) for text in spool.destinations()]


def _opened(folder: Path) -> Spool:
    return Spool(folder, sys.maxsize, repairs=False)


def _up_to_date(folder: Path) -> bool:
    """Whether there is a spool, of a schema that opening it does not update."""
    if not Spool.exists(folder):
        return False
    with read_only(folder / FILE) as connection:
        return bool(connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,))


def _forwarder(totals: Totals, *, forwarding: bool) -> Finding:
    if forwarding:
        return ok("sender", "a sender is running (drain.lock is locked)")
    if not totals.waiting:
        return ok("sender", "no sender is running, and no trace is pending")
    return warning(
        "sender", "no sender is running, but traces are pending",
        "Start an application that uses this queue, or run: langchain-mlflow-tracer forward",
    )  # fmt: skip


def _waiting(totals: Totals) -> Finding:
    running = f"{units.traces(totals.running)} running"
    if totals.oldest is None:
        return ok("pending", f"no trace; {running}")
    age = time.time() - totals.oldest
    text = (
        f"{units.traces(totals.waiting)}, {units.size(totals.size)}, the oldest is {units.duration(age)} old"
    )
    if age > LONG:
        return warning(
            "pending", f"{text}; {running}", "Read the last error, and the checks of the destination."
        )
    return ok("pending", f"{text}; {running}")


def _failure(failure: Failed) -> Finding:
    where = Destination.from_text(failure.destination)
    ago = units.duration(time.time() - failure.latest)
    return warning(
        "last error", f"{where}: {failure.reason} ({ago} ago, attempt {failure.attempts})",
        "Read the checks of that destination below.",
    )  # fmt: skip


def _dead_letters(totals: Totals) -> Finding:
    if not totals.dead:
        return ok("rejected", "none")
    return warning(
        "rejected", f"{units.traces(totals.dead)} rejected permanently",
        "Run: langchain-mlflow-tracer dead-letters list. Then retry or drop them.",
    )  # fmt: skip
