"""A clock and an exporter that keep everything in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import chain

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from langchain_mlflow_tracer.core.errors import ExportError
from langchain_mlflow_tracer.core.record import mlflow_id
from langchain_mlflow_tracer.encoding.payload import read_spans

__all__ = ["FakeClock", "MemoryExporter"]


class MemoryExporter:
    """Keeps what is exported, by trace id, as a well-behaved destination would: sent twice is stored once.

    `failures` are raised first, one for each export. `batches` tells how many traces each export had, `shown`
    which spans traces had when they were last shown while they ran.
    """

    def __init__(self, failures: Sequence[ExportError] = ()) -> None:
        self._lock = threading.Lock()
        self.failures = list(failures)
        self.batches: list[int] = []
        self.traces: dict[str, list[Span]] = {}
        self.shown: dict[str, list[str]] = {}

    def export(self, payloads: Sequence[bytes]) -> None:
        """Keep all of `payloads`, or raise the next of the failures."""
        with self._lock:
            self.batches.append(len(payloads))
            if self.failures:
                raise self.failures.pop(0)
            for span in chain.from_iterable(map(read_spans, payloads)):
                held = self.traces.setdefault(mlflow_id(span.trace_id), [])
                held[:] = [one for one in held if one.span_id != span.span_id] + [span]

    def show(self, payloads: Sequence[bytes]) -> None:
        """Note which spans the traces have now."""
        with self._lock:
            for payload in payloads:
                spans = read_spans(payload)
                self.shown[mlflow_id(spans[0].trace_id)] = [span.name for span in spans]


class FakeClock:
    """A clock that only `advance` moves; in seconds, or in nanoseconds with `ns`."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now

    def ns(self) -> int:
        """Return the time in nanoseconds."""
        return int(self.now * 1_000_000_000)

    def advance(self, seconds: float) -> None:
        """Let time pass; a negative number sets the clock back."""
        self.now += seconds
