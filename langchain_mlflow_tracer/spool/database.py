"""Keeps one SQLite file usable: by threads, across forks, and when it is deleted or damaged meanwhile."""

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
"""Seconds to wait for another process's transaction: they take milliseconds."""

PATIENCE: Final = 1.5
"""Seconds to wait for another thread, which may itself wait for another process, or for a disk that hangs."""

FORK_PATIENCE: Final = 3.0
"""Seconds that a fork waits for who is at work with the file: beyond, its disk hangs, and a child may too."""

IMPATIENCE: Final = 0.05
"""Seconds to wait where somebody has just waited in vain, or whoever is at work has been for too long."""

LOOK: Final = 0.25
"""Seconds between two looks whether the file is still there: what is put meanwhile is brought along."""

PAGE: Final = 4096
"""Bytes of a page: SQLite's default."""

OPENING: Final = "open.lock"
"""Who holds the lock on this file opens, makes or repairs the database."""

_DAMAGED: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ")

Execute = Callable[..., sqlite3.Cursor]

_inherited: list[sqlite3.Connection] = []
"""Connections of a parent that could not be closed before a fork. SQLite forbids to use or close them."""


class Database:
    """A connection to `file`, opened at its first use, and again whenever that is needed.

    Args:
        file: made for its owner alone, with its folder, where it is not there.
        check: raises `SpoolError` if the file is not ours to change.
        set_up: brings it up to date.
        rescue: copies what is worth it from a lost or damaged file to a new one, and returns how much it was.
        warn: called with a cause and a sentence when the file was lost or damaged, and replaced.
        log_bytes: what the write-ahead log beside the file may take, about; a single commit may be larger.
        repairs: whether a damaged file is put aside for a new one; an onlooker should not.

    Raises:
        SpoolError: from every method, when the disk or the file does not let it work.
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
        self._place: os.stat_result | None = None
        self._look_again = 0.0
        self._forking = self._gated = self._closed = self._hangs = False
        self._since = math.inf
        forks.enter(
            self, forks.Order.DATABASE, before=Database._before_fork,
            in_parent=Database._after_fork, in_child=Database._after_fork,
        )  # fmt: skip
        self.rows("SELECT 1")

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement, again on a new file if this one turns out to be damaged; return its rows."""
        try:
            return self._rows(statement, values)
        except SpoolError as error:
            if not error.damaged or not self._repairs:
                raise
            return self._rows(statement, values)  # it was mended meanwhile

    def _rows(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with self._current() as connection:
            return connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Execute]:
        """Commit what is done inside together, or nothing of it."""
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
        """Close the file; the last one to close it folds the write-ahead log into it."""
        with self._held():
            self._closed = True
            self._disconnect()

    # Forks. SQLite keeps a list of the locks of its process: a child that opens the same file anew would
    # believe that it holds its parent's, and so take a lock or delete a log that others still need.

    def _before_fork(self) -> None:
        """Close the connection, so that a child inherits nothing of it; wait for a transaction to end."""
        self._gated = self._gate.acquire(timeout=FORK_PATIENCE)  # who comes now waits until it is over
        self._forking = self._lock.acquire(timeout=FORK_PATIENCE)
        if self._forking:
            self._disconnect()
        elif self._connection is not None:
            _inherited.append(self._connection)

    def _after_fork(self) -> None:
        """Go on: the next use connects again."""
        if self._forking:
            self._lock.release()
        if self._gated:
            self._gate.release()

    # The connection.

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        if self._gate.acquire(timeout=PATIENCE):
            self._gate.release()
        is_stuck = self._hangs or time.monotonic() - self._since > PATIENCE
        self._hangs = not self._lock.acquire(timeout=IMPATIENCE if is_stuck else PATIENCE)
        if self._hangs:
            raise SpoolError(f"the spool in {self._file.parent} does not work: its disk does not answer")
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = math.inf
            self._lock.release()

    @contextlib.contextmanager
    def _current(self) -> Iterator[sqlite3.Connection]:
        """Hold the connection to the file that has the name now."""
        with self._held():
            try:
                with as_spool_errors(self._file.parent):
                    yield self._found() or self._connect_anew()
            except SpoolError as error:
                if error.damaged and self._repairs:
                    with as_spool_errors(self._file.parent):
                        self._put_aside()
                raise

    def _found(self) -> sqlite3.Connection | None:
        """Return the connection, if its file was still there a moment ago."""
        now = time.monotonic()
        if self._connection is not None and now < self._look_again:
            return self._connection
        found = self._present()
        self._look_again = now + LOOK if found is not None else 0.0
        return found

    def _present(self) -> sqlite3.Connection | None:
        """Return the connection, if its file is still there."""
        if self._connection is None or self._place is None:
            return None
        try:
            return self._connection if os.path.samestat(self._place, self._file.stat()) else None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _connect_anew(self) -> sqlite3.Connection:
        """Connect to the file of that name, one process at a time: a new one is not made by two at once."""
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
        """Open the file of that name, and bring along what was in one that is gone."""
        lost = self._connection
        connection = _connect(self._file)
        try:
            self._check(connection.execute, self._file)
            _configure(connection.execute, self._log_bytes)
            self._set_up(connection.execute)
            self._place = self._file.stat()
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        if lost is not None:
            self._save(
                lost, "spool_lost", f"the spool in {self._file.parent} was deleted: a new one was made"
            )
        return connection

    def _save(self, lost: sqlite3.Connection, cause: str, said: str) -> None:
        """Copy what can be read of a lost file into the present one."""
        saved = 0
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                saved = self._rescue(lost.execute, self._connection.execute)
        with contextlib.suppress(sqlite3.Error):
            lost.close()
        self._warn(cause, f"{said}, with {saved} traces of the old one")

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    # A damaged file.

    def _put_aside(self) -> None:
        """Rename a damaged file, unless another process did so meanwhile, and start a new one."""
        lock = FileLock.take(self._file.with_name(OPENING))
        if lock is None:
            return
        try:
            if self._is_damaged():
                aside = _renamed(self._file)
                self._open()
                said = f"the spool in {self._file.parent} was damaged and put aside as {aside.name}"
                self._save(
                    sqlite3.connect(aside, isolation_level=None),
                    "spool_damaged",
                    f"{said}: a new one was made",
                )
        finally:
            lock.release()

    def _is_damaged(self) -> bool:
        """Whether the file of that name is still the damaged one: another process may have mended it."""
        if self._place is not None:
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
    """Say of what goes wrong with files that the spool in `folder` does."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        damaged = str(getattr(error, "sqlite_errorname", "")).startswith(_DAMAGED)
        raise SpoolError(f"the spool in {folder} does not work: {error}", damaged=damaged) from error


def marks(values: Collection[object]) -> str:
    """Return a question mark for each value, as SQL has them."""
    return ", ".join("?" * len(values))


def _connect(file: Path) -> sqlite3.Connection:
    """Open a database file that only its owner may read; SQLite gives its log files the same mode."""
    # Only a new file may be opened and closed beside SQLite: closing any handle of a file drops the locks
    # that this process has on it (POSIX).
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    return sqlite3.connect(file, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)


def _configure(execute: Execute, log_bytes: int) -> None:
    if execute("PRAGMA page_count").fetchone() == (0,):
        # Pages that become free can be given back. Once there is a table it changes nothing, but it writes.
        execute("PRAGMA auto_vacuum=INCREMENTAL")
    execute("PRAGMA journal_mode=WAL").fetchall()
    # A commit survives the death of the process; only a loss of power may take the last ones.
    execute("PRAGMA synchronous=NORMAL")
    execute(f"PRAGMA journal_size_limit={log_bytes}").fetchall()
    execute(f"PRAGMA wal_autocheckpoint={max(1, log_bytes // 2 // PAGE)}").fetchall()


def _renamed(file: Path) -> Path:
    """Move a database and its log out of the way; of earlier damage only the latest is kept."""
    aside = file.with_name(f"{file.name}.damaged")
    for ending in ("-wal", ""):
        with contextlib.suppress(FileNotFoundError):
            file.with_name(file.name + ending).replace(aside.with_name(aside.name + ending))
    with contextlib.suppress(FileNotFoundError):
        file.with_name(f"{file.name}-shm").unlink()
    return aside
