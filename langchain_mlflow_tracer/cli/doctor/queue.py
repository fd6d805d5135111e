"""Looks at who delivers, at what waits and why, and at what was refused for ever."""

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
from langchain_mlflow_tracer.spool.schema import SCHEMA_VERSION
from langchain_mlflow_tracer.spool.spool import FILE, Failed, Spool, Totals

__all__ = ["destinations", "look"]

LONG: Final = 60.0
"""Seconds that a trace may wait: where all is well it is one or two."""


def look(folder: Path) -> Iterator[Finding]:
    """Whether somebody delivers what waits."""
    if not _up_to_date(folder):
        return
    with closing(_opened(folder)) as spool:
        totals, forwarding = spool.totals(), spool.is_drained()
        yield _forwarder(totals, forwarding=forwarding)
        yield _waiting(totals)
        yield from map(_failure, spool.failures())
        yield _dead_letters(totals)


def destinations(folder: Path) -> list[Destination]:
    """Return what traces wait for, those that wait longest first."""
    if not _up_to_date(folder):
        return []
    with closing(_opened(folder)) as spool:
        return [Destination.from_text(text) for text in spool.destinations()]


def _opened(folder: Path) -> Spool:
    return Spool(folder, sys.maxsize, mends=False)


def _up_to_date(folder: Path) -> bool:
    """Whether there is a spool that would not be changed by being opened."""
    if not Spool.exists(folder):
        return False
    with read_only(folder / FILE) as connection:
        return bool(connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,))


def _forwarder(totals: Totals, *, forwarding: bool) -> Finding:
    if forwarding:
        return ok("forwarder", "somebody delivers (drain.lock is held)")
    if not totals.waiting:
        return ok("forwarder", "nobody delivers now, and nothing waits")
    return warning(
        "forwarder", "nobody delivers, though traces wait",
        "Start an application that uses this spool, or: langchain-mlflow-tracer forward",
    )  # fmt: skip


def _waiting(totals: Totals) -> Finding:
    running = f"{units.traces(totals.running)} running"
    if totals.oldest is None:
        return ok("waiting", f"nothing waits; {running}")
    age = time.time() - totals.oldest
    told = f"{units.traces(totals.waiting)}, {units.size(totals.size)}, the oldest for {units.duration(age)}"
    if age > LONG:
        return warning("waiting", f"{told}; {running}", "See the last error, and the destination's checks.")
    return ok("waiting", f"{told}; {running}")


def _failure(failure: Failed) -> Finding:
    where = Destination.from_text(failure.destination)
    ago = units.duration(time.time() - failure.latest)
    return warning(
        "last error", f"{where}: {failure.reason} ({ago} ago, attempt {failure.attempts})",
        "See the checks of that destination below.",
    )  # fmt: skip


def _dead_letters(totals: Totals) -> Finding:
    if not totals.dead:
        return ok("dead letters", "none")
    return warning(
        "dead letters", f"{units.traces(totals.dead)} refused for ever",
        "langchain-mlflow-tracer dead-letters list; then retry or drop them.",
    )  # fmt: skip
