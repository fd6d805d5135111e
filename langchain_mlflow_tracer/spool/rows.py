"""Defines the rows that a spool takes and returns."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DeadLetter", "Failed", "Item", "Lease", "ProducerTotals", "Totals"]


@dataclass(frozen=True, slots=True)
class Item:
    """Bytes to put into the spool: `key` identifies them, `producer` is the process that made them."""

    key: str
    destination: str
    producer: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Lease:
    """An item that is being sent. It stays in the spool until it is acknowledged or made a dead letter."""

    id: int
    key: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An item that its destination rejected permanently; times in seconds since the epoch."""

    key: str
    destination: str
    created: float
    died: float
    reason: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The last failure of a destination, and when the first one was; times in seconds since the epoch."""

    destination: str
    reason: str
    since: float
    latest: float
    attempts: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What is in the spool: `size` bytes wait, the `oldest` since that time; `disk` bytes are in use."""

    waiting: int
    size: int
    oldest: float | None
    dead: int
    running: int
    disk: int


@dataclass(frozen=True, slots=True)
class ProducerTotals:
    """How many items of one producer were not delivered, and where they are."""

    waiting: int
    dead: int
    lost: int

    @property
    def undelivered(self) -> int:
        """All of them."""
        return self.waiting + self.dead + self.lost
