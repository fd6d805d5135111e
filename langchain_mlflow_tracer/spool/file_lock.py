"""Locks a file; the operating system releases the lock when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer.core import forks

try:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
except ImportError:
    HAS_FLOCK = False
    """Windows has no flock."""
else:
    HAS_FLOCK = True

__all__ = ["FileLock"]

OWNER_ONLY: Final = 0o600

POLL: Final = 0.005
"""Seconds between two attempts: `flock` cannot wait with a timeout."""


class FileLock:
    """A lock that is held, against other threads of this process as well as against other processes.

    It is `flock`, which belongs to the open file, not to the process. So a second attempt in the same process
    fails too, and a forked child that closes its copy of the file does not release its parent's lock.
    """

    def __init__(self, file: Path, descriptor: int) -> None:
        self._file = file
        self._descriptor = descriptor
        forks.enter(self, forks.Order.FILE_LOCK, in_child=FileLock._close)

    @classmethod
    def take(cls, file: Path) -> FileLock | None:
        """Lock `file`, which is made if it does not exist; None while it is locked already.

        Raises:
            OSError: the file cannot be opened.
        """
        if not HAS_FLOCK:
            return _TransactionLock.take(file)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, OWNER_ONLY)
        try:
            flock(descriptor, LOCK_EX | LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return cls(file, descriptor)

    @classmethod
    def wait_for(cls, file: Path, timeout: float) -> FileLock | None:
        """Lock `file` as soon as it is free; None after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (lock := cls.take(file)) is None and time.monotonic() < deadline:
            time.sleep(POLL)
        return lock

    @property
    def is_valid(self) -> bool:
        """Whether the name still belongs to the locked file: if it was deleted, others can lock a new one."""
        try:
            return os.path.samestat(self._stat(), self._file.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Release the lock, also if a child that was forked at this moment still has a copy of the file."""
        with contextlib.suppress(OSError):
            flock(self._descriptor, LOCK_UN)
        self._close()

    def _stat(self) -> os.stat_result:
        return os.fstat(self._descriptor)

    def _close(self) -> None:
        """Close the file; in a forked child only its copy, so that the parent keeps the lock."""
        # Once: the operating system gives the number of a closed file to the next that is opened.
        descriptor, self._descriptor = self._descriptor, -1
        with contextlib.suppress(OSError):
            os.close(descriptor)


class _TransactionLock(FileLock):
    """A lock where there is no `flock`: an exclusive transaction on the file, which SQLite takes anywhere.

    It is not for POSIX, where SQLite's locks belong to the process: a forked child could release them.
    """

    def __init__(self, file: Path, connection: sqlite3.Connection) -> None:
        self._file = file
        self._connection = connection
        self._locked = file.stat()

    @classmethod
    def take(cls, file: Path) -> FileLock | None:
        connection = sqlite3.connect(file, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            connection.close()
            return None
        return cls(file, connection)

    def release(self) -> None:
        self._connection.close()

    def _stat(self) -> os.stat_result:
        return self._locked
