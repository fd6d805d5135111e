"""Keeps the items that their destination rejected permanently, until someone retries or drops them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Final

from langchain_mlflow_tracer.spool import losses, schema
from langchain_mlflow_tracer.spool.database import Database, marks
from langchain_mlflow_tracer.spool.rows import DeadLetter, Lease

__all__ = ["SHARE", "DeadLetters"]

SHARE: Final = 10
"""Dead letters may take one in so many of the bytes of the spool: new traces are worth more."""


class DeadLetters:
    """The dead letters in `database`, which take at most `max_bytes`; `clock` gives seconds."""

    def __init__(self, database: Database, clock: Callable[[], float], max_bytes: int) -> None:
        self._database = database
        self._clock = clock
        self._max_bytes = max_bytes

    def add(self, lease: Lease, reason: str) -> int:
        """Move a leased item here; return how many older dead letters were deleted to make room."""
        with self._database.transaction() as execute:
            execute("DELETE FROM dead_letters WHERE key = (SELECT key FROM items WHERE id = ?)", (lease.id,))
            execute(
                "INSERT OR REPLACE INTO dead_letters"
                " SELECT id, key, destination, producer, created, ?, ?, payload FROM items WHERE id = ?",
                (self._clock(), reason, lease.id),
            )
            execute("DELETE FROM items WHERE id = ?", (lease.id,))
            surplus = execute(
                "SELECT id FROM (SELECT id, sum(length(payload)) OVER (ORDER BY died DESC, id DESC) AS total"
                " FROM dead_letters) WHERE total > ? AND id != ?",
                (self._max_bytes, lease.id),
            ).fetchall()
            losses.delete(execute, "dead_letters", [row[0] for row in surplus])
        return len(surplus)

    def keys(self) -> list[str]:
        """Return the keys of all, the oldest first."""
        return [row[0] for row in self._database.rows("SELECT key FROM dead_letters ORDER BY died, id")]

    def __iter__(self) -> Iterator[DeadLetter]:
        """Yield all, the oldest first; one payload at a time is in memory."""
        for key in self.keys():
            if (letter := self.get(key)) is not None:
                yield letter

    def get(self, key: str) -> DeadLetter | None:
        """Return the dead letter with that key."""
        rows = self._database.rows(
            "SELECT key, destination, created, died, reason, payload FROM dead_letters WHERE key = ?", key
        )
        return DeadLetter(*rows[0]) if rows else None

    def retry(self, keys: Collection[str]) -> int:
        """Put dead letters back among the pending items, as the newest; return how many there were.

        A pending item with the same key is newer than its dead letter, which is deleted.
        """
        where, values = f"FROM dead_letters WHERE key IN ({marks(keys)})", tuple(keys)
        with self._database.transaction() as execute:
            execute(
                f"{schema.INSERT_NEW} SELECT key, destination, producer, created, length(payload), payload"
                f" {where} ORDER BY id", values,
            )  # fmt: skip
            return execute(f"DELETE {where}", values).rowcount

    def drop(self, keys: Collection[str]) -> int:
        """Delete dead letters; return how many there were."""
        with self._database.transaction() as execute:
            rows = execute(f"SELECT id FROM dead_letters WHERE key IN ({marks(keys)})", tuple(keys))
            ids = [row[0] for row in rows]
            losses.delete(execute, "dead_letters", ids)
            return len(ids)
