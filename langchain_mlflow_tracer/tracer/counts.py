"""Counts the traces of a process by what happened to them, in memory and in the spool."""

from __future__ import annotations

import time
from typing import Final

from langchain_mlflow_tracer.core.errors import SpoolError
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.spool.rows import ProducerTotals
from langchain_mlflow_tracer.spool.spool import Spool
from langchain_mlflow_tracer.tracer.stats import Stats

__all__ = ["Counts"]

DROPPED: Final = "dropped_"
"""The prefix of the causes of dropped traces."""

_OF_ALL: Final = frozenset({"dropped_spool_full", "dropped_spool_damaged", "dropped_dead_letters"})
"""Traces of any process that this one dropped from the spool. The spool counts those of each process."""

_NO_PROBLEMS: Final = frozenset({"finished", "spooled", "delivered", "cut_off"})
"""Causes that are counted but are no problem."""


class Counts:
    """The counts of one process: `producer` is its name in the spool, `log` has what it counted in memory."""

    def __init__(self, log: Log, producer: str) -> None:
        self._log = log
        self._producer = producer
        self._delivered = 0
        self._lost_before = 0
        self._file_was_lost = False
        self._last: tuple[ProducerTotals, float | None, str | None] = ProducerTotals(0, 0, 0), None, None

    def report_damage(self, cause: str, text: str) -> None:
        """Log that the spool's file was lost or damaged and replaced; `look` counts the lost traces."""
        self._log.report(cause, "%s", text)
        self._file_was_lost = True

    def look(self, spool: Spool) -> ProducerTotals:
        """Return the spool's figures of our traces, and remember how many are sent for certain."""
        spooled = self._count("spooled")
        own = spool.figures.of_producer(self._producer)
        if self._file_was_lost:  # the read above may have discovered it
            self._count_missing(spool, own)
            return spool.figures.of_producer(self._producer)
        self._delivered = max(self._delivered, spooled - own.undelivered)
        return own

    def _count_missing(self, spool: Spool, own: ProducerTotals) -> None:
        """Count the traces lost with the file: what we put there and is neither sent nor in the new one."""
        self._file_was_lost = False
        missing = self._count("spooled") - self._delivered - own.undelivered
        if missing > 0:
            spool.count_lost(self._producer, missing)
            self._log.report(
                "dropped_spool_damaged",
                "at most %d traces were lost with the file of the spool",
                missing,
                count=missing,
            )

    def has_lost_traces(self, spool: Spool | None) -> bool:
        """Whether traces were rejected or dropped since the last call."""
        own = ProducerTotals(0, 0, 0) if spool is None else self.look(spool)
        lost = own.dead + own.lost + sum(self._dropped().values())
        before, self._lost_before = self._lost_before, lost
        return lost > before

    def stats(self, spool: Spool | None) -> Stats:
        """Return the figures of our traces; those of a closed spool as they were at last."""
        own, oldest, error = self._read(spool)
        spooled = self._count("spooled")
        return Stats(
            recorded=self._count("finished"),
            spooled=spooled,
            delivered=max(0, spooled - own.undelivered),
            waiting=own.waiting,
            dead_letters=own.dead,
            dropped=self._dropped() | ({"spool": own.lost} if own.lost else {}),
            problems=self._problems(),
            last_error=error,
            oldest_waiting_seconds=None if oldest is None else max(0.0, time.time() - oldest),
        )

    def _read(self, spool: Spool | None) -> tuple[ProducerTotals, float | None, str | None]:
        """Return our totals, the time of the oldest pending trace, and the last error."""
        try:
            if spool is not None:
                own, oldest, failures = self.look(spool), spool.figures.oldest(), spool.figures.failures()
                self._last = own, oldest, failures[-1].reason if failures else None
        except SpoolError as error:
            return (*self._last[:2], str(error))
        return self._last

    def _count(self, cause: str) -> int:
        return self._log.counts().get(cause, 0)

    def _dropped(self) -> dict[str, int]:
        """Traces dropped before they were in the spool, by cause."""
        counts = self._log.counts().items()
        return {
            cause.removeprefix(DROPPED): count
            for cause, count in counts
            if cause.startswith(DROPPED) and cause not in _OF_ALL
        }

    def _problems(self) -> dict[str, int]:
        counts = self._log.counts().items()
        return {
            cause: count
            for cause, count in counts
            if cause not in _NO_PROBLEMS and not cause.startswith(DROPPED)
        }
