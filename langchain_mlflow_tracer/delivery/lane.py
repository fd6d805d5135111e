"""Delivers what waits for one destination, oldest first, at the pace that it can take.

A destination that failed is asked with one trace first; what it takes then doubles. What it refuses for ever
is found by halving. A trace that fails alone holds up no other: others are sent first. It is put aside when
it may be to blame for the failure, and failed several times while the destination took others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

from langchain_mlflow_tracer.core.errors import (
    ExportError,
    PermanentExportError,
    SpoolError,
    TransientExportError,
)
from langchain_mlflow_tracer.core.guard import Worker
from langchain_mlflow_tracer.core.log import Log
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
"""Traces that fail one after the other before it is taken for an outage, and the lane waits."""

GUILTY: Final = 8
"""Times that a trace failed alone, while its destination took another one after it, until it is put aside."""

PENANCE: Final = 4.0
"""Seconds until a trace that may be to blame is sent again: `GUILTY` times are less than a minute."""

PATIENCE: Final = 30.0
"""Seconds, times the number of its failures, until a trace that is not to blame is sent again."""

LONGEST_PATIENCE: Final = 900.0
"""Seconds until such a trace is sent again, at most."""

WITNESS: Final = 60.0
"""Seconds for which a trace that was taken may be sent again, to see whether the destination takes traces."""

FAILING: Final = 1_000
"""Traces that are left out because they failed: more are an outage, and the oldest are sent again."""

DOUBT: Final = 60.0
"""Seconds that a request whose answer did not come may still be at work in the server."""

UNACKNOWLEDGED: Final = 10_000
"""Traces that may be delivered while the spool cannot be told; SQLite takes 32,766 ids at once."""

_SURROUNDINGS: Final = (ImportError, MemoryError, OSError)
"""What is raised when this process, its disk or its installation fails, whatever it was given."""


Wait = Callable[[threading.Event, float], object]
"""Waits for an event, but no longer than so many seconds."""


@dataclass(slots=True)
class _Case:
    """A trace that failed alone.

    `suspect` tells that it may be to blame, `is_open` that no other trace was taken since it failed last,
    `times` how often one was; it is not sent before `until`.
    """

    lease: Lease
    reason: str = ""
    suspect: bool = False
    is_open: bool = False
    times: int = 0
    until: float = 0.0

    @property
    def is_apart(self) -> bool:
        """Whether it is sent alone: not after it failed once, as all do that meet an outage."""
        return self.is_open or self.times > 1


class Lane:
    """A thread that delivers what waits in `spool` for `destination`; it begins when it is first woken."""

    def __init__(
        self,
        destination: str,
        exporter: Exporter,
        spool: Spool,
        log: Log,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Wait = threading.Event.wait,
    ) -> None:
        self._destination = destination
        self._exporter = exporter
        self._spool = spool
        self._log = log
        self._clock = clock
        self._wait = wait
        self._stopping = threading.Event()
        self._signal = threading.Event()
        self._hurry = threading.Event()
        self._asked_to_wait = False
        self._limit = self._ceiling = BATCH
        self._cases: dict[int, _Case] = {}
        self._cases_turn = False
        self._in_a_row = 0
        self._witness: tuple[float, Lease] | None = None
        self._error: TransientExportError | None = None
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
                self._log.report("spool_failed", "nothing can be delivered: %s", error)
                self._stopping.wait(PAUSE)
            except BaseException as error:  # noqa: BLE001 - the law: a thread's loop survives what it meets
                self._log.report("forwarder_failed", "a lane met %s: %s", type(error).__name__, error)
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
            # Where none was taken after one that failed, another one is asked with at once.
            return not self._in_a_row or self._takes_others() or self._attempt()
        self._wait_if_all_failed()
        if self._unacknowledged:
            self._acknowledge([])
        return self._show()

    def _lease(self) -> list[Lease]:
        now = self._clock()
        self._held = {identity: until for identity, until in self._held.items() if until > now}
        apart = (identity for identity, case in self._cases.items() if case.is_apart)
        but = {*self._held, *apart, *(lease.id for lease in self._unacknowledged)}
        found = self._spool.lease(self._destination, self._limit, BATCH_BYTES, but)
        # What failed comes after what did not, but for one trace after each delivery.
        return self._failed_before(now) or found if self._cases_turn or not found else found

    def _failed_before(self, now: float) -> list[Lease]:
        """Return a trace that failed alone, and may be sent again; those that all failed begin anew."""
        self._cases_turn = False
        due = [case for case in self._cases.values() if case.is_apart and case.until <= now]
        waiting = [case for case in due if not case.is_open] or (due if not self._in_a_row else [])
        for case in waiting:
            if found := self._spool.lease_one(case.lease.id):
                return found
            del self._cases[case.lease.id]  # it was dropped meanwhile: there was no room
        return []

    def _deliver(self, leases: Sequence[Lease]) -> None:
        try:
            self._call(self._exporter.export, leases)
        except PermanentExportError as error:
            self._part(leases, error)
        except TransientExportError as error:
            if not self._halve(leases, error):
                self._narrow(leases, error)
        else:
            self._delivered(leases)

    def _delivered(self, leases: Sequence[Lease]) -> None:
        now = self._clock()
        in_doubt = [lease for lease in leases if self._doubtful.get(lease.key, 0.0) > now]
        # A request that was given up may still be at work, and overwrite this one: it is sent again later.
        self._held |= {lease.id: self._doubtful[lease.key] for lease in in_doubt}
        self._acknowledge([lease for lease in leases if lease not in in_doubt])
        self._limit = min(2 * self._limit, self._ceiling)
        self._cases_turn = True
        self._witness = now, min(leases, key=lambda lease: len(lease.payload))
        self._judge()

    def _acknowledge(self, leases: Sequence[Lease]) -> None:
        """Forget what was delivered; what a full disk cannot forget is at least not sent again and again."""
        self._unacknowledged += [replace(lease, payload=b"") for lease in leases]
        for lease in leases:
            self._cases.pop(lease.id, None)
            self._doubtful.pop(lease.key, None)
        try:
            self._spool.ack(self._unacknowledged, self._destination)
        except SpoolError as error:
            if len(self._unacknowledged) > UNACKNOWLEDGED:
                raise
            self._log.report("spool_failed", "deliveries cannot be acknowledged: %s", error)
        else:
            self._log.count("delivered", len(self._unacknowledged))
            self._unacknowledged = []

    def _call(self, send: Callable[[Sequence[bytes]], None], leases: Sequence[Lease]) -> None:
        try:
            send([lease.payload for lease in leases])
        except ExportError:
            raise
        except BaseException as error:  # the law: a thread survives what it meets, and keeps the traces
            raise TransientExportError(
                f"unexpected {type(error).__name__}: {error}", suspect=not isinstance(error, _SURROUNDINGS)
            ) from error

    # What fails.

    def _halve(self, leases: Sequence[Lease], error: TransientExportError) -> bool:
        """Send less at once to who says that it is too much."""
        too_large = error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and len(leases) > 1
        if too_large:
            self._limit = self._ceiling = len(leases) // 2
        return too_large

    def _narrow(self, leases: Sequence[Lease], error: TransientExportError) -> None:
        """Find the trace that is to blame, by halving; wait where the destination may be."""
        self._limit = min(self._limit, SUSPECTS) if error.suspect else 1
        if len(leases) == 1:
            self._accuse(leases[0], error)
        elif error.suspect:
            self._part(leases, error)
            return
        self._error = error
        if self._in_a_row < SUSPECTS and error.suspect:
            return
        if len(leases) > 1 or not self._takes_others():
            self._in_a_row = 0
            raise error

    def _wait_if_all_failed(self) -> None:
        """Raise the last error where no trace was taken after it."""
        failed, self._in_a_row = self._in_a_row, 0
        if failed and self._error is not None:
            raise self._error

    def _accuse(self, lease: Lease, error: TransientExportError) -> None:
        """Leave out a trace that failed alone, until others were sent."""
        if len(self._cases) >= FAILING:
            self._cases.clear()
        case = self._cases.pop(lease.id, None) or _Case(replace(lease, payload=b""))
        case.reason, case.suspect, case.is_open = str(error), error.suspect, True
        self._cases[lease.id] = case  # the last: each has its turn
        self._in_a_row += 1

    def _takes_others(self) -> bool:
        """Whether the destination takes traces now: one that it took just before is sent again.

        Raises:
            TransientExportError: it does not.
        """
        if self._witness is None or self._witness[0] + WITNESS < self._clock():
            return False
        try:
            self._call(self._exporter.export, [self._witness[1]])
        except ExportError as error:
            status, retry_after = getattr(error, "status", None), getattr(error, "retry_after", None)
            raise TransientExportError(str(error), status=status, retry_after=retry_after) from error
        self._witness = self._clock(), self._witness[1]
        self._judge()
        return True

    def _judge(self) -> None:
        """The destination takes traces: those that it failed at just before may be to blame."""
        self._in_a_row, self._error = 0, None  # an error holds the payloads that were sent
        for case in [case for case in self._cases.values() if case.is_open]:
            case.is_open = False
            case.times += 1
            if case.suspect and case.times >= GUILTY:
                self._bury(case.lease, f"{case.reason} ({case.times} times, while others were taken)")
            else:
                patience = PENANCE if case.suspect else min(PATIENCE * case.times, LONGEST_PATIENCE)
                case.until = self._clock() + patience

    def _part(self, leases: Sequence[Lease], error: ExportError) -> None:
        """Halve a request that fails for what is in it down to the guilty trace."""
        if len(leases) == 1:
            self._bury(leases[0], str(error))
            return
        half = len(leases) // 2
        for part in (leases[:half], leases[half:]):
            if not self._stopping.is_set():
                self._deliver(part)

    def _bury(self, lease: Lease, reason: str) -> None:
        dropped = self._spool.bury(lease, reason)
        self._cases.pop(lease.id, None)
        self._log.report("dead_letter", "a trace was refused for ever and put aside: %s", reason)
        if dropped:
            self._log.report(
                "dropped_dead_letters", "the oldest dead letters were dropped: there are too many",
                count=dropped,
            )  # fmt: skip

    def _wait_for_next_attempt(self, seconds: float) -> None:
        self._wait(self._stopping if self._asked_to_wait else self._hurry, seconds)
        self._hurry.clear()

    def _failed(self, error: TransientExportError) -> None:
        self._asked_to_wait = error.retry_after is not None or error.status in CREDENTIALS
        if not self._stopping.is_set():
            self._log.report("export_failed", "traces wait on disk: %s", error)
            self._spool.nack(self._destination, str(error))

    # What runs.

    def _show(self) -> bool:
        """Show traces that still run as they stand; False when there is nothing new of them."""
        leases = self._spool.unseen(self._destination, BATCH_BYTES)
        if not leases:
            return False
        self._show_these(leases)
        self._spool.seen(leases)
        return True

    def _show_these(self, leases: Sequence[Lease]) -> None:
        """Show traces together, or each alone where one of them may be to blame for a failure."""
        try:
            self._call(self._exporter.show, leases)
        except ExportError as error:
            if isinstance(error, TransientExportError) and not error.suspect:
                self._limit = 1
                until = self._clock() + DOUBT
                self._doubtful |= {lease.key: until for lease in leases}
                raise
            if len(leases) > 1:
                for lease in leases:
                    self._show_these([lease])
            else:
                self._log.report("not_shown", "traces that run cannot be shown: %s", error)
