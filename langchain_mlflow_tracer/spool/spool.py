"""Keeps opaque bytes on disk until they are acknowledged: a durable queue in SQLite (WAL).

The spool knows nothing of traces: an item has a key, a destination, and bytes. An item that is put again
under its key replaces the one before. Any number of threads and processes may use one spool; only one of them
at a time, the one that holds the drain lock, may send what is in it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate, chain, takewhile
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer.core.errors import SpoolError
from langchain_mlflow_tracer.spool import dead_letters, losses, schema
from langchain_mlflow_tracer.spool.database import PAGE, Database, Execute, as_spool_errors, marks
from langchain_mlflow_tracer.spool.dead_letters import DeadLetters
from langchain_mlflow_tracer.spool.figures import Figures
from langchain_mlflow_tracer.spool.file_lock import FileLock
from langchain_mlflow_tracer.spool.rows import Item, Lease
from langchain_mlflow_tracer.spool.running import Running

__all__ = ["FILE", "Spool"]

FILE: Final = "spool.db"
DRAIN_LOCK: Final = "drain.lock"

RECOUNT: Final = 16
"""The share of the free room, one in so many, after which it is measured again: others put items too."""

FINE: Final = 64 * 1024
"""Bytes put between two measurements of a spool that is nearly full."""

ROOM: Final = 256 * 1024
"""Bytes that a group of traces may take before the size is measured again."""

SHRINK_PAGES: Final = 1000
"""Pages given back to the file system at once: 4 MB, a few milliseconds."""

MOST_LOG: Final = 8 * 1024 * 1024
"""Bytes of the write-ahead log: it is folded in at half of them, every thousand small traces."""

EVICTED_AT_ONCE: Final = 500
"""Rows deleted in one statement: SQLite takes some thousands of values in one."""


class Spool:
    """A durable queue in the folder `folder`, which takes at most about `max_bytes` of the disk.

    Args:
        folder: made if it does not exist, readable by its owner only.
        max_bytes: if there is more, the oldest items are deleted.
        clock: gives seconds since the epoch.
        warn: called with a cause and a sentence when the file was lost or damaged and replaced by a new one.
        repairs: whether a damaged file is replaced by a new one; a command that only reads should not.

    Raises:
        SpoolError: from every method, when the disk or the file does not work.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
        warn: Callable[[str, str], None] = lambda _cause, _text: None,
        *,
        repairs: bool = True,
    ) -> None:
        """Open the spool in `folder`."""
        self._folder = folder
        log_bytes = min(MOST_LOG, max_bytes // 8)
        # While the log is folded in, the log and the pages that it replaces are on the disk together.
        self._max_bytes = max_bytes - 2 * log_bytes - min(ROOM, max_bytes // 8)
        self._clock = clock
        self._unmeasured = 0
        self._measure_at = 0
        self._database = Database(
            folder / FILE, schema.check, schema.set_up, schema.rescue, warn,
            log_bytes=log_bytes, repairs=repairs,
        )  # fmt: skip
        self.running = Running(self._database, folder)
        self.dead_letters = DeadLetters(self._database, clock, self._max_bytes // dead_letters.SHARE)
        self.figures = Figures(self._database, folder, f"{FILE}*")

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is a spool in `folder`."""
        return (folder / FILE).exists()

    # Putting.

    def put(self, items: Sequence[Item]) -> int:
        """Commit `items` together; return how many of the oldest were deleted to make room."""
        now = self._clock()
        rows = [(i.key, i.destination, i.producer, now, len(i.payload), i.payload) for i in items]
        # One statement, because Python releases the GIL around each, and beside a busy thread it takes 5 ms
        # to get it back.
        values = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(rows))
        self._database.rows(f"{schema.INSERT} VALUES {values}", *chain.from_iterable(rows))
        self._unmeasured += sum(len(item.payload) for item in items)
        return self._evict() if self._unmeasured >= self._measure_at else 0

    def _evict(self) -> int:
        """Delete the oldest items until the pages in use are within the bound."""
        evicted = 0
        with self._database.transaction() as execute:
            while (excess := _used(execute) - self._max_bytes) > 0:
                oldest = _oldest(execute, excess)
                if not oldest:
                    break
                losses.delete(execute, "items", oldest)
                evicted += len(oldest)
        self._unmeasured = 0
        self._measure_at = max(FINE, -excess // RECOUNT)
        return evicted

    def count_lost(self, producer: str, count: int) -> None:
        """Count so many items of `producer` as lost: how many a damaged file had is not known."""
        self._database.rows(losses.ADD, producer, count)

    # Sending.

    def drain(self) -> FileLock | None:
        """Take the drain lock, or None while another thread or process holds it."""
        with as_spool_errors(self._folder):
            return FileLock.take(self._folder / DRAIN_LOCK)

    def is_drained(self) -> bool:
        """Whether this process or another one holds the drain lock now."""
        if not (self._folder / DRAIN_LOCK).exists():
            return False
        lock = self.drain()
        if lock is not None:
            lock.release()
        return lock is None

    def destinations(self) -> list[str]:
        """Return the destinations with pending items, the longest waiting first; then those to be shown."""
        rows = self._database.rows(
            "SELECT destination FROM (SELECT destination, min(id) AS first FROM items GROUP BY destination"
            " UNION ALL SELECT destination, 1 << 62 FROM running WHERE shown < version)"
            " GROUP BY destination ORDER BY min(first)"
        )
        return [row[0] for row in rows]

    def lease(self, destination: str, limit: int, max_bytes: int, but: Collection[int] = ()) -> list[Lease]:
        """Return the oldest items for `destination`, at most `limit` and `max_bytes`, but at least one.

        Args:
            destination: what the items were put for.
            limit: the largest number of items.
            max_bytes: the largest sum of their payloads.
            but: ids of items to leave out.
        """
        # Sizes first: payloads that are not wanted are not read.
        sizes = self._database.rows(
            "SELECT id, size FROM items WHERE destination = ?"
            f" AND id NOT IN ({marks(but)}) ORDER BY id LIMIT ?", destination, *but, limit,
        )  # fmt: skip
        fitting = sum(1 for _ in takewhile(max_bytes.__ge__, accumulate(size for _, size in sizes)))
        ids = [row[0] for row in sizes[: max(1, fitting)]]
        rows = self._database.rows(
            f"SELECT id, key, payload FROM items WHERE id IN ({marks(ids)}) ORDER BY id", *ids
        )
        return [Lease(*row) for row in rows]

    def lease_one(self, identity: int) -> list[Lease]:
        """Return the item with that id, if it is still here."""
        rows = self._database.rows("SELECT id, key, payload FROM items WHERE id = ?", identity)
        return [Lease(*row) for row in rows]

    def ack(self, leases: Sequence[Lease], destination: str) -> None:
        """Delete items that were delivered, and the failure of `destination`."""
        ids = [lease.id for lease in leases]
        with self._database.transaction() as execute:
            execute(f"DELETE FROM items WHERE id IN ({marks(ids)})", ids)
            execute("DELETE FROM failures WHERE destination = ?", (destination,))

    def nack(self, destination: str, reason: str) -> None:
        """Note that `destination` failed; the items stay where they are."""
        now = self._clock()
        self._database.rows(
            "INSERT INTO failures VALUES (?, ?, ?, ?, 1) ON CONFLICT (destination) DO UPDATE SET"
            " reason = excluded.reason, latest = excluded.latest, attempts = attempts + 1",
            destination, reason, now, now,
        )  # fmt: skip

    def shrink(self) -> None:
        """Give free pages back to the file system, some at a time."""
        self._database.shrink(SHRINK_PAGES)

    def close(self) -> None:
        """Close the file, and release the locks by which others see that this process is alive."""
        self.running.close()
        with contextlib.suppress(SpoolError):
            self._database.close()


def _used(execute: Execute) -> int:
    """Return the bytes of the pages in use, which the file would have without its free pages."""
    (pages,), (free,) = execute("PRAGMA page_count").fetchone(), execute("PRAGMA freelist_count").fetchone()
    return int(pages - free) * PAGE


def _oldest(execute: Execute, size: int) -> list[int]:
    """Return the ids of the oldest items that have `size` bytes together, but not too many at once."""
    rows = execute("SELECT id, size FROM items ORDER BY id LIMIT ?", (EVICTED_AT_ONCE,)).fetchall()
    before = accumulate((row[1] for row in rows), initial=0)
    return [identity for (identity, _), total in zip(rows, before, strict=False) if total < size]
