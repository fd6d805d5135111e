"""Decides which trace makes a destination fail: plain data, without threads, spool or network.

A trace that fails alone may be to blame, or the destination may be down. So a failure counts against the
trace only when the destination accepts another one after it. A trace with several such failures is guilty if
the error may be about its content; all others are sent again, after those that have not failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from langchain_mlflow_tracer.core.errors import TransientExportError
from langchain_mlflow_tracer.spool.rows import Lease

__all__ = ["Suspect", "Suspects"]

GUILTY: Final = 8
"""Failures that count against a trace until it is guilty."""

GUILTY_WAIT: Final = 4.0
"""Seconds until a trace that may be guilty is sent again: `GUILTY` times take less than a minute."""

FIRST_WAIT: Final = 30.0
"""Seconds, times its failures, until a trace that cannot be guilty is sent again."""

LONGEST_WAIT: Final = 900.0
"""Seconds until such a trace is sent again, at most."""

MAX_SUSPECTS: Final = 1_000
"""Traces that are kept apart: more are an outage, and they are sent again in their old order."""


@dataclass(slots=True)
class Suspect:
    """A trace that failed when it was sent alone.

    `may_be_guilty`: the last error may be about its content. `is_open`: nothing was accepted since that
    error. `failures`: how many count against it. It is not sent before the time `not_before`.
    """

    lease: Lease
    reason: str = ""
    may_be_guilty: bool = False
    is_open: bool = False
    failures: int = 0
    not_before: float = 0.0

    @property
    def is_guilty(self) -> bool:
        """Whether it is to be rejected."""
        return self.may_be_guilty and self.failures >= GUILTY

    @property
    def is_apart(self) -> bool:
        """Whether it is sent alone; not after one failure, which every trace has that meets an outage."""
        return self.is_open or self.failures > 1

    def is_due(self, now: float) -> bool:
        """Whether it is sent alone now."""
        return self.is_apart and self.not_before <= now

    def close(self, now: float) -> None:
        """Count the failure: the destination accepted another trace."""
        self.is_open = False
        self.failures += 1
        wait = GUILTY_WAIT if self.may_be_guilty else min(FIRST_WAIT * self.failures, LONGEST_WAIT)
        self.not_before = now + wait


class Suspects:
    """The traces of one destination that failed alone, in the order of their last failure."""

    def __init__(self) -> None:
        self._suspects: dict[int, Suspect] = {}

    def add(self, lease: Lease, error: TransientExportError) -> None:
        """Note that a trace failed alone."""
        if len(self._suspects) >= MAX_SUSPECTS:
            self._suspects.clear()
        # The payload is not kept: a thousand of them may be a gigabyte.
        suspect = self._suspects.pop(lease.id, None) or Suspect(replace(lease, payload=b""))
        suspect.reason, suspect.may_be_guilty, suspect.is_open = str(error), error.suspect, True
        self._suspects[lease.id] = suspect  # at the end, so that each has its turn

    def accepted(self, now: float) -> list[Suspect]:
        """Count the open failures, because the destination accepted a trace; return the guilty traces."""
        closed = [suspect for suspect in self._suspects.values() if suspect.is_open]
        for suspect in closed:
            suspect.close(now)
        return [suspect for suspect in closed if suspect.is_guilty]

    def forget(self, identity: int) -> None:
        """Drop what is known of a trace: it was sent or rejected, or is gone."""
        self._suspects.pop(identity, None)

    def apart(self) -> list[int]:
        """Return the ids of traces that must not be sent together with others."""
        return [identity for identity, suspect in self._suspects.items() if suspect.is_apart]

    def due(self, now: float, *, with_open: bool) -> Sequence[int]:
        """Return the ids of traces to send alone now; those with an open failure if there is no other."""
        due = {id_: suspect for id_, suspect in self._suspects.items() if suspect.is_due(now)}
        closed = [identity for identity, suspect in due.items() if not suspect.is_open]
        return closed or (list(due) if with_open else [])
