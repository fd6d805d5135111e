"""Delivers what waits for one destination, oldest first, at the pace that it can take.

A destination that failed is asked with one trace first; what it takes then doubles. What it refuses for ever
is found by halving, and what it alone fails at, while it takes others, is put aside in the end.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Final

from langchain_mlflow_tracer.core.errors import (
    ExportError,
    PermanentExportError,
    SpoolError,
    TransientExportError,
)
from langchain_mlflow_tracer.core.guard import Worker
from langchain_mlflow_tracer.core.log import Notices
from langchain_mlflow_tracer.delivery.exporter import Exporter
from langchain_mlflow_tracer.delivery.retry import CREDENTIALS, until_delivered
from langchain_mlflow_tracer.spool.spool import Lease, Spool

__all__ = ["Lane"]

BATCH: Final = 100
"""Traces in one request: more gain nothing (measured against an mlflow 3.17 server)."""

BATCH_BYTES: Final = 4 * 1024 * 1024
"""Bytes in one request, unless a single trace is larger: below the limits of most reverse proxies."""

PAUSE: Final = 1.0
"""Seconds between two attempts while the spool cannot be written."""

SUSPECTS: Final = 8
"""Traces that fail one after the other, alone, before it is clear that it is the destination that fails."""

GUILTY: Final = 8
"""Times that a trace failed alone, while its destination took the next one, after which it is put aside."""

PENANCE: Final = 30.0
"""Seconds, times the number of such failures, before such a trace is sent again: minutes in all."""

DOUBT: Final = 60.0
"""Seconds that a request whose answer did not come may still be at work in the server."""

UNACKNOWLEDGED: Final = 10_000
"""Traces that may be delivered while the spool cannot be told; SQLite takes 32,766 ids at once."""

_FAILS_ALONE: Final = frozenset({
    HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
})  # fmt: skip
"""Answers that may be about what was sent, though nothing says so."""


Wait = Callable[[threading.Event, float], object]
"""Waits for an event, but no longer than so many seconds."""


class Lane:
    """A thread that delivers what waits in `spool` for `destination`; it begins when it is first woken."""

    def __init__(
        self,
        destination: str,
        exporter: Exporter,
        spool: Spool,
        notices: Notices,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Wait = threading.Event.wait,
    ) -> None:
        self._destination = destination
        self._exporter = exporter
        self._spool = spool
        self._notices = notices
        self._clock = clock
        self._wait = wait
        self._stopping = threading.Event()
        self._signal = threading.Event()
        self._hurry = threading.Event()
        self._asked_to_wait = False
        self._limit = self._ceiling = BATCH
        self._suspects: dict[int, tuple[Lease, str]] = {}
        self._blamed: Counter[int] = Counter()
        self._held: dict[int, float] = {}
        self._unacknowledged: list[Lease] = []
        self._doubtful: dict[str, float] = {}
        self._retrying = until_delivered(self._wait_for_next_attempt, self._stopping.is_set, self._failed)
        self._thread = Worker("lane", self._run)
        self._thread.start()

    def wake(self) -> None:
        """Deliver what waits."""
        self._signal.set()

    def hurry(self) -> None:
        """Do not wait before the next attempt, unless the destination asked for it, or refuses us."""
        self._signal.set()
        self._hurry.set()

    def stop(self) -> None:
        """Send nothing more; what is on its way is not called back."""
        self._stopping.set()
        self.hurry()

    def ended(self, timeout: float = 0.1) -> bool:
        """Whether the thread is at its end, within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._signal.wait()
            self._signal.clear()
            try:
                self._deliver_all()
            except SpoolError as error:
                self._notices.warn("spool_failed", "nothing can be delivered: %s", error)
                self._stopping.wait(PAUSE)
            except BaseException as error:  # noqa: BLE001 - the law: a thread's loop survives what it meets
                self._notices.warn("forwarder_failed", "a lane met %s: %s", type(error).__name__, error)
                self._stopping.wait(PAUSE)

    def _deliver_all(self) -> None:
        try:
            while not self._stopping.is_set() and self._retrying(self._attempt):
                # Python gives a waiting thread its turn only every 5 ms unless somebody yields.
                time.sleep(0)
        except TransientExportError:
            return  # stopped: the items stay in the spool
        self._ceiling = BATCH
        self._spool.shrink()

    def _attempt(self) -> bool:
        """Send the next of what waits; False when nothing is left or may be. Every attempt looks anew."""
        if self._stopping.is_set():  # it was while this waited
            return False
        leases = self._lease()
        if leases:
            self._deliver(leases)
            return True
        if self._unacknowledged:
            self._acknowledge([])
        return self._show()

    def _lease(self) -> list[Lease]:
        now = self._clock()
        self._held = {identity: until for identity, until in self._held.items() if until > now}
        but = {*self._held, *self._suspects, *(lease.id for lease in self._unacknowledged)}
        found = self._spool.lease(self._destination, self._limit, BATCH_BYTES, but)
        if not found and self._suspects:
            self._suspects = {}
            return self._lease()
        return found

    def _deliver(self, leases: Sequence[Lease]) -> None:
        try:
            self._call(self._exporter.export, leases)
        except PermanentExportError as error:
            self._part(leases, error)
        except TransientExportError as error:
            if not self._halve(leases, error):
                self._slow_down(leases, error)
                raise
        else:
            self._delivered(leases)

    def _delivered(self, leases: Sequence[Lease]) -> None:
        now = self._clock()
        in_doubt = [lease for lease in leases if self._doubtful.get(lease.key, 0.0) > now]
        # A request that was given up may still be at work, and overwrite this one: it is sent again later.
        self._held |= {lease.id: self._doubtful[lease.key] for lease in in_doubt}
        self._acknowledge([lease for lease in leases if lease not in in_doubt])
        self._limit = min(2 * self._limit, self._ceiling)
        self._judge()

    def _acknowledge(self, leases: Sequence[Lease]) -> None:
        """Forget what was delivered; what a full disk cannot forget is at least not sent again and again."""
        self._unacknowledged += [replace(lease, payload=b"") for lease in leases]
        for lease in leases:
            self._blamed.pop(lease.id, None)
            self._doubtful.pop(lease.key, None)
        try:
            self._spool.ack(self._unacknowledged, self._destination)
        except SpoolError as error:
            if len(self._unacknowledged) > UNACKNOWLEDGED:
                raise
            self._notices.warn("spool_failed", "deliveries cannot be acknowledged: %s", error)
        else:
            self._notices.count("delivered", len(self._unacknowledged))
            self._unacknowledged = []

    def _call(self, send: Callable[[Sequence[bytes]], None], leases: Sequence[Lease]) -> None:
        try:
            send([lease.payload for lease in leases])
        except ExportError:
            raise
        except BaseException as error:  # the law: a thread survives what it meets, and keeps the traces
            raise TransientExportError(f"unexpected {type(error).__name__}: {error}") from error

    # What fails.

    def _halve(self, leases: Sequence[Lease], error: TransientExportError) -> bool:
        """Send less at once to who says that it is too much."""
        too_large = error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and len(leases) > 1
        if too_large:
            self._limit = self._ceiling = len(leases) // 2
        return too_large

    def _slow_down(self, leases: Sequence[Lease], error: TransientExportError) -> None:
        """Ask with one trace next time; with another one, if this one alone may be to blame."""
        self._limit = 1
        if len(leases) == 1 and (error.alone or error.status in _FAILS_ALONE):
            if len(self._suspects) >= SUSPECTS:
                self._suspects = {}
            self._suspects[leases[0].id] = leases[0], str(error)

    def _judge(self) -> None:
        """The destination takes traces: those that it failed at just before may be to blame."""
        suspects, self._suspects = self._suspects, {}
        for identity, (lease, reason) in suspects.items():
            self._blamed[identity] += 1
            times = self._blamed[identity]
            if times >= GUILTY:
                self._bury(lease, f"{reason} ({times} times, while others were taken)")
            elif times > 1:
                self._held[identity] = self._clock() + PENANCE * times

    def _part(self, leases: Sequence[Lease], error: PermanentExportError) -> None:
        """Halve a request that is refused for ever down to the guilty trace."""
        if len(leases) == 1:
            self._bury(leases[0], str(error))
            return
        half = len(leases) // 2
        for part in (leases[:half], leases[half:]):
            if not self._stopping.is_set():
                self._deliver(part)

    def _bury(self, lease: Lease, reason: str) -> None:
        dropped = self._spool.bury(lease, reason)
        self._blamed.pop(lease.id, None)
        self._notices.warn("dead_letter", "a trace was refused for ever and put aside: %s", reason)
        if dropped:
            self._notices.warn(
                "dropped_dead_letters", "the oldest dead letters were dropped: there are too many",
                count=dropped,
            )  # fmt: skip

    def _wait_for_next_attempt(self, seconds: float) -> None:
        self._wait(self._stopping if self._asked_to_wait else self._hurry, seconds)
        self._hurry.clear()

    def _failed(self, error: TransientExportError) -> None:
        self._asked_to_wait = error.retry_after is not None or error.status in CREDENTIALS
        if not self._stopping.is_set():
            self._notices.warn("export_failed", "traces wait in the spool: %s", error)
            self._spool.nack(self._destination, str(error))

    # What runs.

    def _show(self) -> bool:
        """Show traces that still run as they stand; False when there is nothing new of them."""
        leases = self._spool.unseen(self._destination, BATCH_BYTES)
        if not leases:
            return False
        try:
            self._call(self._exporter.show, leases)
        except PermanentExportError as error:
            self._notices.warn("not_shown", "traces that run cannot be shown: %s", error)
        except TransientExportError:
            self._limit = 1
            until = self._clock() + DOUBT
            self._doubtful |= {lease.key: until for lease in leases}
            raise
        self._spool.seen(leases)
        return True
