"""Runs a forwarder in its own process, while the application that started it lives, and a little longer.

Run as `python -m langchain_mlflow_tracer.delivery.process FOLDER`. Standard input is open while the parent
lives; an empty line means "retry now", any other line is JSON with credentials. Warnings go to standard
output, one line of JSON each.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.delivery import exporter
from langchain_mlflow_tracer.delivery.forwarder import Forwarder
from langchain_mlflow_tracer.settings.child_process import uris_from_parent
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.spool.spool import Spool

__all__ = ["ParentLog", "main"]

STDIN, STDOUT, STDERR = range(3)

PIPE: Final = 64 * 1024
"""Bytes that are read at once: what a pipe can hold."""

LINGER: Final = 60.0
"""Seconds to finish after the parent has ended: creating a database takes ten."""

GRACE: Final = 5.0
"""Seconds to finish after the parent has ended and SIGTERM was received: service managers kill later."""

SETTLE: Final = 1.0
"""Seconds until a new forwarder has the drain lock, unless another one holds it: others test the lock too."""

NOTHING_LEFT: Final = 0.05
"""Seconds between two checks while it finishes."""

LONGEST: Final = 600
"""Characters of a warning, at most six bytes each: a pipe takes 4,096 bytes as a whole or not at all."""


class ParentLog(Log):
    """Sends warnings to the parent, which logs and counts them."""

    def __init__(self, logger: logging.Logger) -> None:
        """Keep standard output for the warnings; what libraries print goes to standard error."""
        super().__init__(logger)
        self._unsent: dict[str, int] = {}
        self._parent = os.dup(STDOUT)
        os.set_blocking(self._parent, False)
        os.dup2(STDERR, STDOUT)

    def report(self, cause: str, message: str, *arguments: object, count: int = 1) -> None:
        """Count `cause`, and send the line without waiting; the parent limits how many are logged."""
        self.count(cause, count)
        text = attempt(lambda: message % arguments, lambda _: message)  # what an exception prints is foreign
        with self._lines:  # several threads send, and may report the same cause
            self._unsent[cause] = self._unsent.get(cause, 0) + count
            line = json.dumps([cause, text[:LONGEST], self._unsent[cause]], ensure_ascii=False)
            # If the pipe is full, the next line of this cause has the count of this one too.
            with contextlib.suppress(OSError):
                os.write(self._parent, line.encode(errors="replace") + b"\n")
                del self._unsent[cause]


class _Patience:
    """The time to stay after the parent has ended: SIGTERM shortens it, a second SIGTERM ends the process."""

    def __init__(self) -> None:
        self.seconds = LINGER
        signal.signal(signal.SIGTERM, self._shorten)

    def _shorten(self, *_: object) -> None:
        self.seconds = GRACE
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main(folder: Path) -> int:
    """Send the traces in `folder` until the parent has ended; return 0 if no trace is pending then, else 1.

    Return 0 at once if another forwarder holds the drain lock.
    """
    patience, uris = _Patience(), uris_from_parent()
    log = ParentLog(logging.getLogger("langchain_mlflow_tracer"))
    spool = Spool(folder, max_bytes=sys.maxsize, warn=lambda cause, text: log.report(cause, "%s", text))

    def make_exporter(text: str) -> exporter.Exporter:
        return exporter.make(Destination.from_text(text).with_credentials(uris), log)

    left = _serve(Forwarder(spool, make_exporter, log), spool, uris, patience)
    # Put meanwhile by an application that relies on this process.
    while left == 0 and spool.figures.waiting():
        left = _serve(Forwarder(spool, make_exporter, log), spool, uris, patience)
    return 1 if left else 0


def _serve(forwarder: Forwarder, spool: Spool, uris: dict[str, str], patience: _Patience) -> int | None:
    """Send until the parent has ended, then the rest; return what is left, None without the drain lock."""
    left = None
    forwarder.start()
    if _is_needed(forwarder):
        for line in _lines():
            uris.update(json.loads(line or b"{}"))
            forwarder.retry_now()
        left = _finish(spool, forwarder, patience)
    forwarder.stop(timeout=1.0)
    return left


def _lines() -> Iterator[bytes]:
    """Yield the lines of the parent, until it has ended."""
    unread = b""
    while received := os.read(STDIN, PIPE):
        *lines, unread = (unread + received).split(b"\n")
        yield from lines


def _is_needed(forwarder: Forwarder) -> bool:
    """Whether this process gets the drain lock: of several that are started at once, one stays."""
    settled = time.monotonic() + SETTLE
    while not forwarder.holds_drain_lock and time.monotonic() < settled:
        time.sleep(NOTHING_LEFT)
    return forwarder.holds_drain_lock


def _finish(spool: Spool, forwarder: Forwarder, patience: _Patience) -> int:
    """Wait until all is sent, the time is over, the drain lock is lost or the destination fails."""
    began, gone = time.time(), time.monotonic()
    # In this order: the forwarder moves traces from the first to the second.
    while spool.running.of_dead_processes() or spool.figures.waiting():
        if (
            time.monotonic() - gone >= patience.seconds
            or not forwarder.holds_drain_lock
            or spool.figures.fails(began)
        ):
            break
        time.sleep(NOTHING_LEFT)
    return spool.figures.waiting()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
