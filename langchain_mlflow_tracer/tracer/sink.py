"""Defines what a tracer needs of the part that takes its finished traces."""

from __future__ import annotations

from typing import Protocol

from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import TraceRecord
from langchain_mlflow_tracer.recording.recorder import Recorder
from langchain_mlflow_tracer.settings.destination import Destination
from langchain_mlflow_tracer.tracer.stats import Stats

__all__ = ["TraceSink"]


class TraceSink(Protocol):
    """Takes finished traces: the pipeline to MLflow, or the memory of a test (see `testing`)."""

    @property
    def log(self) -> Log:
        """The log and the counters of the tracer."""

    def attach(self, recorder: Recorder) -> None:
        """Note the recorder of a new tracer."""

    def add_credentials(self, destination: Destination) -> None:
        """Note a destination, whose URI may have credentials."""

    def start_writer(self) -> None:
        """Note that a trace started."""

    def accept(self, trace: TraceRecord) -> None:
        """Take a finished trace."""

    def prepared(self, trace: TraceRecord) -> TraceRecord:
        """Mask a trace that MLflow's own exporter sends."""

    def flush(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for all finished traces; return whether they have arrived."""

    def release(self, recorder: Recorder, timeout: float | None) -> bool:
        """Flush for a tracer that is closed, and forget it; return what `flush` returns."""

    def stats(self) -> Stats:
        """Return what became of the traces."""
