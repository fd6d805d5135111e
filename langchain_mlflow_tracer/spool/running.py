"""Keeps traces that have not ended yet, and finds those whose process has died.

A process with such traces holds a lock: the operating system releases it when the process dies, however it
dies, so another process can see that it is dead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from langchain_mlflow_tracer.spool.database import Database, as_spool_errors, marks
from langchain_mlflow_tracer.spool.file_lock import FileLock
from langchain_mlflow_tracer.spool.rows import Item, Lease

__all__ = ["Running"]

ALIVE: Final = "alive-"
"""How the name of the lock file of a producer begins."""

PROBE_TIME: Final = 0.1
"""Seconds to wait for another process that holds the lock only to see whether this one is alive."""


class Running:
    """The running traces in the `database` of the spool in `folder`; finishing one removes it (a trigger)."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._locks: dict[str, FileLock] = {}

    def put(self, items: Sequence[Item]) -> None:
        """Store `items` as they are now; what was stored under their keys before is replaced."""
        # The lock first: a row whose producer has no lock is taken for one of a dead process.
        for producer in {item.producer for item in items}:
            self._lock(producer)
        with self._database.transaction() as execute:
            for item in items:
                execute(
                    "INSERT INTO running VALUES (?, ?, ?, 1, 0, ?) ON CONFLICT (key) DO UPDATE"
                    " SET version = version + 1, payload = excluded.payload",
                    (item.key, item.destination, item.producer, item.payload),
                )

    def not_shown(self, destination: str, max_bytes: int) -> list[Lease]:
        """Return what is new for `destination` since the last `mark_shown`; a lease's id is its version."""
        rows = self._database.rows(
            "SELECT version, key, payload FROM running WHERE destination = ? AND shown < version", destination
        )
        return [Lease(*row) for row in _up_to(max_bytes, rows)]

    def mark_shown(self, leases: Sequence[Lease]) -> None:
        """Note that the destination has these versions."""
        with self._database.transaction() as execute:
            for lease in leases:
                execute("UPDATE running SET shown = ? WHERE key = ?", (lease.id, lease.key))

    def of_dead_processes(self) -> list[Item]:
        """Return the traces that were running when their process died."""
        dead = [producer for producer in self._producers() if not self._is_alive(producer)]
        where = f"WHERE producer IN ({marks(dead)})"
        rows = self._database.rows(f"SELECT key, destination, producer, payload FROM running {where}", *dead)
        return [Item(*row) for row in rows]

    def remove_stale_locks(self) -> None:
        """Delete the lock files of dead processes that have no running traces."""
        producers = self._producers()
        with as_spool_errors(self._folder):
            for file in self._folder.glob(f"{ALIVE}*"):
                producer = file.name.removeprefix(ALIVE)
                if producer not in producers:
                    self._is_alive(producer)

    def close(self) -> None:
        """Release the locks: what is still running now belongs to a dead process."""
        for producer, lock in self._locks.items():
            # Deleted before it is released: afterwards the file may be another process's lock.
            with contextlib.suppress(OSError):
                self._file(producer).unlink()
            lock.release()
        self._locks.clear()

    def _producers(self) -> set[str]:
        return {row[0] for row in self._database.rows("SELECT DISTINCT producer FROM running")}

    def _file(self, producer: str) -> Path:
        return self._folder / f"{ALIVE}{producer}"

    def _lock(self, producer: str) -> None:
        lock = self._locks.get(producer)
        if lock is not None and lock.is_valid:
            return
        with as_spool_errors(self._folder):
            new = FileLock.wait_for(self._file(producer), PROBE_TIME)
        if new is not None:
            self._locks[producer] = new

    def _is_alive(self, producer: str) -> bool:
        """Whether the process that `producer` stands for lives; if not, its lock file is deleted."""
        if producer in self._locks:
            return True
        file = self._file(producer)
        with as_spool_errors(self._folder):
            if not file.exists():
                return False
            lock = FileLock.take(file)
            if lock is None:
                return True
            # Deleted while the lock is held: a process that opened the file meanwhile sees that its lock is
            # not valid, and takes one anew. Windows does not delete an open file; then it stays.
            with contextlib.suppress(OSError):
                file.unlink()
            lock.release()
            return False


def _up_to(max_bytes: int, rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Yield rows until their payloads, the last column, are more than `max_bytes`, but at least one."""
    total = 0
    for number, row in enumerate(rows):
        total += len(row[-1])
        if number and total > max_bytes:
            return
        yield row
