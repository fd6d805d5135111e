"""Lets MLflow record nothing in the runs of roots that are not recorded."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable
from uuid import UUID

from opentelemetry import trace as otel_trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext

from langchain_mlflow_tracer.bridge.current_span import LEAVES, Ambient, leaf, open_span, runs_at_work
from langchain_mlflow_tracer.bridge.host import is_left_to_autolog
from langchain_mlflow_tracer.bridge.span_facade import Facade
from langchain_mlflow_tracer.mlflow_private.tracing import Mlflow
from langchain_mlflow_tracer.recording.recorder import Recorder

__all__ = ["UnrecordedRuns"]


class Unrecorded(Ambient):
    """A place for a root that is not recorded: MLflow records nothing either of what it makes in its runs.

    As below a root that MLflow's own sampler left out. What another tracer records there stands.
    """

    def __init__(
        self, previous: Context, is_open: Callable[[], bool], is_at_work: Callable[[], bool]
    ) -> None:
        super().__init__(previous, is_open, lambda: None)
        self.is_at_work = is_at_work
        ids = uuid.uuid4().int
        self._nothing = NonRecordingSpan(SpanContext(ids, ids >> 64, is_remote=False))  # not sampled

    def target(self) -> Span:
        """Return a span that is not recorded, or what was current before."""
        below = otel_trace.get_current_span(self.previous)
        span = below.target() if isinstance(below, Ambient) else below
        return self._nothing if self.is_at_work() and not isinstance(span, Facade) else span


class UnrecordedRuns:
    """The runs of one tracer that are not recorded."""

    def __init__(self, mlflow: Mlflow, recorder: Recorder) -> None:
        self._mlflow = mlflow
        self._recorder = recorder

    def dropped(self, run_id: UUID, span_type: str) -> None:
        """Note that a run began that is not recorded; nor is what MLflow makes in it."""
        number = run_id.int
        if is_left_to_autolog():
            return
        if not self._is_dropped(number):  # a handler that is passed twice is called twice for a run
            return
        if span_type in LEAVES:
            leaf.set(number)
        for variable in self._mlflow.contexts:
            _, previous = open_span(variable.get())
            if not self._is_placed(previous):
                is_open = functools.partial(self._recorder.is_open, number)
                place = Unrecorded(previous, is_open, self._is_dropped_at_work)
                variable.set(otel_trace.set_span_in_context(place, previous))

    def _is_placed(self, context: Context) -> bool:
        current = otel_trace.get_current_span(context)
        return isinstance(current, Unrecorded) and current.is_at_work == self._is_dropped_at_work

    def _is_dropped_at_work(self) -> bool:
        return any(map(self._is_dropped, runs_at_work()))

    def _is_dropped(self, number: int) -> bool:
        return self._recorder.find(number) is None and self._recorder.is_open(number)
