"""Reports how many items wait in a spool, since when, and why."""

from __future__ import annotations

from pathlib import Path

from langchain_mlflow_tracer.spool.database import Database, as_spool_errors
from langchain_mlflow_tracer.spool.rows import Failed, ProducerTotals, Totals

__all__ = ["Figures"]


class Figures:
    """The figures of the spool whose `database` has files that match `files` in `folder`."""

    def __init__(self, database: Database, folder: Path, files: str) -> None:
        self._database = database
        self._folder = folder
        self._files = files

    def of_producer(self, producer: str) -> ProducerTotals:
        """Return how many items of `producer` were not delivered."""
        row = self._database.rows(
            "SELECT (SELECT count(*) FROM items WHERE producer = ?),"
            " (SELECT count(*) FROM dead_letters WHERE producer = ?),"
            " (SELECT coalesce(sum(count), 0) FROM losses WHERE producer = ?)", producer, producer, producer,
        )[0]  # fmt: skip
        return ProducerTotals(*row)

    def waiting_of(self, producer: str) -> int:
        """Return how many items of `producer` wait."""
        return int(self._database.rows("SELECT count(*) FROM items WHERE producer = ?", producer)[0][0])

    def waiting(self) -> int:
        """Return how many items of all producers wait."""
        return int(self._database.rows("SELECT count(*) FROM items")[0][0])

    def oldest(self) -> float | None:
        """Return when the oldest waiting item was put, in seconds since the epoch; None if none waits."""
        rows = self._database.rows("SELECT created FROM items ORDER BY id LIMIT 1")
        return float(rows[0][0]) if rows else None

    def totals(self) -> Totals:
        """Return what is in the spool; it reads all rows, so a large spool takes a while."""
        waiting, size, oldest, dead, running = self._database.rows(
            "SELECT count(*), coalesce(sum(size), 0), min(created), (SELECT count(*) FROM dead_letters),"
            " (SELECT count(*) FROM running) FROM items"
        )[0]
        with as_spool_errors(self._folder):
            disk = sum(_size(file) for file in self._folder.glob(self._files))
        return Totals(waiting, size, oldest, dead, running, disk)

    def is_empty(self) -> bool:
        """Whether no item waits and no trace is running."""
        rows = self._database.rows("SELECT EXISTS (SELECT 1 FROM items) OR EXISTS (SELECT 1 FROM running)")
        return not rows[0][0]

    def failures(self) -> list[Failed]:
        """Return the last failure of each destination, those that fail longest first."""
        return [Failed(*row) for row in self._database.rows("SELECT * FROM failures ORDER BY since")]

    def fails(self, since: float) -> bool:
        """Whether a destination with pending items failed after `since`, in seconds since the epoch."""
        rows = self._database.rows(
            "SELECT EXISTS (SELECT 1 FROM failures WHERE latest >= ? AND (destination IN"
            " (SELECT destination FROM items) OR destination IN"
            " (SELECT destination FROM running WHERE shown < version)))", since,
        )  # fmt: skip
        return bool(rows[0][0])


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # a log that another process has just folded into the file
        return 0
