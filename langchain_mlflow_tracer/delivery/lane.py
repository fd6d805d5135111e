"""Sends the pending traces of one destination, oldest first, as fast as the destination accepts them.

After a failure one trace is sent alone, and each success doubles the number. If an error may be about what
was sent, the request is halved until the trace is found. A trace that fails alone does not delay others: they
are sent first, and `suspects` decides whether it is to blame.
"""

from __future__ import annotations

import threading
import time
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
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.delivery.exporter import Exporter
from langchain_mlflow_tracer.delivery.retry import CREDENTIALS, until_delivered
from langchain_mlflow_tracer.delivery.suspects import Suspects
from langchain_mlflow_tracer.spool.rows import Lease
from langchain_mlflow_tracer.spool.spool import Spool

__all__ = ["Lane"]

BATCH: Final = 100
"""Traces in one request: more gain nothing (measured with an mlflow 3.17 server)."""

BATCH_BYTES: Final = 4 * 1024 * 1024
"""Bytes in one request, unless a single trace is larger: below the limits of most reverse proxies."""

PAUSE: Final = 1.0
"""Seconds between two attempts while the spool cannot be used."""

MAX_IN_A_ROW: Final = 8
"""Traces that fail one after the other until that is taken for an outage, and the lane waits."""

WITNESS: Final = 60.0
"""Seconds for which an accepted trace may be sent again, to see whether the destination accepts traces."""

DOUBT: Final = 60.0
"""Seconds that the server may still work on a request that was not answered."""

UNACKNOWLEDGED: Final = 10_000
"""Sent traces that the spool could not remove yet; SQLite takes 32,766 ids at once."""

_SURROUNDINGS: Final = (ImportError, MemoryError, OSError)
"""Errors of this process, its disk or its installation: no trace is to blame for them."""

Wait = Callable[[threading.Event, float], object]
"""Waits for an event, at most so many seconds."""


class Lane:
    """A thread that sends the pending traces of `destination`; it starts work when it is first woken."""

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
        self._retry_now = threading.Event()
        self._asked_to_wait = False
        self._limit = self._ceiling = BATCH
        self._suspects = Suspects()
        self._suspects_turn = False
        self._failed_in_a_row = 0
        self._last_error: TransientExportError | None = None
        self._witness: tuple[float, Lease] | None = None
        self._not_before: dict[int, float] = {}
        self._in_doubt_until: dict[str, float] = {}
        self._unacknowledged: list[Lease] = []
        self._retrying = until_delivered(self._wait_for_next_attempt, self._stopping.is_set, self._failed)
        self._thread = Worker("lane", self._run)
        self._thread.start()

    def wake(self) -> None:
        """Send the pending traces."""
        self._signal.set()

    def retry_now(self) -> None:
        """Make the next attempt now, unless the destination asked for a wait, or rejects the credentials."""
        self._signal.set()
        self._retry_now.set()

    def stop(self) -> None:
        """Start no more requests; one that is under way is not cancelled."""
        self._stopping.set()
        self.retry_now()

    def ended(self, timeout: float = 0.1) -> bool:
        """Whether the thread has ended, within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._signal.wait()
            self._signal.clear()  # before the look at the spool: what is put after it sets the signal again
            try:
                self._deliver_all()
            except SpoolError as error:
                self._log.report("spool_failed", "no trace can be sent now: %s", error)
                self._stopping.wait(PAUSE)
            except BaseException as error:  # noqa: BLE001 - the law: a thread's loop survives every exception
                self._log.report("forwarder_failed", "a lane failed: %s: %s", type(error).__name__, error)
                self._stopping.wait(PAUSE)

    def _deliver_all(self) -> None:
        try:
            while not self._stopping.is_set() and self._retrying(self._attempt):
                # Python gives a waiting thread its turn only every 5 ms, unless this one yields.
                time.sleep(0)
        except TransientExportError:
            return  # stopped: the traces stay in the spool
        self._ceiling = BATCH
        self._spool.shrink()

    def _attempt(self) -> bool:
        """Send the next traces; False if there are none. Each attempt reads the spool again."""
        if self._stopping.is_set():  # during the wait before this attempt
            return False
        leases = self._lease()
        if leases:
            self._deliver(leases)
            # After a failure the next trace is tried at once, to see whether the destination accepts others.
            return not self._failed_in_a_row or self._accepts_others() or self._attempt()
        self._raise_if_all_failed()
        if self._unacknowledged:
            self._acknowledge([])
        return self._show()

    # What is sent next.

    def _lease(self) -> list[Lease]:
        now = self._clock()
        self._not_before = {identity: until for identity, until in self._not_before.items() if until > now}
        but = {*self._not_before, *self._suspects.apart(), *(lease.id for lease in self._unacknowledged)}
        leases = self._spool.lease(self._destination, self._limit, BATCH_BYTES, but)
        # Suspects come last, except that one of them follows each accepted request.
        return self._lease_suspect(now) or leases if self._suspects_turn or not leases else leases

    def _lease_suspect(self, now: float) -> list[Lease]:
        self._suspects_turn = False
        for identity in self._suspects.due(now, with_open=not self._failed_in_a_row):
            if leases := self._spool.lease_one(identity):
                return leases
            self._suspects.forget(identity)  # the spool dropped it to make room
        return []

    def _deliver(self, leases: Sequence[Lease]) -> None:
        try:
            self._call(self._exporter.export, leases)
        except PermanentExportError as error:
            self._send_halves(leases, error)
        except TransientExportError as error:
            if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and len(leases) > 1:
                self._limit = self._ceiling = len(leases) // 2
            else:
                self._suspect(leases, error)
        else:
            self._delivered(leases)

    def _call(self, send: Callable[[Sequence[bytes]], None], leases: Sequence[Lease]) -> None:
        try:
            send([lease.payload for lease in leases])
        except ExportError:
            raise
        except BaseException as error:  # the law: a thread survives every exception, and keeps the traces
            raise TransientExportError(
                f"unexpected {type(error).__name__}: {error}", suspect=not isinstance(error, _SURROUNDINGS)
            ) from error

    # What the destination accepts.

    def _delivered(self, leases: Sequence[Lease]) -> None:
        now = self._clock()
        in_doubt = [lease for lease in leases if self._in_doubt_until.get(lease.key, 0.0) > now]
        # The server may still work on an older request and overwrite this one, so it is sent again later.
        self._not_before |= {lease.id: self._in_doubt_until[lease.key] for lease in in_doubt}
        self._acknowledge([lease for lease in leases if lease not in in_doubt])
        self._limit = min(2 * self._limit, self._ceiling)
        self._suspects_turn = True
        self._accepted(min(leases, key=lambda lease: len(lease.payload)))

    def _acknowledge(self, leases: Sequence[Lease]) -> None:
        """Remove sent traces from the spool; if the disk is full, remember them: none is sent again."""
        self._unacknowledged += [replace(lease, payload=b"") for lease in leases]
        for lease in leases:
            self._suspects.forget(lease.id)
            self._in_doubt_until.pop(lease.key, None)
        try:
            self._spool.ack(self._unacknowledged, self._destination)
        except SpoolError as error:
            if len(self._unacknowledged) > UNACKNOWLEDGED:
                raise
            self._log.report("spool_failed", "sent traces cannot be removed from the spool: %s", error)
        else:
            self._log.count("delivered", len(self._unacknowledged))
            self._unacknowledged = []

    def _accepted(self, witness: Lease) -> None:
        """Note that the destination accepts traces: earlier failures count against those that failed."""
        self._witness = self._clock(), witness
        self._failed_in_a_row, self._last_error = 0, None  # an error refers to the payloads that were sent
        for suspect in self._suspects.accepted(self._clock()):
            reason = f"{suspect.reason} ({suspect.failures} times, while others were accepted)"
            self._reject(suspect.lease, reason)

    def _accepts_others(self) -> bool:
        """Whether the destination accepts traces now: one that it just accepted is sent again.

        Raises:
            TransientExportError: it does not accept that trace either.
        """
        if self._witness is None or self._witness[0] + WITNESS < self._clock():
            return False
        try:
            self._call(self._exporter.export, [self._witness[1]])
        except ExportError as error:
            status, retry_after = getattr(error, "status", None), getattr(error, "retry_after", None)
            raise TransientExportError(str(error), status=status, retry_after=retry_after) from error
        self._accepted(self._witness[1])
        return True

    # What fails.

    def _suspect(self, leases: Sequence[Lease], error: TransientExportError) -> None:
        """Look for the trace that is to blame, by halving; wait if the destination may be down."""
        self._limit = min(self._limit, MAX_IN_A_ROW) if error.suspect else 1
        if len(leases) > 1 and error.suspect:
            self._send_halves(leases, error)
            return
        if len(leases) == 1:
            self._suspects.add(leases[0], error)
            self._failed_in_a_row += 1
        self._last_error = error
        if self._failed_in_a_row < MAX_IN_A_ROW and error.suspect:
            return
        if len(leases) > 1 or not self._accepts_others():
            self._failed_in_a_row = 0
            raise error

    def _raise_if_all_failed(self) -> None:
        """Raise the last error if no trace was accepted after it."""
        failed, self._failed_in_a_row = self._failed_in_a_row, 0
        if failed and self._last_error is not None:
            raise self._last_error

    def _send_halves(self, leases: Sequence[Lease], error: ExportError) -> None:
        """Halve a request that fails over its content, down to the guilty trace."""
        if len(leases) == 1:
            self._reject(leases[0], str(error))
            return
        middle = len(leases) // 2
        for half in (leases[:middle], leases[middle:]):
            if not self._stopping.is_set():
                self._deliver(half)

    def _reject(self, lease: Lease, reason: str) -> None:
        dropped = self._spool.dead_letters.add(lease, reason)
        self._suspects.forget(lease.id)
        self._log.report(
            "dead_letter", "a trace was rejected permanently and is kept as a dead letter: %s", reason
        )
        if dropped:
            self._log.report(
                "dropped_dead_letters", "the oldest dead letters were deleted to make room", count=dropped
            )

    def _failed(self, error: TransientExportError) -> None:
        self._asked_to_wait = error.retry_after is not None or error.status in CREDENTIALS
        if not self._stopping.is_set():
            self._log.report("export_failed", "traces wait on disk: %s", error)
            self._spool.nack(self._destination, str(error))

    def _wait_for_next_attempt(self, seconds: float) -> None:
        self._wait(self._stopping if self._asked_to_wait else self._retry_now, seconds)
        self._retry_now.clear()

    # Running traces.

    def _show(self) -> bool:
        """Show running traces as they are now; False if none has changed."""
        leases = self._spool.running.not_shown(self._destination, BATCH_BYTES)
        if not leases:
            return False
        self._show_these(leases)
        self._spool.running.mark_shown(leases)
        return True

    def _show_these(self, leases: Sequence[Lease]) -> None:
        """Show traces together, or each alone if one of them may be to blame for a failure."""
        try:
            self._call(self._exporter.show, leases)
        except ExportError as error:
            if isinstance(error, TransientExportError) and not error.suspect:
                self._limit = 1
                until = self._clock() + DOUBT
                self._in_doubt_until |= {lease.key: until for lease in leases}
                raise
            if len(leases) > 1:
                for lease in leases:
                    self._show_these([lease])
            else:
                self._log.report("not_shown", "running traces cannot be shown: %s", error)
