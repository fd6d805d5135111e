"""Holds the state of a trace whose root has not ended."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from langchain_mlflow_tracer.core.record import SpanRecord, TraceRecord
from langchain_mlflow_tracer.recording.content.freeze import Memory

__all__ = ["Failures", "OpenTrace"]


@dataclass(slots=True)
class Failures:
    """The failed runs of a trace, by the span id of their parent, and the exceptions that they raised."""

    raised: set[tuple[bytes | None, Hashable]] = field(default_factory=set)
    failed: dict[bytes | None, list[SpanRecord]] = field(default_factory=dict)

    def is_first(self, span: SpanRecord, cause: Hashable) -> bool:
        """Whether an exception was raised in this run itself, and not passed up from a run below it."""
        is_first = (span.span_id, cause) not in self.raised
        self.raised.add((span.parent_id, cause))
        return is_first

    def add(self, span: SpanRecord) -> None:
        """Add a run that failed."""
        self.failed.setdefault(span.parent_id, []).append(span)

    def remove(self, span: SpanRecord) -> None:
        """Remove a run that is tried again."""
        siblings = self.failed.get(span.parent_id, ())
        self.failed[span.parent_id] = [sibling for sibling in siblings if sibling is not span]

    def below(self, parent: SpanRecord) -> Sequence[SpanRecord]:
        """Return the runs right below another one that failed."""
        return list(self.failed.get(parent.span_id, ()))


@dataclass(slots=True)
class OpenTrace:
    """A trace whose root has not ended; `trace` is None when it is not sampled."""

    root_id: Hashable
    trace: TraceRecord | None
    wall_offset: int
    """Nanoseconds to add to the monotonic clock for the time since the epoch."""
    runs: dict[Hashable, SpanRecord | None] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    """Copies that the spans of the trace share (see `freeze`)."""
    failures: Failures | None = None
    progress: tuple[int, ...] = ()
    """How far the trace had come at its last snapshot."""

    def spans(self) -> list[SpanRecord]:
        """Return the spans of a trace that is recorded, root first."""
        # Copied in one step: other threads start runs meanwhile.
        return [span for span in list(self.runs.values()) if span is not None]
