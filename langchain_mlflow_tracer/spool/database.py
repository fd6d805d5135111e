"""Keeps one SQLite file usable: by several threads, across forks, and when it is deleted or damaged."""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Final

from langchain_mlflow_tracer.core import forks
from langchain_mlflow_tracer.core.errors import SpoolError
from langchain_mlflow_tracer.spool.file_lock import FileLock

__all__ = ["PAGE", "Database", "Execute", "as_spool_errors", "marks"]

BUSY_TIMEOUT: Final = 1.0
"""Seconds to wait for a transaction of another process: it takes milliseconds."""

PATIENCE: Final = 1.5
"""Seconds to wait for another thread, which may itself wait for another process, or for a disk that hangs."""

FORK_PATIENCE: Final = 3.0
"""Seconds that a fork waits for a transaction to end: if it takes longer, the disk hangs."""

IMPATIENCE: Final = 0.05
"""Seconds to wait while the disk seems to hang: another thread waited in vain, or works for too long."""

CHECK_EVERY: Final = 0.25
"""Seconds between two checks that the file still exists: what is put meanwhile is copied to the new one."""

PAGE: Final = 4096
"""Bytes of a page: SQLite's default."""

OPENING: Final = "open.lock"
"""A process holds the lock on this file while it opens, makes or repairs the database."""

_DAMAGED: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ")

Execute = Callable[..., sqlite3.Cursor]

_inherited: list[sqlite3.Connection] = []
"""Connections that could not be closed before a fork. A child keeps them: it must not use or close them."""


class Database:
    """A connection to `file`, opened at its first use, and again after a fork or if the file was replaced.

    Args:
        file: created if it does not exist, with its folder; only its owner can read it.
        check: raises `SpoolError` if the file must not be changed.
        set_up: creates the tables.
        rescue: copies items from a lost or damaged file to a new one, and returns how many.
        warn: called with a cause and a sentence when the file was lost or damaged, and replaced.
        log_bytes: about how large the write-ahead log may be; a single commit may be larger.
        repairs: whether a damaged file is replaced by a new one; a command that only reads should not.

    Raises:
        SpoolError: from every method, when the disk or the file does not work.
    """

    def __init__(
        self,
        file: Path,
        check: Callable[[Execute, Path], None],
        set_up: Callable[[Execute], None],
        rescue: Callable[[Execute, Execute], int],
        warn: Callable[[str, str], None],
        *,
        log_bytes: int,
        repairs: bool,
    ) -> None:
        """Open the file."""
        self._file = file
        self._log_bytes = log_bytes
        self._check = check
        self._set_up = set_up
        self._rescue = rescue
        self._warn = warn
        self._repairs = repairs
        self._lock = threading.Lock()
        self._gate = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._identity: os.stat_result | None = None
        self._check_at = 0.0
        self._forking = self._gated = self._closed = self._hangs = False
        self._busy_since = math.inf
        forks.enter(
            self, forks.Order.DATABASE, before=Database._before_fork,
            in_parent=Database._after_fork, in_child=Database._after_fork,
        )  # fmt: skip
        self.rows("SELECT 1")

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows; if the file is damaged, run it again on the repaired one."""
        try:
            return self._rows(statement, values)
        except SpoolError as error:
            if not error.damaged or not self._repairs:
                raise
            return self._rows(statement, values)

    def _rows(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with self._current() as connection:
            return connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Execute]:
        """Commit the statements in the block together, or none of them."""
        with self._current() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection.execute
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    def shrink(self, pages: int) -> None:
        """Give `pages` back to the file system, if so many are free."""
        with self._current() as connection:
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            if free >= pages:
                # Not `execute`: it stops after the first page (seen with Python 3.11, SQLite 3.40).
                connection.executescript(f"PRAGMA incremental_vacuum({pages})")

    def close(self) -> None:
        """Close the file; SQLite folds the log into it when the last connection is closed."""
        with self._exclusive():
            self._closed = True
            self._disconnect()

    # Forks. SQLite has a list of the locks that its process holds. A child has a copy of that list, but not
    # the locks: if it opened the file again, it would write without a lock, or delete a log that others need.

    def _before_fork(self) -> None:
        """Wait for the transaction to end and close the connection, so that a child has no copy of it."""
        self._gated = self._gate.acquire(timeout=FORK_PATIENCE)  # threads that come now wait
        self._forking = self._lock.acquire(timeout=FORK_PATIENCE)
        if self._forking:
            self._disconnect()
        elif self._connection is not None:
            _inherited.append(self._connection)

    def _after_fork(self) -> None:
        """Allow work again; the next one connects."""
        if self._forking:
            self._lock.release()
        if self._gated:
            self._gate.release()

    # The connection.

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        # The gate is closed while the process forks. Where it is not opened in time, the lock decides.
        if self._gate.acquire(timeout=PATIENCE):
            self._gate.release()
        is_stuck = self._hangs or time.monotonic() - self._busy_since > PATIENCE
        self._hangs = not self._lock.acquire(timeout=IMPATIENCE if is_stuck else PATIENCE)
        if self._hangs:
            raise SpoolError(f"the spool in {self._file.parent} does not work: its disk does not answer")
        self._busy_since = time.monotonic()
        try:
            yield
        finally:
            self._busy_since = math.inf
            self._lock.release()

    @contextlib.contextmanager
    def _current(self) -> Iterator[sqlite3.Connection]:
        """Lock the connection to the file that has the name now; repair that file if it is damaged."""
        with self._exclusive():
            try:
                with as_spool_errors(self._file.parent):
                    yield self._recent() or self._connect_anew()
            except SpoolError as error:
                if error.damaged and self._repairs:
                    with as_spool_errors(self._file.parent):
                        self._put_aside()
                raise

    def _recent(self) -> sqlite3.Connection | None:
        """Return the connection, if its file existed a moment ago: checking takes a system call."""
        now = time.monotonic()
        if self._connection is not None and now < self._check_at:
            return self._connection
        connection = self._present()
        self._check_at = now + CHECK_EVERY if connection is not None else 0.0
        return connection

    def _present(self) -> sqlite3.Connection | None:
        """Return the connection, if its file still has the name."""
        if self._connection is None or self._identity is None:
            return None
        try:
            return self._connection if os.path.samestat(self._identity, self._file.stat()) else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _connect_anew(self) -> sqlite3.Connection:
        """Connect to the file, one process at a time, so that two do not create it at once."""
        if self._closed:
            raise SpoolError(f"the spool in {self._file.parent} is closed")
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._repairs:
            return self._open()
        lock = FileLock.wait_for(self._file.with_name(OPENING), BUSY_TIMEOUT)
        try:
            return self._open()
        finally:
            if lock is not None:
                lock.release()

    def _open(self) -> sqlite3.Connection:
        """Open the file, and copy into it what was in one that was deleted."""
        # A deleted file exists as long as it is open, so it can still be read by the old connection.
        lost = self._connection
        connection = _connect(self._file)
        try:
            self._check(connection.execute, self._file)
            _configure(connection.execute, self._log_bytes)
            self._set_up(connection.execute)
            self._identity = self._file.stat()
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        if lost is not None:
            self._save(
                lost, "spool_lost", f"the spool in {self._file.parent} was deleted: a new one was made"
            )
        return connection

    def _save(self, lost: sqlite3.Connection, cause: str, text: str) -> None:
        """Copy what can be read of a lost file into the present one."""
        saved = 0
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                saved = self._rescue(lost.execute, self._connection.execute)
        with contextlib.suppress(sqlite3.Error):
            lost.close()
        self._warn(cause, f"{text}, with {saved} traces of the old one")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    # A damaged file.

    def _put_aside(self) -> None:
        """Rename a damaged file and create a new one, unless another process is doing it or has done it."""
        lock = FileLock.take(self._file.with_name(OPENING))
        if lock is None:  # another process repairs it
            return
        try:
            if self._is_damaged():
                aside = _renamed(self._file)
                self._open()
                text = f"the spool in {self._file.parent} was damaged and put aside as {aside.name}"
                self._save(
                    sqlite3.connect(aside, isolation_level=None),
                    "spool_damaged",
                    f"{text}: a new one was made",
                )
        finally:
            lock.release()

    def _is_damaged(self) -> bool:
        """Whether the file is still the damaged one: another process may have replaced it."""
        if self._identity is not None:
            replaced = self._present() is None
            self._disconnect()
            return not replaced
        try:
            self._open()
        except sqlite3.DatabaseError:
            return True
        return False


@contextlib.contextmanager
def as_spool_errors(folder: Path) -> Iterator[None]:
    """Raise errors of SQLite and the file system as errors of the spool in `folder`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        damaged = str(getattr(error, "sqlite_errorname", "")).startswith(_DAMAGED)
        raise SpoolError(f"the spool in {folder} does not work: {error}", damaged=damaged) from error


def marks(values: Collection[object]) -> str:
    """Return a question mark for each value, as SQL has them."""
    return ", ".join("?" * len(values))


def _connect(file: Path) -> sqlite3.Connection:
    """Open a file that only its owner can read; SQLite gives its log the same mode."""
    # O_EXCL: only a new file may be opened here. On POSIX, closing any descriptor of a file releases all
    # locks that SQLite has on it in this process.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    return sqlite3.connect(file, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)


def _configure(execute: Execute, log_bytes: int) -> None:
    if execute("PRAGMA page_count").fetchone() == (0,):
        # Free pages can be given back to the file system. It has no effect once there is a table.
        execute("PRAGMA auto_vacuum=INCREMENTAL")
    execute("PRAGMA journal_mode=WAL").fetchall()
    # A commit survives the death of the process; a power failure may undo the last ones.
    execute("PRAGMA synchronous=NORMAL")
    execute(f"PRAGMA journal_size_limit={log_bytes}").fetchall()
    execute(f"PRAGMA wal_autocheckpoint={max(1, log_bytes // 2 // PAGE)}").fetchall()


def _renamed(file: Path) -> Path:
    """Rename a database and its log; a file that was damaged earlier is overwritten."""
    aside = file.with_name(f"{file.name}.damaged")
    # The log first. If the process is killed in between, a file without its log is left, not a log without
    # its file: SQLite would write such a log into the new file.
    for ending in ("-wal", ""):
        with contextlib.suppress(FileNotFoundError):
            file.with_name(file.name + ending).replace(aside.with_name(aside.name + ending))
    with contextlib.suppress(FileNotFoundError):
        file.with_name(f"{file.name}-shm").unlink()
    return aside
