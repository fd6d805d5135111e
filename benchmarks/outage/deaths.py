"""Scenarios of processes that end or are killed, and of their children: the next one sends their traces."""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path

from benchmarks.outage.trial import (
    NEXT_PROCESS,
    Application,
    Scenario,
    SkippedError,
    Trial,
    last_moments,
    wait_until,
)
from tests.support.family import WORKERS
from tests.support.proxy import REFUSING, slow

__all__ = ["SCENARIOS"]

COUNT = 200
"""Number of traces of each process in each scenario."""

LOCK_FILE = "drain.lock"
"""The process that has locked this file of a queue is the active sender."""

PROCESSES = 8
"""Number of processes that share one queue."""

BACK = 3600.0
"""Seconds by which the clock jumps back."""


def killed(trial: Trial, durability: str) -> None:
    """SIGKILL arrives right after the last invoke returned."""
    trial.fail(REFUSING)
    application = trial.start(COUNT, {"durability": durability}, end="kill")
    application.end()
    trial.hold_results(application, COUNT)
    trial.deliver_the_rest(application.ids())
    may_lose = last_moments(application) if durability == "background" else ()
    trial.hold_delivered(application.ids(), may_lose)
    trial.hold_strangers()


def ended(trial: Trial, end: str) -> None:
    """The process ends in the way of `end`, while the server is down."""
    trial.fail(REFUSING)
    application = trial.run(COUNT, end=end)
    trial.hold_log(application, failed=False, stray=end == "exception")
    trial.deliver_the_rest(application.ids())
    trial.hold_delivered(application.ids(), last_moments(application))


def next_process(trial: Trial) -> None:
    """Process 1 never meets a healthy server; process 2 runs one chain only: all traces arrive."""
    trial.fail(REFUSING)
    first = trial.run(COUNT)
    trial.hold_log(first)
    trial.heal()
    second = trial.start(1, {"exit_timeout": 30})
    second.end()
    # The sender of the first process may still be active: then it sends, and no process waits for it.
    wait_until(lambda: not trial.lost(first.ids() | second.ids()), NEXT_PROCESS)
    trial.hold_delivered(first.ids() | second.ids())
    trial.hold_strangers()


def in_family(trial: Trial, family: str) -> None:
    """Parents and children trace at the same time: every trace of each arrives."""
    trial.heal()
    if family == "fork_in_export":
        trial.fail(slow(1))
    thread = (
        {"forwarder": "thread"} if family == "fork_in_export" else {}
    )  # so that the fork happens during an export
    application = trial.run(COUNT, settings=thread, family=family)
    of_children = WORKERS - 1 if family == "prefork" else 3 if family == "fork_in_export" else 1
    trial.hold_results(application, COUNT * (1 + of_children))
    trial.hold_log(application, failed=False)
    trial.row.say(f"{trial.delivered(application.ids())} now")
    trial.deliver_the_rest(application.ids())
    trial.hold_delivered(application.ids())
    trial.hold_strangers()


def shared_spool(trial: Trial) -> None:
    """Eight processes share a queue; the sender is killed while it sends, with its parent."""
    trial.fail(slow(0.5))
    count = COUNT // PROCESSES
    sync = {"durability": "sync"}
    running = [trial.start(count, sync, pace=0.2, end="wait") for _ in range(PROCESSES)]
    wait_until(lambda: trial.delivered(_ids(running)) >= PROCESSES, NEXT_PROCESS)
    drains = holder_of(trial.spool_dir / LOCK_FILE)
    (victim,) = (
        application for application in running if application.process.pid in {drains, parent_of(drains)}
    )
    os.kill(drains, signal.SIGKILL)
    victim.process.kill()
    victim.end()
    others = [application for application in running if application is not victim]
    wait_until(lambda: all(len(application.invokes()) >= count for application in others), NEXT_PROCESS)
    wait_until(lambda: not trial.lost(_ids(running)), NEXT_PROCESS)
    for application in others:
        seconds = application.end()
        trial.hold_results(application, count)
        trial.hold_exit(seconds, application)
        trial.hold_log(application, failed=False)
    trial.hold_delivered(_ids(running))


def _ids(applications: list[Application]) -> set[str]:
    return set().union(*(one.ids() for one in applications))


def parent_of(pid: int) -> int:
    """Return the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def holder_of(file: Path) -> int:
    """Return the process that has locked `file`, from the operating system."""
    try:
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        raise SkippedError("skipped: only Linux says who holds a lock") from None
    inode = str(file.stat().st_ino)
    holders = {int(lock[4]) for lock in locks if lock[3] == "WRITE" and lock[5].rpartition(":")[2] == inode}
    (holder,) = holders
    return holder


def clock_jumps(trial: Trial) -> None:
    """The clock jumps back by an hour while the server is down; the server recovers before the end."""
    trial.fail(REFUSING)
    application = trial.start(COUNT, pace=0.02, clock_back=BACK, end="wait")
    wait_until(lambda: len(application.invokes()) > COUNT * 3 // 4, NEXT_PROCESS)
    trial.heal()
    wait_until(lambda: trial.delivered(application.ids()) >= COUNT, NEXT_PROCESS)
    seconds = application.end()
    trial.hold_results(application, COUNT)
    trial.hold_exit(seconds, application)
    trial.hold_delivered(application.ids())
    trial.hold_strangers()


SCENARIOS = [
    Scenario("kill-sync", functools.partial(killed, durability="sync")),
    Scenario("kill-background", functools.partial(killed, durability="background"), quick=True),
    *(
        Scenario(f"end-{end}", functools.partial(ended, end=end))
        for end in ("os_exit", "sigterm", "exception", "threads")
    ),
    Scenario("next-process", next_process),
    *(
        Scenario(name, functools.partial(in_family, family=family), quick=family == "prefork")
        for name, family in {
            "fork-before": "fork_before",
            "fork-after": "fork",
            "fork-in-export": "fork_in_export",
            "prefork": "prefork",
            "spawn": "spawn",
        }.items()
    ),
    Scenario("shared-spool", shared_spool),
    Scenario("clock-back", clock_jumps, quick=True),
]
