"""Puts the rooms together: finished traces to the spool, and the spool to MLflow."""

from __future__ import annotations

import logging
import time
import uuid
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from langchain_mlflow_tracer.core import forks
from langchain_mlflow_tracer.core.errors import SpoolError
from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import TraceRecord
from langchain_mlflow_tracer.delivery import exporter
from langchain_mlflow_tracer.delivery.forwarder import Forwarder
from langchain_mlflow_tracer.delivery.protocol import ForwarderKind
from langchain_mlflow_tracer.delivery.supervisor import Supervisor
from langchain_mlflow_tracer.encoding.encoder import Encoder
from langchain_mlflow_tracer.encoding.writer import GATHER, Writer
from langchain_mlflow_tracer.recording.recorder import Recorder
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.settings.options import Forwarding, Redact
from langchain_mlflow_tracer.settings.settings import Settings
from langchain_mlflow_tracer.spool.rows import Item
from langchain_mlflow_tracer.spool.spool import Spool
from langchain_mlflow_tracer.tracer import metrics
from langchain_mlflow_tracer.tracer.counts import Counts
from langchain_mlflow_tracer.tracer.flush import Sending
from langchain_mlflow_tracer.tracer.stats import Stats

__all__ = ["FORK_PATIENCE", "TEARDOWN", "Pipeline", "PipelineKey"]

TEARDOWN: Final = 0.6
"""Seconds of the exit timeout that are left to the interpreter: unloading mlflow takes it about that."""

WRITE_TIME: Final = 0.3
"""Seconds that the disk is given at the end, even where the network is given none."""

SYNC_PATIENCE: Final = 5.0
"""Seconds that a caller waits for the disk with durability "sync": a disk that takes longer hangs."""

RUNS_LONG: Final = 3.0
"""Seconds after which a trace that runs is written as it stands: most are over by then."""

FORK_PATIENCE: Final = 2.0
"""Seconds that a fork waits for the spool to be opened: beyond, its disk hangs."""


@dataclass(frozen=True, slots=True)
class PipelineKey:
    """What two tracers must have in common to share a pipeline."""

    spool_dir: Path
    spool_max_bytes: int
    queue_max_bytes: int
    durability: str
    forwarder: Forwarding
    history: str
    redact: Redact
    exit_timeout: float

    @classmethod
    def of(cls, settings: Settings) -> PipelineKey:
        """Return the kind of pipeline that these settings need."""
        forwarder = "process" if settings.forwarder == "auto" else settings.forwarder
        return cls(
            settings.spool_dir, settings.spool_max_bytes, settings.queue_max_bytes, settings.durability,
            forwarder, settings.history, settings.redact, settings.exit_timeout,
        )  # fmt: skip


class Pipeline:
    """Everything behind the recorder, for all tracers of one kind in this process."""

    def __init__(self, key: PipelineKey) -> None:
        self.key = key
        self.log = Log(logging.getLogger("langchain_mlflow_tracer"))
        self._encoder = Encoder(key.redact, self.log, shortens=key.history == "once")
        self._writer = Writer(
            self._encode, self._put, key.queue_max_bytes, self.log,
            gather=0.0 if key.durability == "sync" else GATHER, tick=self._look, last=self._close_spool,
        )  # fmt: skip
        self._recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()
        self._full_uris: dict[str, str] = {}
        self._lock = forks.ForkLock(forks.Order.PIPELINE, FORK_PATIENCE)
        self._begin()
        forks.enter(self, forks.Order.PIPELINE, in_child=Pipeline._begin)
        self._writer.start()  # it sends what an earlier process left
        metrics.observe(self)

    def _begin(self) -> None:
        """Take nothing over from a parent process: its spool and its threads are its own."""
        self._sending = Sending(uuid.uuid4().hex, time.time())
        self._counts = Counts(self.log, self._sending.producer)
        self._may_close = self._closed = self._blind = False

    # Recording: on the callers' threads.

    def add_credentials(self, destination: Destination) -> None:
        """Remember a URI that holds credentials: the spool keeps it without them."""
        if destination.has_credentials:
            self._full_uris[destination.without_credentials().tracking_uri] = destination.tracking_uri
            forwarder = self._sending.forwarder
            if forwarder is not None:
                forwarder.add_credentials()

    def attach(self, recorder: Recorder) -> None:
        """Close what `recorder` has open when the process ends."""
        self._recorders.add(recorder)

    def start_writer(self) -> None:
        """Start the writer, which also writes running traces: a trace has begun."""
        self._writer.start()

    def accept(self, trace: TraceRecord) -> None:
        """Take over a finished trace; with durability "sync" it is on disk on return, if the disk works."""
        self.log.count("finished")
        number = self._writer.accept(trace)
        if number is not None and self.key.durability == "sync":
            self._wait_for_disk(number)

    def _wait_for_disk(self, number: int) -> None:
        if not self._writer.wait_for(number, SYNC_PATIENCE):
            self.log.report("spool_slow", "a trace waits in memory, not on disk: the disk is slow")

    # Writing: on the writer's thread.

    def _encode(self, trace: TraceRecord) -> Item:
        return Item(trace.key, trace.destination, self._sending.producer, self._encoder.encode(trace))

    def prepared(self, trace: TraceRecord) -> TraceRecord:
        """Return a trace that may leave this process without the spool: its secrets are masked."""
        return self._encoder.prepared(trace)

    def _put(self, items: Sequence[Item]) -> None:
        evicted = self._open_spool().put(items)
        self.log.count("spooled", len(items))
        if evicted:
            self.log.report(
                "dropped_spool_full", "the oldest waiting traces were dropped: the spool holds %d MiB",
                self.key.spool_max_bytes >> 20, count=evicted,
            )  # fmt: skip
        self._wake_forwarder()

    def _look(self) -> None:
        """Write traces that run for long as they are now, and start the forwarder if there is work."""
        metrics.offer()
        spool = self._open_spool()
        self._counts.look(spool)
        items = [item for trace in self._running() if (item := self._encode_running(trace)) is not None]
        if items:
            spool.running.put(items)
        if items or (self._sending.forwarder is None and not spool.figures.is_empty()):
            self._wake_forwarder()

    def _running(self) -> Iterator[TraceRecord]:
        """Return copies of traces that run for long and go through the spool when they end."""
        for recorder in list(self._recorders):
            for trace in recorder.running(RUNS_LONG):
                is_elsewhere = trace.joined is not None and trace.joined.is_elsewhere
                if trace.destination and not is_elsewhere:  # without a destination, its root has just begun
                    yield trace

    def _encode_running(self, trace: TraceRecord) -> Item | None:
        def report(error: BaseException) -> None:
            self.log.report("not_shown", "a running trace cannot be shown: %s", type(error).__name__)

        # One trace that cannot be encoded must not cost the others.
        return attempt(self._encode, report, trace)

    def _open_spool(self) -> Spool:
        with self._lock:
            if self._sending.spool is None:
                self._sending.spool = Spool(
                    self.key.spool_dir, self.key.spool_max_bytes, warn=self._counts.report_damage
                )
            return self._sending.spool

    def _close_spool(self) -> None:
        if self._sending.spool is not None and self._may_close:
            self.stats()  # reads the last figures: a closed spool has none
            self._closed = True
            self._sending.spool.close()

    # Sending.

    def _wake_forwarder(self) -> None:
        if self.key.forwarder == "none":
            return
        with self._lock:
            if self._sending.forwarder is None:
                self._sending.forwarder = self._make_forwarder(self._open_spool())
                self._sending.forwarder.start()
        self._sending.forwarder.wake()

    def _make_forwarder(self, spool: Spool) -> ForwarderKind:
        def in_thread() -> Forwarder:
            return Forwarder(spool, self._make_exporter, self.log)

        if self.key.forwarder == "process" and Supervisor.possible():
            return Supervisor(spool, self.key.spool_dir, self._full_uris, self.log, in_thread)
        return in_thread()

    def _make_exporter(self, text: str) -> exporter.Exporter:
        destination = Destination.from_text(text).with_credentials(self._full_uris)
        return exporter.make(destination, self.log)

    def flush(self, timeout: float, *, ending: bool = False) -> bool:
        """Wait until everything that finished is in MLflow; see `MlflowTracer.flush`, and `Sending.wait`."""
        deadline = time.monotonic() + timeout
        self._blind = False
        for recorder in list(self._recorders):
            recorder.sweep()
        try:
            # First the disk, then the network: a forwarder finds only what is in the spool.
            if not self._writer.wait_empty(timeout, patient=not ending):
                return False
            sent = self._sending.wait(deadline, ending=ending)
            return sent and not self._counts.has_lost_traces(self._sending.spool)
        except SpoolError as error:
            self._blind = True
            self.log.report("spool_failed", "it is not known which traces were sent: %s", error)
            return False

    def stats(self) -> Stats:
        """Return what became of the traces of this process; see `Stats`."""
        return self._counts.stats(None if self._closed else self._sending.spool)

    # Ending.

    def detach(self, recorder: Recorder) -> bool:
        """Remove the recorder of a closed tracer; return whether it was the last one."""
        self._recorders.discard(recorder)
        return not self._recorders

    def close(self, timeout: float) -> bool:
        """Cut off what runs, send what there is time for, and stop."""
        deadline = time.monotonic() + timeout
        for recorder in list(self._recorders):
            recorder.finish_all()
        delivered = self.flush(timeout, ending=True)
        self.report_what_is_left()
        if not any(recorder.is_recording for recorder in list(self._recorders)):
            self.stop(max(0.0, deadline - time.monotonic()))
        # Else runs that still record may finish: the writer takes them until the interpreter ends it.
        return delivered

    def report_what_is_left(self) -> None:
        """Warn of traces that are not sent, unless a forwarder process that works outlives this one."""
        if self._blind or not self._writer.is_empty:
            return  # traces that the disk did not take are reported when the writer stops
        try:
            left = self._sending.left_behind()
        except SpoolError:
            return  # reported already
        if left:
            self.log.report(
                "left_in_spool", "%d traces wait in %s; the next process that uses it sends them",
                left, self.key.spool_dir, count=left,
            )  # fmt: skip

    def stop(self, timeout: float) -> None:
        """Stop the threads; traces that are not sent stay in the spool."""
        deadline = time.monotonic() + max(timeout, WRITE_TIME)
        self._writer.wait_empty(max(timeout, WRITE_TIME), patient=False)
        self._may_close = self._sending.forwarder is None or self._sending.forwarder.stop(timeout)
        self._writer.stop(max(0.0, deadline - time.monotonic()))

    @property
    def exit_timeout(self) -> float:
        """Seconds that the end of the process may take."""
        return self.key.exit_timeout
