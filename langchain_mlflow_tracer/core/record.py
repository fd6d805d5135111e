"""Records of runs, spans and traces: plain data."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol
from weakref import ReferenceType

__all__ = [
    "Gathered",
    "JsonText",
    "Outcome",
    "SpanEvent",
    "SpanLink",
    "SpanRecord",
    "Status",
    "TraceRecord",
    "mlflow_id",
]


_new = object.__new__


class Status(StrEnum):
    """OpenTelemetry's three span states."""

    UNSET = "UNSET"
    OK = "OK"
    ERROR = "ERROR"


class Outcome(StrEnum):
    """How a run ended, in more detail than MLflow's OK and ERROR."""

    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"
    """Its task was cancelled, or the process was stopped by a signal."""
    ABANDONED = "abandoned"
    """Its stream was not read to the end."""
    TIMEOUT = "timeout"
    """It took longer than its time limit."""
    INTERRUPTED = "interrupted"
    """A LangGraph run that waits for input, and can be resumed."""
    RUNNING = "running"
    """It had not ended when the trace was written."""
    CUT_OFF = "cut_off"
    """The tracer was closed, or its process ended, while it ran."""


class JsonText(dict[str, object]):
    """A mapping that is shown as JSON text, as OpenAI shows the arguments of a tool call.

    The text is made when the trace is encoded: never on the caller's thread, and after redaction.
    """


class Gathered(Protocol):
    """What was recorded so far of a run that has not ended."""

    def fill(self, span: SpanRecord) -> None:
        """Fill a span whose run does not report its end."""


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened during a span; `attributes` hold JSON-like values."""

    name: str
    time_ns: int
    attributes: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SpanLink:
    """A span of any trace that this one is related to."""

    trace_id: bytes
    span_id: bytes


@dataclass
class SpanRecord:
    """One run: times in nanoseconds since the epoch, content frozen (see `freeze`).

    Without slots: `create` sets few attributes, the defaults of the others are those of the class.
    """

    span_id: bytes
    parent_id: bytes | None
    name: str
    span_type: str
    start_ns: int
    end_ns: int | None = None
    status: Status = Status.UNSET
    status_message: str = ""
    outcome: Outcome | None = None
    inputs: object = None
    outputs: object = None
    attributes: dict[str, object] = field(default_factory=dict)
    events: list[SpanEvent] = field(default_factory=list)
    size: int = 0
    """Roughly the bytes its content takes in memory."""
    is_stream: bool = False
    """Whether its answer was streamed, so that the reader could stop before the end."""
    gathered: Gathered | None = field(default=None, repr=False, compare=False)
    """What the span is filled from if its run never reports its end."""
    life: ReferenceType[Hashable] | None = field(default=None, repr=False, compare=False)
    """Dead when no object is left that could report the end of the run."""
    links: tuple[SpanLink, ...] = ()
    memory: Any = field(default=None, repr=False, compare=False)
    """Frozen values that the spans of a trace share until they end (see `freeze`)."""
    deferred: tuple[Callable[[SpanRecord], None], ...] = field(default=(), repr=False, compare=False)
    """Steps that fill the span later, from frozen values only."""

    @staticmethod
    def create(  # noqa: PLR0917 - called for every run: names would cost more than all that it does
        span_id: bytes,
        parent_id: bytes | None,
        name: str,
        span_type: str,
        start_ns: int,
        memory: object,
    ) -> SpanRecord:
        """Return the span of a run that starts: as the constructor does, in a third of the time."""
        span = _new(SpanRecord)
        span.span_id = span_id
        span.parent_id = parent_id
        span.name = name
        span.span_type = span_type
        span.start_ns = start_ns
        span.memory = memory
        span.attributes = {}
        span.events = []
        return span

    def run_deferred(self) -> None:
        """Run the deferred steps: usually the writer does, so that they cost the caller nothing."""
        steps, self.deferred = self.deferred, ()
        for step in steps:
            step(self)


@dataclass(slots=True)
class TraceRecord:
    """One trace: its spans, the root first, and what belongs to all of them.

    `destination` is the text of a `Destination`, which is fixed when the root starts.
    """

    trace_id: bytes
    name: str = ""
    destination: str = ""
    session_id: str | None = None
    user_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    spans: list[SpanRecord] = field(default_factory=list)
    host: SpanLink | None = None
    """The span of another process that is the parent of the root; this trace is then part of that trace."""
    joined: Any = field(default=None, repr=False, compare=False)
    """Its connection to spans that MLflow makes, until it ends (see `bridge`)."""
    is_encoded: bool = field(default=False, repr=False, compare=False)
    """Whether it has been encoded: a signal may cause a trace to be handed over twice."""

    @property
    def size(self) -> int:
        """Roughly the bytes the trace takes in memory: its content, and a kilobyte a span."""
        return sum([span.size for span in self.spans]) + 1024 * len(self.spans)

    def texts(self) -> Iterator[object]:
        """Return everything that may contain text."""
        yield from (self.name, self.session_id, self.user_id, self.tags, self.metadata)
        for span in self.spans:
            yield from (span.name, span.status_message, span.inputs, span.outputs, span.attributes)
            for event in span.events:
                yield from (event.name, event.attributes)

    @property
    def key(self) -> str:
        """The unique name in the spool; a part of another process's trace has its own."""
        return self.mlflow_id if self.host is None else f"{self.mlflow_id}/{self.spans[0].span_id.hex()}"

    @property
    def mlflow_id(self) -> str:
        """The id by which MLflow knows the trace."""
        return mlflow_id(self.trace_id)


def mlflow_id(trace_id: bytes) -> str:
    """Return the id by which MLflow knows a trace: `tr-` and the OpenTelemetry id, since MLflow 3.0."""
    return f"tr-{trace_id.hex()}"
