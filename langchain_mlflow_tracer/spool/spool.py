"""Keeps opaque bytes on disk until they are acknowledged: a durable queue in SQLite (WAL).

Knows nothing of traces: an item has a key, the destination it is for, and bytes. An item that is put again
under its key replaces the one before. What is still in the making may rest here too, as it stands: an item
that is put removes it. Any number of threads and processes may use one spool; one of them at a time may hold
the right to empty it (`drain`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from langchain_mlflow_tracer.core.errors import SpoolError
from langchain_mlflow_tracer.spool import schema
from langchain_mlflow_tracer.spool.database import PAGE, Database, Execute, blamed
from langchain_mlflow_tracer.spool.file_lock import FileLock

__all__ = ["DeadLetter", "Failed", "Item", "Lease", "Own", "Spool", "Totals"]

FILE: Final = "spool.db"
LOCK_FILE: Final = "drain.lock"
ALIVE: Final = "alive-"
"""How the name of a lock begins that a process holds while something of it is in the making."""

SWEPT: Final = 0.1
"""Seconds to wait for somebody who just looks whether the one lives to whom a lock belongs."""

RECOUNT: Final = 16
"""The share of the room left, one in so many, after which the room is measured again: others put too."""

FINE: Final = 64 * 1024
"""Bytes put between two measurements of a spool that is nearly full."""

ROOM: Final = 256 * 1024
"""Bytes that a single group of traces may take beside what was measured."""

DEAD_SHARE: Final = 10
"""Dead letters may take one in so many of the bytes that the spool may."""

SHRINK_PAGES: Final = 1000
"""Pages given back to the file system at once: 4 MB, a few milliseconds."""

MOST_LOG: Final = 8 * 1024 * 1024
"""Bytes of the write-ahead log: it is folded in at half of them, every thousand small traces."""

_LOSE: Final = (
    "INSERT INTO losses SELECT producer, count(*) FROM {table} WHERE id IN ({marks}) GROUP BY producer"
    " ON CONFLICT (producer) DO UPDATE SET count = count + excluded.count"
)


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
class DeadLetter:
    """An item that its destination refused for ever; times in seconds since the epoch."""

    key: str
    destination: str
    created: float
    died: float
    reason: str
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
    running: int
    disk: int


@dataclass(frozen=True, slots=True)
class Own:
    """What became of the items of one producer that were not delivered."""

    waiting: int
    dead: int
    lost: int

    @property
    def undelivered(self) -> int:
        """All of them."""
        return self.waiting + self.dead + self.lost


class Spool:
    """A durable queue in the folder `folder`, which takes at most about `max_bytes` of the disk.

    Args:
        folder: made for its owner alone where it is not there.
        max_bytes: beyond it the oldest items go first.
        clock: gives seconds since the epoch.
        tell: is told the cause and a sentence when the file was lost or damaged and another one was made.
        mends: whether a damaged file is put aside for a new one; an onlooker should not.

    Raises:
        SpoolError: from every method, when the disk or the file does not let it work.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
        tell: Callable[[str, str], None] = lambda _cause, _said: None,
        *,
        mends: bool = True,
    ) -> None:
        """Open the spool in `folder`."""
        self._folder = folder
        log_bytes = min(MOST_LOG, max_bytes // 8)
        self._max_bytes = max_bytes - 2 * log_bytes - min(ROOM, max_bytes // 8)
        self._clock = clock
        self._unmeasured = 0
        self._measure_at = 0
        self._alive: dict[str, FileLock] = {}
        self._database = Database(
            folder / FILE, schema.check, schema.set_up, schema.rescue, tell, log_bytes=log_bytes, mends=mends
        )

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is a spool in `folder`."""
        return (folder / FILE).exists()

    # Putting.

    def put(self, items: Sequence[Item]) -> int:
        """Commit `items` together; return how many of the oldest had to go to keep within the bound.

        It is one statement: Python gives up its lock around each, and beside a busy thread needs 5 ms to get
        it back.
        """
        now = self._clock()
        rows = [(i.key, i.destination, i.producer, now, len(i.payload), i.payload) for i in items]
        marks = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(rows))
        self._database.rows(f"{schema.INSERT} VALUES {marks}", *chain.from_iterable(rows))
        self._unmeasured += sum(len(item.payload) for item in items)
        return self._evict() if self._unmeasured >= self._measure_at else 0

    def _evict(self) -> int:
        """Make room, the oldest first, where the pages in use are more than they may be."""
        gone = 0
        with self._database.transaction() as execute:
            while (over := _used(execute) - self._max_bytes) > 0:
                oldest = _oldest(execute, over)
                if not oldest:
                    break
                self._lose(execute, "items", oldest)
                gone += len(oldest)
        self._unmeasured = 0
        self._measure_at = max(FINE, -over // RECOUNT)
        return gone

    def _lose(self, execute: Execute, table: str, ids: Sequence[int]) -> None:
        """Delete, and remember of whom it was."""
        marks = _marks(ids)
        execute(_LOSE.format(table=table, marks=marks), ids)
        execute(f"DELETE FROM {table} WHERE id IN ({marks})", ids)

    def lose(self, producer: str, count: int) -> None:
        """Remember that so many items of `producer` are gone: a damaged file cannot say how many."""
        self._database.rows(
            "INSERT INTO losses VALUES (?, ?) ON CONFLICT (producer) DO UPDATE"
            " SET count = count + excluded.count", producer, count,
        )  # fmt: skip

    # What is in the making.

    def put_running(self, items: Sequence[Item]) -> None:
        """Keep `items` as they stand, until they are put as finished ones.

        The process holds a lock from then on: others see by it that it lives.
        """
        for producer in {item.producer for item in items}:
            self._announce(producer)
        with self._database.transaction() as execute:
            for item in items:
                execute(
                    "INSERT INTO running VALUES (?, ?, ?, 1, 0, ?) ON CONFLICT (key) DO UPDATE"
                    " SET version = version + 1, payload = excluded.payload",
                    (item.key, item.destination, item.producer, item.payload),
                )

    def unseen(self, destination: str, max_bytes: int) -> list[Lease]:
        """Return what is in the making for `destination` and was not shown as it stands now."""
        rows = self._database.rows(
            "SELECT version, key, payload FROM running WHERE destination = ? AND shown < version", destination
        )
        return [Lease(*row) for row in _first(rows, max_bytes)]

    def seen(self, leases: Sequence[Lease]) -> None:
        """Note that these were shown as they stood."""
        with self._database.transaction() as execute:
            for lease in leases:
                execute("UPDATE running SET shown = ? WHERE key = ?", (lease.id, lease.key))

    def left_running(self) -> list[Item]:
        """Return what was in the making when the process that made it died."""
        producers = [row[0] for row in self._database.rows("SELECT DISTINCT producer FROM running")]
        dead = [producer for producer in producers if not self._lives(producer)]
        rows = self._database.rows(
            "SELECT key, destination, producer, payload FROM running"
            f" WHERE producer IN ({_marks(dead)})", *dead,
        )  # fmt: skip
        return [Item(*row) for row in rows]

    def sweep(self) -> None:
        """Remove what dead processes left of themselves, where nothing of theirs is in the making."""
        left = {row[0] for row in self._database.rows("SELECT DISTINCT producer FROM running")}
        with blamed(self._folder):
            for file in self._folder.glob(f"{ALIVE}*"):
                producer = file.name.removeprefix(ALIVE)
                if producer not in left:
                    self._lives(producer)

    def _announce(self, producer: str) -> None:
        held = self._alive.get(producer)
        if held is not None and held.stands:
            return
        with blamed(self._folder):
            lock = FileLock.wait_for(self._folder / f"{ALIVE}{producer}", SWEPT)
        if lock is not None:
            self._alive[producer] = lock

    def _lives(self, producer: str) -> bool:
        if producer in self._alive:
            return True
        file = self._folder / f"{ALIVE}{producer}"
        with blamed(self._folder):
            if not file.exists():
                return False
            lock = FileLock.take(file)
            if lock is None:
                return True
            file.unlink(missing_ok=True)
            lock.release()
            return False

    # Emptying.

    def drain(self) -> FileLock | None:
        """Take the right to empty the spool, or None while another thread or process has it."""
        with blamed(self._folder):
            return FileLock.take(self._folder / LOCK_FILE)

    def is_drained(self) -> bool:
        """Whether somebody, this process or another one, has the right to empty the spool now."""
        if not (self._folder / LOCK_FILE).exists():
            return False
        drain = self.drain()
        if drain is not None:
            drain.release()
        return drain is None

    def destinations(self) -> list[str]:
        """Return the destinations that something waits for, the longest waiting first."""
        rows = self._database.rows(
            "SELECT destination FROM (SELECT destination, min(id) AS first FROM items GROUP BY destination"
            " UNION ALL SELECT destination, 1 << 62 FROM running WHERE shown < version)"
            " GROUP BY destination ORDER BY min(first)"
        )
        return [row[0] for row in rows]

    def lease(self, destination: str, limit: int, max_bytes: int, but: Collection[int] = ()) -> list[Lease]:
        """Return the oldest items for `destination`: at most `limit`, and `max_bytes` but at least one."""
        rows = self._database.rows(
            "SELECT id, size FROM items WHERE destination = ?"
            f" AND id NOT IN ({_marks(but)}) ORDER BY id LIMIT ?", destination, *but, limit,
        )  # fmt: skip
        chosen: list[int] = []
        total = 0
        for identity, size in rows:
            total += size
            if chosen and total > max_bytes:
                break
            chosen.append(identity)
        found = self._database.rows(
            f"SELECT id, key, payload FROM items WHERE id IN ({_marks(chosen)}) ORDER BY id", *chosen
        )
        return [Lease(*row) for row in found]

    def lease_one(self, identity: int) -> list[Lease]:
        """Return the item of that id, if it is still there."""
        rows = self._database.rows("SELECT id, key, payload FROM items WHERE id = ?", identity)
        return [Lease(*row) for row in rows]

    def ack(self, leases: Sequence[Lease], destination: str) -> None:
        """Forget items that were delivered, and what `destination` failed at before."""
        ids = [lease.id for lease in leases]
        with self._database.transaction() as execute:
            execute(f"DELETE FROM items WHERE id IN ({_marks(ids)})", ids)
            execute("DELETE FROM failures WHERE destination = ?", (destination,))

    def nack(self, destination: str, reason: str) -> None:
        """Note that `destination` did not take what it was sent; the items stay where they are."""
        now = self._clock()
        self._database.rows(
            "INSERT INTO failures VALUES (?, ?, ?, ?, 1) ON CONFLICT (destination) DO UPDATE SET"
            " reason = excluded.reason, latest = excluded.latest, attempts = attempts + 1",
            destination, reason, now, now,
        )  # fmt: skip

    def bury(self, lease: Lease, reason: str) -> int:
        """Move an item that its destination refuses for ever to the dead letters, with the reason.

        Return how many older dead letters had to go for it.
        """
        with self._database.transaction() as execute:
            execute("DELETE FROM dead_letters WHERE key = (SELECT key FROM items WHERE id = ?)", (lease.id,))
            execute(
                "INSERT OR REPLACE INTO dead_letters"
                " SELECT id, key, destination, producer, created, ?, ?, payload FROM items WHERE id = ?",
                (self._clock(), reason, lease.id),
            )
            execute("DELETE FROM items WHERE id = ?", (lease.id,))
            surplus = execute(
                "SELECT id FROM (SELECT id, sum(length(payload)) OVER (ORDER BY died DESC, id DESC) AS held"
                " FROM dead_letters) WHERE held > ? AND id != ?",
                (self._max_bytes // DEAD_SHARE, lease.id),
            ).fetchall()
            self._lose(execute, "dead_letters", [row[0] for row in surplus])
        return len(surplus)

    def shrink(self) -> None:
        """Give pages that are free back to the file system, some at a time."""
        self._database.shrink(SHRINK_PAGES)

    # Dead letters.

    def dead_keys(self) -> list[str]:
        """Return the keys of what was refused for ever, the longest dead first."""
        rows = self._database.rows("SELECT key FROM dead_letters ORDER BY died, id")
        return [row[0] for row in rows]

    def dead_letters(self) -> Iterator[DeadLetter]:
        """Return what was refused for ever, the longest dead first."""
        for key in self.dead_keys():
            yield from self.dead_letter(key)

    def dead_letter(self, key: str) -> list[DeadLetter]:
        """Return the dead letter of that key, if there is one."""
        rows = self._database.rows(
            "SELECT key, destination, created, died, reason, payload FROM dead_letters"
            " WHERE key = ?", key,
        )  # fmt: skip
        return [DeadLetter(*row) for row in rows]

    def revive(self, keys: Collection[str]) -> int:
        """Put dead letters back among what waits, as the youngest; return how many there were.

        One whose key waits already is older than that, and goes.
        """
        marks, values = _marks(keys), tuple(keys)
        with self._database.transaction() as execute:
            execute(
                f"{schema.INSERT_NEW} SELECT key, destination, producer, created, length(payload), payload"
                f" FROM dead_letters WHERE key IN ({marks}) ORDER BY id", values,
            )  # fmt: skip
            return execute(f"DELETE FROM dead_letters WHERE key IN ({marks})", values).rowcount

    def drop(self, keys: Collection[str]) -> int:
        """Throw dead letters away; return how many there were."""
        with self._database.transaction() as execute:
            found = execute(f"SELECT id FROM dead_letters WHERE key IN ({_marks(keys)})", tuple(keys))
            ids = [row[0] for row in found.fetchall()]
            self._lose(execute, "dead_letters", ids)
            return len(ids)

    # Looking.

    def own(self, producer: str) -> Own:
        """Return what became of the items of `producer` that were not delivered."""
        row = self._database.rows(
            "SELECT (SELECT count(*) FROM items WHERE producer = ?),"
            " (SELECT count(*) FROM dead_letters WHERE producer = ?),"
            " (SELECT coalesce(sum(count), 0) FROM losses WHERE producer = ?)", producer, producer, producer,
        )[0]  # fmt: skip
        return Own(*row)

    def waiting_for(self, producer: str) -> int:
        """Return how many items of `producer` are not delivered yet."""
        return int(self._database.rows("SELECT count(*) FROM items WHERE producer = ?", producer)[0][0])

    def waiting(self) -> int:
        """Return how many items are not delivered yet, whosever they are."""
        return int(self._database.rows("SELECT count(*) FROM items")[0][0])

    def oldest(self) -> float | None:
        """Return when the item that waits longest was put, in seconds since the epoch; None if none waits."""
        rows = self._database.rows("SELECT created FROM items ORDER BY id LIMIT 1")
        return float(rows[0][0]) if rows else None

    def totals(self) -> Totals:
        """Return what is in the spool now; it reads through all of it, which may take a while."""
        waiting, size, oldest, dead, running = self._database.rows(
            "SELECT count(*), coalesce(sum(size), 0), min(created), (SELECT count(*) FROM dead_letters),"
            " (SELECT count(*) FROM running) FROM items"
        )[0]
        with blamed(self._folder):
            disk = sum(_size(file) for file in self._folder.glob(f"{FILE}*"))
        return Totals(waiting, size, oldest, dead, running, disk)

    def is_empty(self) -> bool:
        """Whether nothing waits and nothing is in the making."""
        rows = self._database.rows("SELECT EXISTS (SELECT 1 FROM items) OR EXISTS (SELECT 1 FROM running)")
        return not rows[0][0]

    def failures(self) -> list[Failed]:
        """Return what keeps destinations from taking what waits for them."""
        return [Failed(*row) for row in self._database.rows("SELECT * FROM failures ORDER BY since")]

    def fails(self, since: float) -> bool:
        """Whether a destination that something waits for failed after `since`, in seconds since the epoch."""
        failed = {one.destination for one in self.failures() if one.latest >= since}
        return not failed.isdisjoint(self.destinations())

    # Keeping house.

    def close(self) -> None:
        """Close the file, and let go of what shows that this process lives."""
        for producer, lock in self._alive.items():
            with contextlib.suppress(OSError):
                (self._folder / f"{ALIVE}{producer}").unlink()
            lock.release()
        self._alive.clear()
        with contextlib.suppress(SpoolError):
            self._database.close()


def _first(rows: Sequence[tuple[Any, ...]], max_bytes: int) -> Iterator[tuple[Any, ...]]:
    """Yield rows whose last column are bytes, until there are too many of them, but at least one."""
    total = 0
    for number, row in enumerate(rows):
        total += len(row[-1])
        if number and total > max_bytes:
            return
        yield row


def _marks(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # a log that another process has just folded in
        return 0


def _used(execute: Execute) -> int:
    """Return the bytes of the pages in use: what the file would be if it were packed."""
    (pages,), (free,) = execute("PRAGMA page_count").fetchone(), execute("PRAGMA freelist_count").fetchone()
    return int(pages - free) * PAGE


def _oldest(execute: Execute, size: int) -> list[int]:
    """Return the ids of the oldest items that together have `size` bytes, but not too many at once."""
    found: list[int] = []
    for identity, one in execute("SELECT id, size FROM items ORDER BY id LIMIT 500").fetchall():
        if size <= 0:
            break
        found.append(identity)
        size -= one
    return found
