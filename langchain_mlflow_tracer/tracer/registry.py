"""Holds the pipelines of this process: they end with it, and begin anew in a forked child.

Tracers that deliver alike share one, so that a tracer made for a single call costs no threads.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from typing import Final

from langchain_mlflow_tracer.delivery.exporter import mlflow_import
from langchain_mlflow_tracer.recording.recorder import Recorder
from langchain_mlflow_tracer.settings.settings import Settings
from langchain_mlflow_tracer.tracer.pipeline import FORK_PATIENCE, TEARDOWN, Kind, Pipeline

__all__ = ["detach", "shared"]


class _Registry:
    """The pipelines, by what their tracers have in common."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.pipelines: dict[Kind, Pipeline] = {}
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
        mlflow_import.before_fork()
        for pipeline in list(self.pipelines.values()):
            pipeline.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        mlflow_import.after_fork()
        for pipeline in list(self.pipelines.values()):
            pipeline.after_fork_in_parent()
        if self._forking:
            self.lock.release()

    def begin_in_child(self) -> None:
        """Give a forked child its own locks and pipelines."""
        mlflow_import.after_fork()
        self.lock = threading.RLock()
        for pipeline in list(self.pipelines.values()):
            pipeline.begin_in_child()


_registry: Final = _Registry()
atexit.register(_registry.close_all)
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(
        before=_registry.before_fork,
        after_in_parent=_registry.after_fork_in_parent,
        after_in_child=_registry.begin_in_child,
    )


def shared(settings: Settings) -> Pipeline:
    """Return the pipeline of this kind, made at its first use."""
    kind = Kind.of(settings)
    with _registry.lock:
        pipeline = _registry.pipelines.get(kind)
        if pipeline is None:
            pipeline = _registry.pipelines[kind] = Pipeline(kind)
    pipeline.know(settings.destination)
    return pipeline


def detach(pipeline: Pipeline, recorder: Recorder, timeout: float | None) -> bool:
    """Let go of a tracer that is closed, after a flush; its pipeline ends with its last one.

    Without a `timeout` in seconds it takes as long as the end of the process may. Returns what a flush does.
    """
    if timeout is None:
        timeout = max(0.0, pipeline.exit_timeout - TEARDOWN)
    deadline = time.monotonic() + timeout
    delivered = pipeline.flush(timeout)
    pipeline.say_what_is_left()
    with _registry.lock:
        ends = pipeline.let_go(recorder) and _registry.pipelines.get(pipeline.kind) is pipeline
        if ends:
            del _registry.pipelines[pipeline.kind]
    if ends:
        pipeline.stop(max(0.0, deadline - time.monotonic()))
    return delivered
