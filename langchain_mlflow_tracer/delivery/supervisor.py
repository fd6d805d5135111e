"""Keeps a process that empties the spool: its work takes no time and no memory from the application.

One such process serves all that share the spool. What goes wrong in it is said in the log of its parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer.core import forks
from langchain_mlflow_tracer.core.errors import SpoolError
from langchain_mlflow_tracer.core.guard import Worker
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.delivery.forwarder import Forwarder
from langchain_mlflow_tracer.settings.settings import child_environment
from langchain_mlflow_tracer.spool.spool import Spool

__all__ = ["Child", "Supervisor"]

LOOK: Final = 1.0
"""Seconds between two looks whether somebody empties the spool while something waits in it."""

SPAWN: Final = 0.5
"""Seconds that starting the child may take at the end, even where there is no time for anything else."""

STEADY: Final = 10.0
"""Seconds after which a child that ends is replaced at once: one that ends sooner will do so again."""

LONGEST_PAUSE: Final = 60.0
"""Seconds between two children, at most, that both end soon: the start of each takes CPU."""

TRIES: Final = 3
"""Children in a row that cannot be run, after which a thread of the application delivers."""

MODULE: Final = "langchain_mlflow_tracer.delivery.process"

HEARD: Final = 64 * 1024
"""Bytes that a pipe holds."""


class Child:
    """The process as its parent sees it: it ends some time after the pipe to it was closed."""

    def __init__(self, folder: Path, full_uris: Mapping[str, str]) -> None:
        """Start it.

        Raises:
            OSError: the operating system does not let it start.
        """
        self._began = time.monotonic()
        self._unread = b""
        self._process = subprocess.Popen(  # noqa: S603 - our own module, by this interpreter
            # -P: what lies in the current folder is no module of ours
            [sys.executable, "-P", "-m", MODULE, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(full_uris),
            start_new_session=True,  # Ctrl-C at a terminal is for the application; it may still deliver
        )
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
        forks.enter(self, forks.Order.PROCESS, in_child=Child.inherit)

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._began

    def hurry(self) -> None:
        """Let it try again at once."""
        self._write(b"\n")

    def learn(self, full_uris: Mapping[str, str]) -> None:
        """Tell it of credentials that were not known when it was started."""
        self._write(json.dumps(dict(full_uris)).encode() + b"\n")

    def heard(self) -> Iterator[tuple[str, str, int]]:
        """Return what it has warned of since this was asked last: cause, text and count."""
        if self._process.stdout is None:
            return
        with contextlib.suppress(OSError, ValueError):  # nothing was said, or nobody is there
            self._unread += os.read(self._process.stdout.fileno(), HEARD)
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            cause, text, count = json.loads(line)
            yield cause, text, count

    def let_go(self) -> None:
        """Let it finish and end by itself."""
        self.inherit()
        self._process.returncode = self._process.poll() or 0  # it outlives us on purpose: no ResourceWarning

    def inherit(self) -> None:
        """Close the copies of a forked process: they must not keep the child of its parent alive."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.returncode = 0

    def _write(self, line: bytes) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # it is gone, or has enough such lines to read
                os.write(self._process.stdin.fileno(), line)


class Supervisor:
    """Starts a child where something waits and nobody delivers; does it in a thread where none can be run.

    Args:
        spool: what is to be emptied.
        folder: where it is.
        full_uris: tracking URIs with credentials, by those without; it may grow, see `learn`.
        log: gets what goes wrong.
        in_thread: makes the forwarder that takes the place of a child.
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
        self._again = self._told_until = 0.0
        self._thread = Worker("supervisor", self._run)

    @staticmethod
    def possible() -> bool:
        """Whether `sys.executable` is a Python that could run the child, not a server or a frozen program."""
        is_python = "python" in Path(sys.executable or "").name.lower()
        return is_python and not getattr(sys, "frozen", False) and hasattr(os, "set_blocking")

    @property
    def drains(self) -> bool:
        """Whether this very process empties the spool."""
        return self._substitute is not None and self._substitute.drains

    @property
    def is_ours(self) -> bool:
        """Whether this process, or its child, empties the spool or is about to."""
        return self.drains or self._child is not None

    @property
    def goes_on(self) -> bool:
        """Whether what waits is delivered although this process ends."""
        may_begin = self._child is not None or time.monotonic() >= self._again
        return self._substitute is None and may_begin

    def start(self) -> None:
        """Begin to look after the spool."""
        self._thread.start()

    def wake(self) -> None:
        """Deliver what was put; a child finds it by itself."""
        if self._substitute is not None:
            self._substitute.wake()

    def learn(self) -> None:
        """Let the child know credentials that came later."""
        if self._child is not None:
            self._child.learn(self._full_uris)

    def hurry(self) -> None:
        """Try again at once: somebody flushes."""
        self._woken.set()
        hurried = self._substitute or self._child
        if hurried is not None:
            hurried.hurry()

    def stop(self, timeout: float) -> bool:
        """Let the child finish by itself; it ends when nothing is left, or after a while."""
        self._stopping.set()
        self._woken.set()
        self._thread.join(max(timeout, SPAWN))
        if self._child is not None:
            self._child.let_go()
        if self._substitute is not None and not self._substitute.stop(timeout):
            return False
        return not self._thread.is_alive()

    def _run(self) -> None:
        while self._substitute is None and not self._stopping.is_set():
            self._look_after()
            self._woken.wait(LOOK)
            self._woken.clear()
        if self._substitute is None:
            self._look_after()  # once more: the application may have been too short for a look before
        if self._child is not None:
            self._child.let_go()  # which `stop` may not have waited for

    def _look_after(self) -> None:
        try:
            self._look()
        except SpoolError as error:
            self._log.report("spool_failed", "nothing can be delivered: %s", error)
        except BaseException as error:  # noqa: BLE001 - the law: a thread's loop survives what it meets
            self._log.report("forwarder_failed", "no forwarder: %s: %s", type(error).__name__, error)

    def _look(self) -> None:
        if self._child is not None:
            for cause, text, count in self._child.heard():
                self._log.report(cause, "%s", text, count=count)
            if self._child.code is not None:
                self._bury(self._child, self._child.code)
        if self._child is None and not self._spool.is_empty():
            self._tell_failures()
            if time.monotonic() >= self._again and not self._spool.is_drained():
                self._begin()

    def _tell_failures(self) -> None:
        """Say what the child of another process meets, which tells its own parent only."""
        for failed in self._spool.failures():
            if failed.latest > self._told_until:
                self._told_until = failed.latest
                self._log.report("export_failed", "traces wait on disk: %s", failed.reason)

    def _bury(self, child: Child, code: int) -> None:
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
        known = dict(self._full_uris)
        try:
            self._child = Child(self._folder, known)
        except OSError as error:
            self._could_not_run(f"no forwarder process can be started: {error}")
            self._wait()
        if known != self._full_uris:
            self.learn()

    def _could_not_run(self, said: str) -> None:
        self._failed += 1
        self._log.report("forwarder_failed", "%s", said)

    def _wait(self) -> None:
        now = time.monotonic()
        self._pause = LOOK if now - self._again > LONGEST_PAUSE else min(2 * self._pause, LONGEST_PAUSE)
        self._again = now + self._pause

    def _begin_in_thread(self) -> None:
        self._log.report(
            "forwarder_in_thread", "a thread of this process delivers: no forwarder process runs here"
        )
        substitute = self._in_thread()
        substitute.start()
        self._substitute = substitute
