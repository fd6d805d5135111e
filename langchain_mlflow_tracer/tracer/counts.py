"""Keeps count of what became of a process's traces, with what the spool knows of them."""

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
"""How the causes begin by which traces are given up."""

_OF_ALL: Final = frozenset({"dropped_spool_full", "dropped_spool_damaged", "dropped_dead_letters"})
"""What this process dropped of the spool, whosever it was; the spool itself knows what was ours."""

_NO_PROBLEMS: Final = frozenset({"finished", "spooled", "delivered", "cut_off"})
"""What is counted and nothing went wrong."""


class Counts:
    """The traces of `producer`, which is this process to the spool; `log` has what happened in it."""

    def __init__(self, log: Log, producer: str) -> None:
        self._log = log
        self._producer = producer
        self._delivered = 0
        self._lost_before = 0
        self._file_was_lost = False
        self._last: tuple[ProducerTotals, float | None, str | None] = ProducerTotals(0, 0, 0), None, None

    def mended(self, cause: str, said: str) -> None:
        """Hear that the spool's file was lost or damaged, and another one made; it is counted later."""
        self._log.report(cause, "%s", said)
        self._file_was_lost = True

    def look(self, spool: Spool) -> ProducerTotals:
        """Ask the spool for our traces, and remember how many are delivered for certain."""
        spooled = self._count("spooled")
        own = spool.figures.of_producer(self._producer)
        if self._file_was_lost:  # which may have been found out by asking
            self._count_missing(spool, own)
            return spool.figures.of_producer(self._producer)
        self._delivered = max(self._delivered, spooled - own.undelivered)
        return own

    def _count_missing(self, spool: Spool, own: ProducerTotals) -> None:
        """Count what a lost file took along: what we put, and know neither delivered nor to be there."""
        self._file_was_lost = False
        missing = self._count("spooled") - self._delivered - own.undelivered
        if missing > 0:
            spool.count_lost(self._producer, missing)
            self._log.report(
                "dropped_spool_damaged", "%d traces were lost with it, at most", missing, count=missing
            )

    def lost_since_last_asked(self, spool: Spool | None) -> bool:
        """Whether traces were refused or given up since this was asked last."""
        own = ProducerTotals(0, 0, 0) if spool is None else self.look(spool)
        lost = own.dead + own.lost + sum(self._dropped().values())
        before, self._lost_before = self._lost_before, lost
        return lost > before

    def stats(self, spool: Spool | None) -> Stats:
        """Return what became of our traces; without a spool, what it said last."""
        own, oldest, error = self._told(spool)
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

    def _told(self, spool: Spool | None) -> tuple[ProducerTotals, float | None, str | None]:
        """Ask the spool what became of our traces, since when one waits, and why; or what it said last."""
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
        """Traces given up before they were in the spool, by cause."""
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
