"""Puts the rooms together: finished traces to the spool, and the spool to MLflow.

Tracers that deliver alike share one pipeline, so that a tracer made for a single call costs no threads.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from langchain_mlflow_tracer import codec, exporter, metrics
from langchain_mlflow_tracer.destination import Destination
from langchain_mlflow_tracer.errors import SpoolError
from langchain_mlflow_tracer.exporter import importing
from langchain_mlflow_tracer.forwarder import Forwarder
from langchain_mlflow_tracer.notices import Notices
from langchain_mlflow_tracer.process import ForwarderProcess
from langchain_mlflow_tracer.record import SpanEvent, TraceRecord
from langchain_mlflow_tracer.recorder import Recorder
from langchain_mlflow_tracer.redaction import Redactor
from langchain_mlflow_tracer.settings import Forwarding, Redact, Settings
from langchain_mlflow_tracer.spool import Item, Own, Spool
from langchain_mlflow_tracer.stats import Stats
from langchain_mlflow_tracer.writer import GATHER, Writer

__all__ = ["Pipeline", "redacted"]

POLL: Final = 0.02
"""Seconds between two looks at the spool while somebody flushes."""

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

_COUNTED: Final = frozenset({"finished", "spooled", "delivered", "cut_off"})
"""What is counted and is no mishap."""


class Delivers(Protocol):
    """A forwarder of either kind."""

    def start(self) -> None: ...
    def wake(self) -> None: ...
    def hurry(self) -> None: ...
    def stop(self, timeout: float) -> bool: ...
    def inherit(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Kind:
    """What two tracers must have in common to share a pipeline."""

    spool_dir: Path
    spool_max_bytes: int
    queue_max_bytes: int
    durability: str
    forwarder: Forwarding
    redact: Redact
    exit_timeout: float

    @classmethod
    def of(cls, settings: Settings) -> _Kind:
        forwarder = settings.forwarder
        if forwarder == "auto":
            forwarder = "thread" if settings.destination.is_server else "process"
        return cls(
            settings.spool_dir, settings.spool_max_bytes, settings.queue_max_bytes, settings.durability,
            forwarder, settings.redact, settings.exit_timeout,
        )  # fmt: skip


class Pipeline:
    """Everything behind the recorder, for all tracers of one kind in this process."""

    def __init__(self, kind: _Kind) -> None:
        self._kind = kind
        self.notices = Notices(logging.getLogger("langchain_mlflow_tracer"))
        self._redactor = Redactor(kind.redact)
        self._writer = Writer(
            self._encode, self._put, kind.queue_max_bytes, self.notices,
            gather=0.0 if kind.durability == "sync" else GATHER, tick=self._look, last=self._close_spool,
        )  # fmt: skip
        self._recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()
        self._full_uris: dict[str, str] = {}
        self._begin()
        self._writer.start()  # it delivers what an earlier process left
        metrics.observe(self)

    @classmethod
    def shared(cls, settings: Settings) -> Pipeline:
        """Return the pipeline of this kind, made at its first use."""
        kind = _Kind.of(settings)
        with _registry.lock:
            pipeline = _registry.pipelines.get(kind)
            if pipeline is None:
                pipeline = _registry.pipelines[kind] = cls(kind)
        pipeline.know(settings.destination)
        return pipeline

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._producer = uuid.uuid4().hex
        self._spool: Spool | None = None
        self._forwarder: Delivers | None = None
        self._lost_before = 0
        self._may_close = self._closed = self._blind = self._forking = False
        self._to_account = False
        self._known_delivered = 0
        self._last_told: tuple[Own, float | None, str | None] = Own(0, 0, 0), None, None

    # Recording: on the callers' threads.

    def know(self, destination: Destination) -> None:
        """Remember a URI that holds credentials: the spool keeps it without them."""
        if destination.has_credentials:
            self._full_uris[destination.without_credentials().tracking_uri] = destination.tracking_uri

    def attach(self, recorder: Recorder) -> None:
        """Close what `recorder` has open when the process ends."""
        self._recorders.add(recorder)

    def watch(self) -> None:
        """Keep an eye on what runs: a trace has begun."""
        self._writer.start()

    def accept(self, trace: TraceRecord) -> None:
        """Take over a finished trace; with durability "sync" it is on disk on return, if the disk works."""
        self.notices.count("finished")
        number = self._writer.accept(trace)
        if number is not None and self._kind.durability == "sync":
            self._wait_for_disk(number)

    def _wait_for_disk(self, number: int) -> None:
        if not self._writer.wait_for(number, SYNC_PATIENCE):
            self.notices.warn("spool_slow", "a trace waits in memory, not on disk: the disk is slow")

    # Writing: on the writer's thread.

    def _encode(self, trace: TraceRecord) -> Item:
        return Item(
            key=trace.mlflow_id,
            destination=trace.destination,
            producer=self._producer,
            payload=codec.encode(redacted(trace, self._redactor)),
        )

    def _put(self, items: Sequence[Item]) -> None:
        evicted = self._open_spool().put(items)
        self.notices.count("spooled", len(items))
        if evicted:
            self.notices.warn(
                "dropped_spool_full", "the oldest waiting traces were dropped: the spool holds %d MiB",
                self._kind.spool_max_bytes >> 20, count=evicted,
            )  # fmt: skip
        self._wake_forwarder()

    def _look(self) -> None:
        """Write traces that run for long as they stand, and see that somebody delivers what there is."""
        metrics.offer()
        spool = self._open_spool()
        self._counted(spool)
        running = [trace for recorder in list(self._recorders) for trace in recorder.running(RUNS_LONG)]
        items = [item for trace in running if (item := self._encode_running(trace)) is not None]
        if items:
            spool.put_running(items)
        if items or (self._forwarder is None and not spool.is_empty()):
            self._wake_forwarder()

    def _encode_running(self, trace: TraceRecord) -> Item | None:
        try:
            return self._encode(trace)
        except Exception as error:  # noqa: BLE001 - one trace that cannot be encoded must not cost the others
            self.notices.warn("not_shown", "a trace that runs cannot be shown: %s", type(error).__name__)
            return None

    def _open_spool(self) -> Spool:
        with self._lock:
            if self._spool is None:
                self._spool = Spool(self._kind.spool_dir, self._kind.spool_max_bytes, tell=self._mended)
            return self._spool

    def _mended(self, cause: str, said: str) -> None:
        self.notices.warn(cause, "%s", said)
        self._to_account = True

    def _account(self, spool: Spool) -> None:
        """Count what a lost file took along: what we put, and know neither delivered nor to be there."""
        self._to_account = False
        own = spool.own(self._producer)
        missing = self.notices.counts().get("spooled", 0) - self._known_delivered - own.undelivered
        if missing > 0:
            spool.lose(self._producer, missing)
            self.notices.warn(
                "dropped_spool_damaged", "%d traces were lost with it, at most", missing, count=missing
            )

    def _close_spool(self) -> None:
        if self._spool is not None and self._may_close:
            self._told()
            self._closed = True
            self._spool.close()

    # Delivering.

    def _wake_forwarder(self) -> None:
        if self._kind.forwarder == "none":
            return
        with self._lock:
            if self._forwarder is None:
                self._forwarder = self._make_forwarder(self._open_spool())
                self._forwarder.start()
        self._forwarder.wake()

    def _make_forwarder(self, spool: Spool) -> Delivers:
        if self._kind.forwarder == "process" and ForwarderProcess.possible():
            return ForwarderProcess(spool, self._kind.spool_dir, self._full_uris, self.notices)
        return Forwarder(spool, self._make_exporter, self.notices)

    def _make_exporter(self, text: str) -> exporter.Exporter:
        return exporter.make(Destination.from_text(text).with_credentials(self._full_uris))

    def flush(self, timeout: float, *, ending: bool = False) -> bool:
        """Wait until everything that finished is in MLflow; see `MlflowTracer.flush`.

        When the process is ending, what others left counts too if it is for us to deliver; and it does not
        wait for a destination that fails once more, nor for another process that delivers.
        """
        began, deadline = time.time(), time.monotonic() + timeout
        self._blind = False
        try:
            if not self._writer.wait_empty(timeout, patient=not ending):
                return False
            self._hurry()
            while self._waiting(everyones=ending):
                if time.monotonic() >= deadline or (ending and self._is_pointless(began)):
                    return False
                time.sleep(min(POLL, max(0.0, deadline - time.monotonic())))
            return not self._lost_since_last_flush()
        except SpoolError as error:
            self._blind = True
            self.notices.warn("spool_failed", "it is not known what was delivered: %s", error)
            return False

    def _hurry(self) -> None:
        if self._forwarder is not None and self._waiting():
            self._forwarder.hurry()

    def _waiting(self, *, everyones: bool = False) -> int:
        """How many traces of this process are in the spool; everyone's, if we are to deliver them."""
        if self._spool is None:
            return 0
        if everyones and isinstance(self._forwarder, Forwarder) and self._forwarder.drains:
            return self._spool.waiting()
        return self._spool.waiting_for(self._producer)

    def _is_pointless(self, began: float) -> bool:
        """Whether waiting any longer helps nobody: a destination fails, or another process delivers."""
        if self._spool is None or any(one.latest >= began for one in self._spool.failures()):
            return True
        ours = not isinstance(self._forwarder, Forwarder) or self._forwarder.drains
        return not ours and self._spool.is_drained()

    def _lost_since_last_flush(self) -> bool:
        own = self._own()
        lost = own.dead + own.lost + sum(self._dropped().values())
        before, self._lost_before = self._lost_before, lost
        return lost > before

    # Looking.

    def _own(self) -> Own:
        return Own(0, 0, 0) if self._spool is None else self._spool.own(self._producer)

    def _dropped(self) -> dict[str, int]:
        """Traces given up before they were in the spool, by cause."""
        counts = self.notices.counts()
        dropped = {cause: count for cause, count in counts.items() if cause.startswith("dropped_")}
        return {cause.removeprefix("dropped_"): dropped[cause] for cause in dropped if cause not in _OF_ALL}

    def _counted(self, spool: Spool) -> Own:
        """Ask the spool for our traces, and remember how many are delivered for certain."""
        spooled = self.notices.counts().get("spooled", 0)
        own = spool.own(self._producer)
        if self._to_account:  # which may have been found out by asking
            self._account(spool)
            return spool.own(self._producer)
        self._known_delivered = max(self._known_delivered, spooled - own.undelivered)
        return own

    def _told(self) -> tuple[Own, float | None, str | None]:
        """Ask the spool what became of our traces, since when one waits, and why; or what it said last."""
        try:
            if self._spool is not None and not self._closed:
                own = self._counted(self._spool)
                oldest, failures = self._spool.oldest(), self._spool.failures()
                self._last_told = own, oldest, failures[-1].reason if failures else None
        except SpoolError as error:
            return (*self._last_told[:2], str(error))
        return self._last_told

    def stats(self) -> Stats:
        """Return what became of the traces of this process; see `Stats`."""
        counts, dropped = self.notices.counts(), self._dropped()
        own, oldest, error = self._told()
        if own.lost:
            dropped["spool"] = own.lost
        spooled = counts.get("spooled", 0)
        return Stats(
            recorded=counts.get("finished", 0),
            spooled=spooled,
            delivered=max(0, spooled - own.waiting - own.dead - own.lost),
            waiting=own.waiting,
            dead=own.dead,
            dropped=dropped,
            mishaps={
                cause: count
                for cause, count in counts.items()
                if cause not in _COUNTED and not cause.startswith("dropped_")
            },
            last_error=error,
            oldest_waiting_seconds=None if oldest is None else max(0.0, time.time() - oldest),
        )

    # Ending.

    def detach(self, recorder: Recorder, timeout: float | None) -> bool:
        """Let go of a tracer that is closed, after a flush; the pipeline ends with its last one."""
        if timeout is None:
            timeout = max(0.0, self._kind.exit_timeout - TEARDOWN)
        deadline = time.monotonic() + timeout
        delivered = self.flush(timeout)
        self.say_what_is_left()
        with _registry.lock:
            self._recorders.discard(recorder)
            last = not self._recorders and _registry.pipelines.get(self._kind) is self
            if last:
                del _registry.pipelines[self._kind]
        if last:
            self.stop(max(0.0, deadline - time.monotonic()))
        return delivered

    def close(self, timeout: float) -> bool:
        """Cut off what runs, deliver what there is time for, and stop."""
        deadline = time.monotonic() + timeout
        for recorder in list(self._recorders):
            recorder.finish_all()
        delivered = self.flush(timeout, ending=True)
        self.say_what_is_left()
        if not any(recorder.is_recording for recorder in list(self._recorders)):
            self.stop(max(0.0, deadline - time.monotonic()))
        # Else threads go on until the interpreter ends them, and the writer with what they finish.
        return delivered

    def say_what_is_left(self) -> None:
        """Warn of traces that are not delivered, unless a process of its own is at it."""
        if isinstance(self._forwarder, ForwarderProcess) or self._blind or not self._writer.is_empty:
            return  # what the disk did not take is told of when the writer stops
        try:
            left = self._waiting()
        except SpoolError:
            return  # which was said already
        if left:
            self.notices.warn(
                "left_in_spool", "%d traces wait in %s; the next process that uses it delivers them",
                left, self._kind.spool_dir, count=left,
            )  # fmt: skip

    def stop(self, timeout: float) -> None:
        """Stop the threads; what is not delivered stays in the spool."""
        deadline = time.monotonic() + max(timeout, WRITE_TIME)
        self._writer.wait_empty(max(timeout, WRITE_TIME), patient=False)
        self._may_close = self._forwarder is None or self._forwarder.stop(timeout)
        self._writer.stop(max(0.0, deadline - time.monotonic()))

    @property
    def exit_timeout(self) -> float:
        """Seconds that the end of the process may take."""
        return self._kind.exit_timeout

    # Forks: threads, locks and database handles stay with the parent.

    def before_fork(self) -> None:
        """Let go of what a child must not inherit, and let nothing of it be opened meanwhile."""
        self._forking = self._lock.acquire(timeout=FORK_PATIENCE)
        if self._spool is not None:
            self._spool.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._spool is not None:
            self._spool.after_fork_in_parent()
        if self._forking:
            self._lock.release()

    def begin_in_child(self) -> None:
        """Start anew in a forked child."""
        self.notices.forget()
        self._writer.reset()
        if self._forwarder is not None:
            self._forwarder.inherit()
        if self._spool is not None:
            self._spool.inherit()
        for recorder in list(self._recorders):
            recorder.forget()
        self._begin()


_OF_ALL: Final = frozenset({"dropped_spool_full", "dropped_spool_damaged", "dropped_dead_letters"})
"""What this process dropped of the spool, whosever it was; the spool itself knows what was ours."""


def redacted(trace: TraceRecord, redactor: Redactor) -> TraceRecord:
    """Mask the secrets of a trace in place, wherever there is text; return it."""
    redactor.forget()
    trace.name = redactor.text(trace.name)
    trace.session_id = trace.session_id and redactor.text(trace.session_id)
    trace.user_id = trace.user_id and redactor.text(trace.user_id)
    trace.tags = redactor.value(trace.tags)
    trace.metadata = redactor.value(trace.metadata)
    for span in trace.spans:
        span.name = redactor.text(span.name)
        span.status_message = redactor.text(span.status_message)
        span.inputs = redactor.value(span.inputs)
        span.outputs = redactor.value(span.outputs)
        span.attributes = redactor.value(dict(span.attributes))
        span.events = [
            SpanEvent(redactor.text(event.name), event.time_ns, redactor.value(event.attributes))
            for event in span.events
        ]
    return trace


class _Registry:
    """The pipelines of this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.pipelines: dict[_Kind, Pipeline] = {}
        self._forking = False

    def close_all(self) -> None:
        """End every pipeline when the interpreter exits, all within the longest of their timeouts."""
        pipelines = list(self.pipelines.values())
        longest = max((one.exit_timeout for one in pipelines), default=0.0)
        deadline = time.monotonic() + max(0.0, longest - TEARDOWN)
        for pipeline in pipelines:
            pipeline.close(max(0.0, deadline - time.monotonic()))

    def before_fork(self) -> None:
        """Let a child inherit nothing that SQLite forbids it to have, and nothing half imported."""
        self._forking = self.lock.acquire(timeout=FORK_PATIENCE)
        importing.before_fork()
        for pipeline in list(self.pipelines.values()):
            pipeline.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        importing.after_fork()
        for pipeline in list(self.pipelines.values()):
            pipeline.after_fork_in_parent()
        if self._forking:
            self.lock.release()

    def begin_in_child(self) -> None:
        """Give a forked child its own locks and pipelines."""
        importing.after_fork()
        self.lock = threading.RLock()
        for pipeline in list(self.pipelines.values()):
            pipeline.begin_in_child()


_registry = _Registry()
atexit.register(_registry.close_all)
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(
        before=_registry.before_fork,
        after_in_parent=_registry.after_fork_in_parent,
        after_in_child=_registry.begin_in_child,
    )
