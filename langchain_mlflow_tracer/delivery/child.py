"""The forwarder process as its parent sees it.

When the pipe to it is closed, its parent has ended: it sends the pending traces, and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer.core import forks
from langchain_mlflow_tracer.settings.child_process import child_environment

__all__ = ["Child"]

MODULE: Final = "langchain_mlflow_tracer.delivery.process"

READ: Final = 64 * 1024
"""Bytes that are read at once: what a pipe can hold."""


class Child:
    """A forwarder process that this process has started."""

    def __init__(self, folder: Path, full_uris: Mapping[str, str]) -> None:
        """Start it.

        Raises:
            OSError: the operating system cannot start it.
        """
        self._began = time.monotonic()
        self._unread = b""
        self._process = subprocess.Popen(  # noqa: S603 - our own module, by this interpreter
            # -P: no file in the current folder is taken for a module
            [sys.executable, "-P", "-m", MODULE, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(full_uris),
            start_new_session=True,  # Ctrl-C at a terminal ends the application, not the sending
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

    def retry_now(self) -> None:
        """Make it try again now."""
        self._write(b"\n")

    def add_credentials(self, full_uris: Mapping[str, str]) -> None:
        """Send it credentials that were not known when it was started."""
        self._write(json.dumps(dict(full_uris)).encode() + b"\n")

    def reports(self) -> Iterator[tuple[str, str, int]]:
        """Return its warnings since the last call: cause, text and count."""
        if self._process.stdout is None:
            return
        with contextlib.suppress(OSError, ValueError):  # nothing to read, or the pipe is closed
            self._unread += os.read(self._process.stdout.fileno(), READ)
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            cause, text, count = json.loads(line)
            yield cause, text, count

    def detach(self) -> None:
        """Let it finish and end by itself."""
        self.inherit()
        # It may outlive this process: without an exit code, Popen would warn (ResourceWarning).
        self._process.returncode = self._process.poll() or 0

    def inherit(self) -> None:
        """Close the pipes; in a forked process their copies would keep the child running after its parent."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.returncode = 0

    def _write(self, line: bytes) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # the process has ended, or the pipe is full
                os.write(self._process.stdin.fileno(), line)
