"""Captures traces in memory, for the tests of applications.

`capture_traces` needs no server, disk or thread, and does not import mlflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, overload

from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.proto.trace.v1.trace_pb2 import Status as SpanStatus

from langchain_mlflow_tracer.core.attributes import (
    METADATA_PREFIX,
    OUTCOME,
    SESSION_ID,
    SPAN_INPUTS,
    SPAN_OUTPUTS,
    SPAN_TYPE,
    TAG_PREFIX,
    TRACE_NAME,
    USER_ID,
)
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import Outcome, TraceRecord, mlflow_id
from langchain_mlflow_tracer.encoding.attribute_values import values
from langchain_mlflow_tracer.encoding.encoder import Encoder
from langchain_mlflow_tracer.encoding.payload import read_spans
from langchain_mlflow_tracer.recording.recorder import Recorder
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.settings.options import Capture, History, Redact
from langchain_mlflow_tracer.settings.settings import Settings, load
from langchain_mlflow_tracer.tracer.install import installed
from langchain_mlflow_tracer.tracer.sink import TraceSink
from langchain_mlflow_tracer.tracer.stats import NOTHING, Stats
from langchain_mlflow_tracer.tracer.tracer import MlflowTracer, logger

__all__ = ["CapturedEvent", "CapturedSpan", "CapturedTrace", "CapturedTraces", "capture_traces"]

_STATUSES: Final = {SpanStatus.STATUS_CODE_OK: "OK", SpanStatus.STATUS_CODE_ERROR: "ERROR"}


@dataclass(frozen=True, slots=True, eq=False)
class CapturedEvent:
    """Something that happened during a span: an exception, a retry, an event of your own."""

    name: str
    time_ns: int
    """Nanoseconds since the epoch."""
    attributes: Mapping[str, object]


@dataclass(frozen=True, slots=True, eq=False)
class CapturedSpan:
    """One run: a chain, a model call, a tool, a retriever."""

    id: str
    parent_id: str | None
    """The id of the span above it; None for the root."""
    name: str
    type: str
    """As MLflow names it: CHAIN, CHAT_MODEL, TOOL, RETRIEVER, …"""
    status: str
    """OK, ERROR or UNSET."""
    status_message: str
    """The text of the error; empty if there was none."""
    outcome: str
    """completed, error, timeout, cancelled, abandoned, interrupted or cut_off."""
    inputs: object
    """Plain data: text, numbers, lists and dicts. None if the span has no inputs."""
    outputs: object
    """The same for the outputs."""
    attributes: Mapping[str, object]
    """All other attributes; docs/what-is-recorded.md lists their names."""
    events: tuple[CapturedEvent, ...]
    start_ns: int
    """Nanoseconds since the epoch."""
    end_ns: int
    children: tuple[CapturedSpan, ...] = field(repr=False)
    """The spans right below it, in the order in which they started."""

    def walk(self) -> Iterator[CapturedSpan]:
        """Yield this span and all spans below it, each before its children."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True, eq=False)
class CapturedTrace:
    """One finished trace."""

    id: str
    """MLflow's id: `tr-…`."""
    name: str
    session_id: str | None
    user_id: str | None
    tags: Mapping[str, str]
    """Tags of the tracer and of the run; the name and the outcome are not among them."""
    metadata: Mapping[str, str]
    root: CapturedSpan

    @property
    def status(self) -> str:
        """The status of the root span: OK or ERROR."""
        return self.root.status

    @property
    def outcome(self) -> str:
        """How the root span ended."""
        return self.root.outcome

    @property
    def spans(self) -> tuple[CapturedSpan, ...]:
        """All spans: the root first, each before its children."""
        return tuple(self.root.walk())

    def span(self, name: str) -> CapturedSpan:
        """Return the only span with this name.

        Raises:
            LookupError: no span has this name, or several have; the message lists the names of all spans.
        """
        named = [span for span in self.spans if span.name == name]
        if len(named) == 1:
            return named[0]
        names = ", ".join(span.name for span in self.spans)
        raise LookupError(f"{len(named)} spans have the name {name!r}; the trace has the spans: {names}")


class CapturedTraces(Sequence[CapturedTrace]):
    """The captured traces, in the order in which they ended. Pass its `tracer` in `callbacks`."""

    def __init__(self, tracer: MlflowTracer, traces: list[CapturedTrace]) -> None:
        self.tracer = tracer
        self._traces = traces

    def __len__(self) -> int:
        return len(self._traces)

    @overload
    def __getitem__(self, index: int) -> CapturedTrace: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[CapturedTrace]: ...
    def __getitem__(self, index: int | slice) -> CapturedTrace | Sequence[CapturedTrace]:
        return self._traces[index]

    def __repr__(self) -> str:
        return f"<CapturedTraces {[trace.name for trace in self._traces]}>"


@contextmanager
def capture_traces(
    *,
    install: bool = False,
    session_id: str | None = None,
    user_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    sample_rate: float | None = None,
    capture: Capture | None = None,
    history: History | None = None,
    redact: Redact | None = None,
) -> Iterator[CapturedTraces]:
    """Capture traces in memory, with the values that MLflow would show: complete, and with secrets masked.

    A trace is captured as soon as its root run ends. At the end of the block, runs that are still open are
    captured with the outcome cut_off, and the tracer is closed.

    Args:
        install: capture every chain of the process, without callbacks. A chain with another tracer is
            not captured. At the end of the block, the tracer that was installed before is installed again.
        session_id: as in `MlflowTracer`, like all arguments below. Environment variables are not read, so
            tests give the same results on every machine.
        user_id: see `session_id`.
        tags: see `session_id`.
        metadata: see `session_id`.
        sample_rate: see `session_id`.
        capture: see `session_id`.
        history: see `session_id`.
        redact: see `session_id`.

    Raises:
        ConfigurationError: an argument is wrong.
    """
    arguments = {
        "session_id": session_id, "user_id": user_id, "tags": tags, "metadata": metadata,
        "sample_rate": sample_rate, "capture": capture, "history": history, "redact": redact,
    }  # fmt: skip
    memory = _Memory(_settings(arguments))
    tracer = _CapturingTracer(memory)
    with tracer, installed(tracer) if install else nullcontext():
        yield CapturedTraces(tracer, memory.traces)


def _settings(arguments: Mapping[str, object]) -> Settings:
    # Disabled until here: so no folder for pending traces is looked for. Pinned: so MLflow is not asked for a
    # destination. Nobody sends: so no extra is needed for one.
    settings = load({**arguments, "forwarder": "none", "disabled": True}, environ={})
    return replace(settings, disabled=False, pinned_uri=True, pinned_experiment=True)


class _Memory:
    """Encodes finished traces, as the pipeline does, and keeps what can be read of that."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.log = Log(logger)
        self.traces: list[CapturedTrace] = []
        self._recorder: Recorder | None = None

    def attach(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def add_credentials(self, destination: Destination) -> None:
        """Nothing is sent."""

    def start_writer(self) -> None:
        """Traces are captured when they end."""

    def accept(self, trace: TraceRecord) -> None:
        if not trace.is_encoded:  # a signal's handler that closes the tracer may hand it over once more
            trace.is_encoded = True
            self.traces.append(_trace(self._encoder().encode(trace)))

    def prepared(self, trace: TraceRecord) -> TraceRecord:
        return self._encoder().prepared(trace)

    def _encoder(self) -> Encoder:
        # One for each trace: traces may end on several threads at once, which cannot share one.
        return Encoder(self.settings.redact, self.log, shortens=self.settings.history == "once")

    def flush(self, timeout: float) -> bool:
        if self._recorder is not None:
            self._recorder.sweep()
        return True

    def release(self, recorder: Recorder, timeout: float | None) -> bool:
        return True

    def stats(self) -> Stats:
        return Stats(**{**NOTHING, "recorded": len(self.traces), "problems": self.log.counts()})


class _CapturingTracer(MlflowTracer):
    """A tracer whose traces stay in memory."""

    def __init__(self, memory: _Memory) -> None:
        self._memory = memory
        self._begin(memory.settings)

    def __repr__(self) -> str:
        return "<MlflowTracer of capture_traces>"

    def _connect(self, settings: Settings) -> TraceSink:
        return self._memory

    def __reduce__(self) -> tuple[Callable[..., MlflowTracer], tuple[object, ...]]:
        """Pickle a tracer that is off: the memory of this process is out of reach of others."""
        return partial(MlflowTracer, disabled=True), ()


def _trace(payload: bytes) -> CapturedTrace:
    encoded = read_spans(payload)
    first = encoded[0]
    known = {one.key: one.value.string_value for one in first.attributes}
    tags = _prefixed(known, TAG_PREFIX)
    tags.pop(OUTCOME, None)
    return CapturedTrace(
        id=mlflow_id(first.trace_id),
        name=tags.pop(TRACE_NAME, first.name),
        session_id=known.get(SESSION_ID),
        user_id=known.get(USER_ID),
        tags=tags,
        metadata=_prefixed(known, METADATA_PREFIX),
        root=_span(first, _below(encoded)),
    )


def _prefixed(attributes: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): text for key, text in attributes.items() if key.startswith(prefix)}


def _below(spans: Sequence[Span]) -> Mapping[bytes, list[Span]]:
    """Return the spans below each span, by its id; those whose parent is elsewhere are below the root."""
    below: dict[bytes, list[Span]] = {span.span_id: [] for span in spans}
    for span in sorted(spans[1:], key=lambda span: span.start_time_unix_nano):
        below.get(span.parent_span_id, below[spans[0].span_id]).append(span)
    return below


def _span(encoded: Span, below: Mapping[bytes, list[Span]]) -> CapturedSpan:
    attributes = {
        key: value
        for key, value in values(encoded.attributes).items()
        if key not in {SESSION_ID, USER_ID} and not key.startswith((TAG_PREFIX, METADATA_PREFIX))
    }
    status = _STATUSES.get(encoded.status.code, "UNSET")
    return CapturedSpan(
        id=encoded.span_id.hex(),
        parent_id=encoded.parent_span_id.hex() or None,
        name=encoded.name,
        type=str(attributes.pop(SPAN_TYPE, "UNKNOWN")),
        status=status,
        status_message=encoded.status.message,
        # It is not written for what completed. Spans that MLflow itself made have a status only.
        outcome=str(attributes.pop(OUTCOME, Outcome.ERROR if status == "ERROR" else Outcome.COMPLETED)),
        inputs=attributes.pop(SPAN_INPUTS, None),
        outputs=attributes.pop(SPAN_OUTPUTS, None),
        attributes=attributes,
        events=tuple(
            CapturedEvent(event.name, event.time_unix_nano, values(event.attributes))
            for event in encoded.events
        ),
        start_ns=encoded.start_time_unix_nano,
        end_ns=encoded.end_time_unix_nano,
        children=tuple(_span(span, below) for span in below[encoded.span_id]),
    )
