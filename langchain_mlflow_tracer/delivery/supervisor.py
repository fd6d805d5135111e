"""Keeps a forwarder process running while traces are pending: sending costs the application no CPU or memory.

One such process serves all applications that share the spool. Its warnings are in the log of its parent.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer.core.errors import SpoolError
from langchain_mlflow_tracer.core.guard import Worker
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.delivery.child import Child
from langchain_mlflow_tracer.delivery.forwarder import Forwarder
from langchain_mlflow_tracer.spool.spool import Spool

__all__ = ["Supervisor"]

LOOK: Final = 1.0
"""Seconds between two checks whether traces are pending and no forwarder runs."""

SPAWN: Final = 0.5
"""Seconds that starting the child may take at the end, even if `stop` has no time for anything else."""

STEADY: Final = 10.0
"""Seconds after which a child that ends is replaced at once: one that ends sooner probably will again."""

LONGEST_PAUSE: Final = 60.0
"""Seconds between two children that both end soon, at most: starting one takes CPU."""

TRIES: Final = 3
"""Children in a row that cannot run, after which a thread of the application sends the traces."""


class Supervisor:
    """Starts a child if traces are pending and no forwarder runs; uses a thread if no child can run.

    Args:
        spool: the queue on disk that is to be emptied.
        folder: its folder.
        full_uris: tracking URIs with credentials, by those without; it may grow, see `add_credentials`.
        log: gets what goes wrong.
        in_thread: makes the forwarder that is used in place of a child.
    """

    def __init__(
        self,
        spool: Spool,
        folder: Path,
        full_uris: Mapping[str, str],
        log: Log,
        in_thread: Callable[[], Forwarder],
    ) -> None:
        self._spool = spool
        self._folder = folder
        self._full_uris = full_uris
        self._log = log
        self._in_thread = in_thread
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._child: Child | None = None
        self._substitute: Forwarder | None = None
        self._failed = 0
        self._pause = LOOK
        self._next_start = self._reported_until = 0.0
        self._thread = Worker("supervisor", self._run)

    @staticmethod
    def possible() -> bool:
        """Whether `sys.executable` is a Python that can run the child, not a server or a frozen program."""
        is_python = "python" in Path(sys.executable or "").name.lower()
        return is_python and not getattr(sys, "frozen", False) and hasattr(os, "fork")

    @property
    def holds_drain_lock(self) -> bool:
        """Whether this process itself empties the spool now."""
        return self._substitute is not None and self._substitute.holds_drain_lock

    @property
    def is_ours(self) -> bool:
        """Whether this process, or its child, empties the spool or is about to."""
        return self.holds_drain_lock or self._child is not None

    @property
    def outlives_process(self) -> bool:
        """Whether pending traces are sent even if this process ends."""
        has_child = self._child is not None or time.monotonic() >= self._next_start
        return self._substitute is None and has_child

    def start(self) -> None:
        """Start to watch the spool."""
        self._thread.start()

    def wake(self) -> None:
        """Send new traces; a child notices them by itself."""
        if self._substitute is not None:
            self._substitute.wake()

    def add_credentials(self) -> None:
        """Send the child the credentials that were added to `full_uris`."""
        if self._child is not None:
            self._child.add_credentials(self._full_uris)

    def retry_now(self) -> None:
        """Make the next attempt now: the application flushes."""
        self._woken.set()
        sender = self._substitute or self._child
        if sender is not None:
            sender.retry_now()

    def stop(self, timeout: float) -> bool:
        """Detach the child: it ends by itself when no trace is pending, or after a minute."""
        self._stopping.set()
        self._woken.set()
        self._thread.join(max(timeout, SPAWN))
        if self._child is not None:
            self._child.detach()
        if self._substitute is not None and not self._substitute.stop(timeout):
            return False
        return not self._thread.is_alive()

    def _run(self) -> None:
        while self._substitute is None and not self._stopping.is_set():
            self._look_after()
            self._woken.wait(LOOK)
            self._woken.clear()
        if self._substitute is None:
            self._look_after()  # once more: a short application may end before the first check
        if self._child is not None:
            self._child.detach()  # again: `stop` may not have waited for this thread

    def _look_after(self) -> None:
        try:
            self._look()
        except SpoolError as error:
            self._log.report("spool_failed", "no trace can be sent now: %s", error)
        except BaseException as error:  # noqa: BLE001 - the law: a thread's loop survives every exception
            self._log.report("forwarder_failed", "the forwarder failed: %s: %s", type(error).__name__, error)

    def _look(self) -> None:
        if self._child is not None:
            for cause, text, count in self._child.reports():
                self._log.report(cause, "%s", text, count=count)
            if self._child.code is not None:
                self._ended(self._child, self._child.code)
        if self._child is None and not self._spool.figures.is_empty():
            self._report_failures()
            if time.monotonic() >= self._next_start and not self._spool.is_drained():
                self._begin()

    def _report_failures(self) -> None:
        """Log failures of another process's child: it reports them to its own parent only."""
        for failed in self._spool.figures.failures():
            if failed.latest > self._reported_until:
                self._reported_until = failed.latest
                self._log.report("export_failed", "traces wait on disk: %s", failed.reason)

    def _ended(self, child: Child, code: int) -> None:
        """Wait before the next child if this one ended soon, longer each time."""
        self._child = None
        child.inherit()
        if child.age >= STEADY:
            self._failed = 0
        elif code > 0:
            self._could_not_run(f"the forwarder process ended with {code}")
        if code < 0:
            self._log.report("forwarder_failed", "the forwarder process was killed by signal %d", -code)
        if child.age < STEADY:
            self._wait()

    def _begin(self) -> None:
        if self._failed >= TRIES:
            self._begin_in_thread()
            return
        known = dict(self._full_uris)  # a copy: another thread may add to it meanwhile
        try:
            self._child = Child(self._folder, known)
        except OSError as error:
            self._could_not_run(f"no forwarder process can be started: {error}")
            self._wait()
        if known != self._full_uris:
            self.add_credentials()

    def _could_not_run(self, reason: str) -> None:
        self._failed += 1
        self._log.report("forwarder_failed", "%s", reason)

    def _wait(self) -> None:
        now = time.monotonic()
        self._pause = LOOK if now - self._next_start > LONGEST_PAUSE else min(2 * self._pause, LONGEST_PAUSE)
        self._next_start = now + self._pause

    def _begin_in_thread(self) -> None:
        self._log.report(
            "forwarder_in_thread",
            "no forwarder process can run here: a thread of this process sends the traces",
        )
        substitute = self._in_thread()
        substitute.start()
        self._substitute = substitute
