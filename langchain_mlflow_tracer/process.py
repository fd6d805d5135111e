"""Runs the forwarder in a process of its own, so that its work takes no time from the application's threads.

The child lives as long as the pipe to its parent is open, and a little longer to finish what is there. Run
as `python -m langchain_mlflow_tracer.process FOLDER`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer import exporter
from langchain_mlflow_tracer.destination import Destination
from langchain_mlflow_tracer.errors import SpoolError
from langchain_mlflow_tracer.forwarder import Forwarder
from langchain_mlflow_tracer.notices import Notices
from langchain_mlflow_tracer.settings import child_environment, full_uris
from langchain_mlflow_tracer.spool import Spool

__all__ = ["ForwarderProcess", "main"]

LOOK: Final = 1.0
"""Seconds between two looks whether somebody empties the spool while something waits in it."""

LINGER: Final = 60.0
"""Seconds the child stays after its parent to finish: a new database takes ten before its first trace."""

SETTLE: Final = 2.0
"""Seconds in which a new forwarder has the spool, unless another one keeps it."""

SPAWN: Final = 0.5
"""Seconds that starting the child may take at the end, even where there is no time for anything else."""

NOTHING_LEFT: Final = 0.05
"""Seconds between two looks of the lingering child."""

MODULE: Final = "langchain_mlflow_tracer.process"


class ForwarderProcess:
    """Keeps a child process that empties the spool, as long as something waits and nobody else does."""

    def __init__(self, spool: Spool, folder: Path, full_uris: Mapping[str, str], notices: Notices) -> None:
        self._spool = spool
        self._folder = folder
        self._full_uris = full_uris
        self._notices = notices
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="mlflow-tracer-supervisor", daemon=True)

    @staticmethod
    def possible() -> bool:
        """Whether `sys.executable` is a Python that could run the child, not a server or a frozen program."""
        return not getattr(sys, "frozen", False) and "python" in Path(sys.executable or "").name.lower()

    def start(self) -> None:
        """Begin to look after the spool."""
        self._thread.start()

    def wake(self) -> None:
        """See that somebody delivers: something was put."""
        if self._child is None or self._child.poll() is not None:
            self._woken.set()

    def hurry(self) -> None:
        """Let the child try again at once."""
        self._woken.set()
        child = self._child
        if child is not None and child.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # it is gone, or has enough such bytes to read
                os.write(child.stdin.fileno(), b".")

    def stop(self, timeout: float) -> bool:
        """Let the child finish by itself; it ends when nothing is left, or after a while."""
        self._stopping.set()
        self._woken.set()
        self._thread.join(max(timeout, SPAWN))
        if not self._thread.is_alive():
            self._look_after()  # the application may have been too short for the thread to have looked
        child = self._child
        if child is not None and child.stdin is not None:
            with contextlib.suppress(OSError):
                child.stdin.close()
            child.returncode = child.poll() or 0  # it outlives us on purpose: no ResourceWarning for it
        return not self._thread.is_alive()

    def inherit(self) -> None:
        """Close a forked child's copy of the pipe: it must not keep the forwarder of its parent alive."""
        child = self._child
        if child is not None and child.stdin is not None:
            with contextlib.suppress(OSError):
                child.stdin.close()
            child.returncode = 0

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._look_after()
            self._woken.wait(LOOK)
            self._woken.clear()

    def _look_after(self) -> None:
        try:
            self._look()
        except SpoolError as error:
            self._notices.warn("spool_failed", "nothing can be delivered: %s", error)
        except Exception as error:  # noqa: BLE001 - the law: a thread's loop survives what it meets
            self._notices.warn("forwarder_failed", "no forwarder: %s: %s", type(error).__name__, error)

    def _look(self) -> None:
        if self._spool.is_empty():
            return
        for failed in self._spool.failures():
            self._notices.warn("export_failed", "traces wait in the spool: %s", failed.reason)
        if (self._child is None or self._child.poll() is not None) and self._nobody_drains():
            self._child = self._spawn()

    def _nobody_drains(self) -> bool:
        return not self._spool.is_drained()

    def _spawn(self) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(  # noqa: S603 - our own module, by this interpreter
            [sys.executable, "-m", MODULE, str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=child_environment(self._full_uris),
            start_new_session=True,  # Ctrl-C at a terminal is for the application; it may still deliver
        )
        if child.stdin is not None and hasattr(os, "set_blocking"):
            os.set_blocking(child.stdin.fileno(), False)
        return child


def main(folder: Path) -> int:
    """Empty the spool in `folder` until the parent is gone and nothing is left; 0 when nothing is."""
    uris = full_uris()
    notices = Notices(logging.getLogger("langchain_mlflow_tracer"))
    spool = Spool(folder, max_bytes=sys.maxsize, tell=lambda cause, said: notices.warn(cause, "%s", said))

    def make_exporter(text: str) -> exporter.Exporter:
        return exporter.make(Destination.from_text(text).with_credentials(uris))

    forwarder = Forwarder(spool, make_exporter, notices)
    forwarder.start()
    if _is_needed(forwarder):
        while os.read(sys.stdin.fileno(), 1024):
            forwarder.hurry()
    left = _finish(spool, forwarder)
    forwarder.stop(timeout=1.0)
    return 1 if left else 0


def _is_needed(forwarder: Forwarder) -> bool:
    """Whether the spool is this process's to empty; two that were started at once need not both stay."""
    settled = time.monotonic() + SETTLE
    while not forwarder.drains and time.monotonic() < settled:
        time.sleep(NOTHING_LEFT)
    return forwarder.drains


def _finish(spool: Spool, forwarder: Forwarder) -> int:
    """Wait for the rest, unless another forwarder has the spool or its destination does not take it now."""
    began, patience = time.time(), time.monotonic() + LINGER
    settled = time.monotonic() + SETTLE
    # In this order: what was left running then waits.
    while (spool.left_running() or spool.waiting()) and time.monotonic() < patience:
        if not forwarder.drains and time.monotonic() >= settled:
            break
        if any(failed.latest >= began for failed in spool.failures()):
            break
        time.sleep(NOTHING_LEFT)
    return spool.waiting()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
