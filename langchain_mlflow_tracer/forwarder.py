"""Empties a spool: lease, export under retry, acknowledge. One forwarder at a time, whoever holds the right.

Every destination has a lane, a thread of its own, so that one that hangs holds up no other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from langchain_mlflow_tracer.errors import ExportError, PermanentExportError, SpoolError, TransientExportError
from langchain_mlflow_tracer.exporter import Exporter
from langchain_mlflow_tracer.notices import Notices
from langchain_mlflow_tracer.retry import until_delivered
from langchain_mlflow_tracer.spool import Drain, Lease, Spool

__all__ = ["Forwarder"]

BATCH: Final = 100
"""Traces in one request: more gain nothing (measured against an mlflow 3.17 server)."""

BATCH_BYTES: Final = 4 * 1024 * 1024
"""Bytes in one request, unless a single trace is larger: below the limits of common reverse proxies."""

IDLE: Final = 0.25
"""Seconds after which an idle forwarder looks whether another process has put something, or has died."""

PAUSE: Final = 1.0
"""Seconds between two attempts while the spool cannot be written."""

MakeExporter = Callable[[str], Exporter]
"""Makes the exporter for a destination, as the spool knows it."""


class Forwarder:
    """Delivers what waits in `spool`, in a background thread, until it is stopped."""

    def __init__(self, spool: Spool, make_exporter: MakeExporter, notices: Notices) -> None:
        self._spool = spool
        self._make_exporter = make_exporter
        self._notices = notices
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._lanes: dict[str, _Lane] = {}
        self._drain: Drain | None = None
        self._thread = threading.Thread(target=self._run, name="mlflow-tracer-forwarder", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def wake(self) -> None:
        """Look for work at once: something was put."""
        self._woken.set()

    def hurry(self) -> None:
        """Try again at once where a lane waits before its next attempt: somebody flushes."""
        self._woken.set()
        for lane in list(self._lanes.values()):
            lane.hurry()

    def stop(self, timeout: float) -> bool:
        """Stop, and wait for the end at most `timeout` seconds; True when nothing of it runs any more.

        A lane that hangs in a request is left to the end of the process; its lease stays in the spool.
        """
        self._stopping.set()
        self.hurry()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def drains(self) -> bool:
        """Whether this forwarder is the one that empties the spool now."""
        return self._drain is not None

    def inherit(self) -> None:
        """Leave the parent's lock alone in a forked child."""
        if self._drain is not None:
            self._drain.inherit()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._look()
                self._woken.wait(IDLE)
                self._woken.clear()
        finally:
            self._end_lanes()

    def _look(self) -> None:
        try:
            self._drain = self._drain or self._spool.drain()
            if self._drain is not None:
                for destination in self._spool.destinations():
                    self._lane(destination).wake()
        except SpoolError as error:
            self._notices.warn("spool_failed", "nothing can be delivered: %s", error)
        except Exception as error:  # noqa: BLE001 - the law: a thread's loop survives what it meets
            self._notices.warn("forwarder_failed", "the forwarder met %s: %s", type(error).__name__, error)

    def _lane(self, destination: str) -> _Lane:
        if destination not in self._lanes:
            exporter = self._make_exporter(destination)
            self._lanes[destination] = _Lane(destination, exporter, self._spool, self._notices)
        return self._lanes[destination]

    def _end_lanes(self) -> None:
        for lane in self._lanes.values():
            lane.stop()
        if self._drain is not None and all(lane.ended() for lane in self._lanes.values()):
            self._drain.release()
            self._drain = None


class _Lane:
    """Delivers what waits for one destination, oldest first."""

    def __init__(self, destination: str, exporter: Exporter, spool: Spool, notices: Notices) -> None:
        self._destination = destination
        self._exporter = exporter
        self._spool = spool
        self._notices = notices
        self._stopping = threading.Event()
        self._signal = threading.Event()
        self._hurry = threading.Event()
        self._retrying = until_delivered(self._wait_for_next_attempt, self._stopping.is_set, self._failed)
        self._thread = threading.Thread(target=self._run, name="mlflow-tracer-lane", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        self._signal.set()

    def hurry(self) -> None:
        self._signal.set()
        self._hurry.set()

    def stop(self) -> None:
        self._stopping.set()
        self.hurry()

    def ended(self, timeout: float = 0.1) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._signal.wait()
            self._signal.clear()
            try:
                self._deliver_all()
            except SpoolError as error:
                self._notices.warn("spool_failed", "deliveries cannot be acknowledged: %s", error)
                self._stopping.wait(PAUSE)

    def _deliver_all(self) -> None:
        while not self._stopping.is_set():
            leases = self._spool.lease(self._destination, BATCH, BATCH_BYTES)
            if not leases:
                return
            self._deliver(leases)
            # Python gives a waiting thread its turn only every 5 ms unless somebody yields.
            time.sleep(0)

    def _deliver(self, leases: Sequence[Lease]) -> None:
        """Export and acknowledge; a request that is refused for ever is halved down to the guilty one."""
        try:
            self._retrying(self._export, [lease.payload for lease in leases])
        except TransientExportError:
            return  # stopped: the items stay in the spool
        except PermanentExportError as error:
            self._part(leases, error)
        else:
            self._spool.ack(leases, self._destination)

    def _export(self, payloads: Sequence[bytes]) -> None:
        try:
            self._exporter.export(payloads)
        except ExportError:
            raise
        except Exception as error:  # the law: a thread's loop survives what it meets, and keeps the traces
            raise TransientExportError(f"unexpected {type(error).__name__}: {error}") from error

    def _part(self, leases: Sequence[Lease], error: PermanentExportError) -> None:
        if len(leases) == 1:
            self._spool.bury(leases[0], str(error))
            self._notices.warn("dead_letter", "a trace was refused for ever and put aside: %s", error)
            return
        half = len(leases) // 2
        for part in (leases[:half], leases[half:]):
            if not self._stopping.is_set():
                self._deliver(part)

    def _wait_for_next_attempt(self, seconds: float) -> None:
        self._hurry.wait(seconds)
        self._hurry.clear()

    def _failed(self, error: TransientExportError) -> None:
        if not self._stopping.is_set():
            self._notices.warn("export_failed", "traces wait in the spool: %s", error)
            self._spool.nack(self._destination, str(error))
