"""Keeps opaque bytes on disk until they are acknowledged: a durable queue in SQLite (WAL).

Knows nothing of traces: an item has a key, the destination it is for, and bytes. An item that is put again
under its key replaces the one before. Any number of threads and processes may use one spool; one of them
at a time may hold the right to empty it (`Drain`).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from langchain_mlflow_tracer.errors import SpoolError

__all__ = ["Drain", "Failed", "Item", "Lease", "Spool", "Totals"]

FILE: Final = "spool.db"
LOCK_FILE: Final = "drain.lock"
SCHEMA_VERSION: Final = 1

BUSY_TIMEOUT: Final = 1.0
"""Seconds to wait for another process's transaction: they take milliseconds."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS items (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: an old lease cannot acknowledge a newer item
    key TEXT NOT NULL UNIQUE,
    destination TEXT NOT NULL,
    producer TEXT NOT NULL,
    created REAL NOT NULL,
    size INTEGER NOT NULL,
    payload BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS items_by_destination ON items (destination, id);
CREATE INDEX IF NOT EXISTS items_by_producer ON items (producer, id);
CREATE TABLE IF NOT EXISTS dead_letters (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    destination TEXT NOT NULL,
    producer TEXT NOT NULL,
    created REAL NOT NULL,
    died REAL NOT NULL,
    reason TEXT NOT NULL,
    payload BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS failures (
    destination TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    since REAL NOT NULL,
    latest REAL NOT NULL,
    attempts INTEGER NOT NULL
);
"""

_INSERT: Final = "INSERT OR REPLACE INTO items (key, destination, producer, created, size, payload)"

_inherited: list[sqlite3.Connection] = []
"""Connections of a parent process. SQLite forbids to use or close them after a fork, so they are kept."""


@dataclass(frozen=True, slots=True)
class Item:
    """What is put: `key` identifies it, `producer` says whose it is."""

    key: str
    destination: str
    producer: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Lease:
    """An item that is being delivered: to be acknowledged, buried, or left."""

    id: int
    key: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a destination does not take what is waiting for it; times in seconds since the epoch."""

    destination: str
    reason: str
    since: float
    latest: float
    attempts: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What is in the spool: `oldest` is the time of the oldest waiting item, `size` bytes waiting."""

    waiting: int
    size: int
    oldest: float | None
    dead: int
    disk: int


class Drain:
    """The right to empty a spool; the operating system takes it back when its process ends."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def release(self) -> None:
        """Let another forwarder have it."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def inherit(self) -> None:
        """Keep the connection from being closed in a forked child."""
        _inherited.append(self._connection)


class Spool:
    """A durable queue in the folder `folder`, at most `max_bytes` of waiting items.

    Raises:
        SpoolError: from every method, when the disk or the file does not let it work.
    """

    def __init__(self, folder: Path, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        """Open the spool in `folder`, made for its owner alone where it is not there."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        with _blamed(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = _connect(folder / FILE)
            self._set_up()
            self._size = self._waiting_bytes()

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is a spool in `folder`."""
        return (folder / FILE).exists()

    def _set_up(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise SpoolError(
                f"the spool in {self._folder} was written by a newer release (schema {version}, this one"
                f" knows {SCHEMA_VERSION}): upgrade langchain-mlflow-tracer, or give another spool_dir"
            )
        if version < SCHEMA_VERSION:
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )

    # Putting.

    def put(self, items: Sequence[Item]) -> int:
        """Commit `items` together; return how many of the oldest had to go to keep within the bound.

        It is one statement: Python gives up its lock around each, and beside a busy thread needs 5 ms to get
        it back.
        """
        now = self._clock()
        rows = [(i.key, i.destination, i.producer, now, len(i.payload), i.payload) for i in items]
        marks = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(rows))
        self._rows(f"{_INSERT} VALUES {marks}", *chain.from_iterable(rows))
        self._size += sum(len(item.payload) for item in items)
        return self._evict() if self._size > self._max_bytes else 0

    def _evict(self) -> int:
        """Other processes put and acknowledge too: count again before anything is thrown away."""
        gone = 0
        with self._transaction() as execute:
            self._size = self._waiting_bytes()
            while self._size > self._max_bytes:
                row = execute("SELECT id, size FROM items ORDER BY id LIMIT 1").fetchone()
                if row is None:
                    break
                execute("DELETE FROM items WHERE id = ?", row[:1])
                self._size -= row[1]
                gone += 1
        return gone

    def _waiting_bytes(self) -> int:
        return int(self._connection.execute("SELECT coalesce(sum(size), 0) FROM items").fetchone()[0])

    # Emptying.

    def drain(self) -> Drain | None:
        """Take the right to empty the spool, or None while another thread or process has it."""
        with _blamed(self._folder):
            connection = _connect(self._folder / LOCK_FILE, timeout=0)
            try:
                connection.execute("PRAGMA journal_mode=DELETE")
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError:
                connection.close()
                return None
            return Drain(connection)

    def destinations(self) -> list[str]:
        """Return the destinations that something waits for, the longest waiting first."""
        return [
            row[0]
            for row in self._rows("SELECT destination FROM items GROUP BY destination ORDER BY min(id)")
        ]

    def lease(self, destination: str, limit: int, max_bytes: int) -> list[Lease]:
        """Return the oldest items for `destination`: at most `limit`, and `max_bytes` but at least one."""
        rows = self._rows(
            "SELECT id, size FROM items WHERE destination = ? ORDER BY id LIMIT ?", destination, limit
        )
        chosen: list[int] = []
        total = 0
        for identity, size in rows:
            total += size
            if chosen and total > max_bytes:
                break
            chosen.append(identity)
        if not chosen:
            return []
        found = self._rows(
            "SELECT id, key, payload FROM items WHERE destination = ? AND id BETWEEN ? AND ? ORDER BY id",
            destination, chosen[0], chosen[-1],
        )  # fmt: skip
        return [Lease(*row) for row in found]

    def ack(self, leases: Sequence[Lease], destination: str) -> None:
        """Forget items that were delivered, and what `destination` failed at before."""
        with self._transaction() as execute:
            for lease in leases:
                self._delete(execute, lease)
            execute("DELETE FROM failures WHERE destination = ?", (destination,))

    def nack(self, destination: str, reason: str) -> None:
        """Note that `destination` did not take what it was sent; the items stay where they are."""
        now = self._clock()
        with self._transaction() as execute:
            execute(
                "INSERT INTO failures VALUES (?, ?, ?, ?, 1) ON CONFLICT (destination) DO UPDATE SET"
                " reason = excluded.reason, latest = excluded.latest, attempts = attempts + 1",
                (destination, reason, now, now),
            )

    def bury(self, lease: Lease, reason: str) -> None:
        """Move an item that its destination refuses for ever to the dead letters, with the reason."""
        with self._transaction() as execute:
            execute(
                "INSERT OR REPLACE INTO dead_letters"
                " SELECT id, key, destination, producer, created, ?, ?, payload FROM items WHERE id = ?",
                (self._clock(), reason, lease.id),
            )
            self._delete(execute, lease)

    def _delete(self, execute: Callable[..., sqlite3.Cursor], lease: Lease) -> None:
        if execute("DELETE FROM items WHERE id = ?", (lease.id,)).rowcount:
            self._size -= len(lease.payload)

    # Looking.

    def waiting_for(self, producer: str) -> int:
        """Return how many items of `producer` are not delivered yet."""
        return int(self._rows("SELECT count(*) FROM items WHERE producer = ?", producer)[0][0])

    def dead_of(self, producer: str) -> int:
        """Return how many items of `producer` were refused for ever."""
        return int(self._rows("SELECT count(*) FROM dead_letters WHERE producer = ?", producer)[0][0])

    def totals(self) -> Totals:
        """Return what is in the spool now."""
        waiting, size, oldest = self._rows(
            "SELECT count(*), coalesce(sum(size), 0), min(created) FROM items"
        )[0]
        dead = self._rows("SELECT count(*) FROM dead_letters")[0][0]
        with _blamed(self._folder):
            disk = sum(file.stat().st_size for file in self._folder.glob(f"{FILE}*"))
        return Totals(waiting, size, oldest, dead, disk)

    def failures(self) -> list[Failed]:
        """Return what keeps destinations from taking what waits for them."""
        return [Failed(*row) for row in self._rows("SELECT * FROM failures ORDER BY since")]

    # Keeping house.

    def close(self) -> None:
        """Close the file; the last one to close it folds the write-ahead log into it."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def inherit(self) -> None:
        """Leave the connection alone in a forked child: it belongs to the parent."""
        _inherited.append(self._connection)

    def _rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, _blamed(self._folder):
            return self._connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        with self._lock, _blamed(self._folder):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise


@contextlib.contextmanager
def _blamed(folder: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise SpoolError(f"the spool in {folder} does not work: {error}") from error


def _connect(file: Path, timeout: float = BUSY_TIMEOUT) -> sqlite3.Connection:
    """Open a database file that only its owner may read; SQLite gives its log files the same mode."""
    # Only a new file may be opened and closed beside SQLite: closing any handle of a file drops the locks
    # that this process has on it (POSIX).
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(file, timeout=timeout, isolation_level=None, check_same_thread=False)
    # NORMAL: a commit survives the death of the process; only a loss of power may take the last ones.
    connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" if timeout else "")
    return connection
