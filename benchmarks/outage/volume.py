"""Scenarios of long outages: memory and disk are limited, and the oldest traces are dropped first."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

from benchmarks.outage.trial import Application, Scenario, Trial, counted_as_lost, wait_until
from tests.support.proxy import REFUSING

__all__ = ["SCENARIOS"]

MB = 1_000_000
"""Bytes, as the promise counts them."""

DEFAULT_SPOOL_MAX = 2**30
SMALL_SPOOL_MAX = 20 * 2**20
"""Bytes of a queue that can store all of 20,000 small traces, and of one that can store a part of them."""

LONGEST = 600.0
"""Maximum seconds for such an application."""


def long_outage(  # noqa: PLR0917 - called with names
    trial: Trial,
    count: int,
    size: int,
    memory: int | None,
    spool_max: int = DEFAULT_SPOOL_MAX,
    pace: float = 0.0,
) -> None:
    """Run `count` invokes of `size` characters while the server is down; memory may grow by `memory`."""
    trial.fail(REFUSING)
    application = trial.start(count, {"spool_max_bytes": spool_max}, size=size, weigh=True, pace=pace)
    disk = most_on_disk(trial.spool_dir, application)
    seconds = application.end()
    trial.hold_results(application, count)
    trial.hold_exit(seconds, application)
    trial.hold_log(application)
    hold_newest(trial, application)
    warm, most = application.said.get("weight", (0, 0))
    trial.row.say(f"memory {(most - warm) / MB:+.1f} MB, disk at most {disk / MB:.1f} MB")
    trial.row.hold(memory is None or most - warm <= memory, f"memory within +{(memory or 0) // MB} MB")
    trial.row.hold(disk <= spool_max, f"disk within {spool_max / MB:.1f} MB")


def most_on_disk(folder: Path, application: Application) -> int:
    """Measure a folder until the application has ended; return the maximum of the bytes of its files."""
    most = 0

    def look() -> bool:
        nonlocal most
        most = max(most, on_disk(folder))
        return application.process.poll() is not None

    wait_until(look, LONGEST)
    return most


def on_disk(folder: Path) -> int:
    """Return the bytes of all files in a folder; files may be deleted at the same time."""
    size = 0
    for file in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            size += file.stat().st_size
    return size


def hold_newest(trial: Trial, application: Application) -> None:
    """Check that the pending traces are the newest, and that the others are counted."""
    made = [invoke.id for invoke in application.invokes()]
    waiting = trial.waiting()
    counted = counted_as_lost(application)
    trial.row.say(f"{len(waiting)} of {len(made)} wait, {counted} counted as lost")
    trial.row.hold(waiting == made[len(made) - len(waiting) :], "the oldest go first")
    trial.row.hold(len(waiting) + counted == len(made), "what was dropped is counted")


_small = functools.partial(long_outage, count=20_000, size=0)

SCENARIOS = [
    Scenario("memory-small", functools.partial(_small, memory=30 * MB)),
    Scenario(
        "memory-large", functools.partial(long_outage, count=2_500, size=100_000, memory=64 * MB, pace=0.02)
    ),
    Scenario("spool-full", functools.partial(_small, memory=30 * MB, spool_max=SMALL_SPOOL_MAX)),
    Scenario(
        "spool-full-quick",
        functools.partial(long_outage, count=2_000, size=2_000, memory=None, spool_max=2 * 2**20),
        quick=True,
    ),
]
