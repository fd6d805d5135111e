"""Locks a file; the operating system takes the lock back when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Final

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

from langchain_mlflow_tracer.core import forks

__all__ = ["FileLock"]

OWNER_ONLY: Final = 0o600

POLL: Final = 0.005
"""Seconds between two attempts: `flock` cannot wait for a while only."""


class FileLock:
    """A lock that is held; among threads of one process as well as among processes.

    On POSIX it is `flock`: it belongs to the open file, not to the process, so that a second take in the same
    process fails too, and a forked child that closes its copy takes nothing from its parent.
    """

    def __init__(self, file: Path, descriptor: int) -> None:
        self._file = file
        self._descriptor = descriptor
        forks.enter(self, forks.Order.FILE_LOCK, in_child=FileLock._close)

    @classmethod
    def take(cls, file: Path) -> FileLock | None:
        """Take the lock on `file`, which is made where it is not there; None while somebody has it.

        Raises:
            OSError: the file cannot be opened.
        """
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, OWNER_ONLY)
        try:
            _lock(descriptor)
        except OSError:
            os.close(descriptor)
            return None
        return cls(file, descriptor)

    @classmethod
    def wait_for(cls, file: Path, timeout: float) -> FileLock | None:
        """Take the lock on `file` when it is free, or None after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (lock := cls.take(file)) is None and time.monotonic() < deadline:
            time.sleep(POLL)
        return lock

    @property
    def is_valid(self) -> bool:
        """Whether the file that is locked is still the one of that name: it may have been deleted."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._file.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Let others have it, also where a child that was forked this moment still has a copy."""
        with contextlib.suppress(OSError):
            _unlock(self._descriptor)
        self._close()

    def _close(self) -> None:
        """Close the file; in a forked child only its copy, so that the parent keeps the lock."""
        # Once: the operating system gives the number of a closed file to the next that is opened.
        descriptor, self._descriptor = self._descriptor, -1
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _unlock(descriptor: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
