"""Holds the pipelines of this process: they end with it, and begin anew in a forked child.

Tracers that deliver alike share one, so that a tracer made for a single call costs no threads.
"""

from __future__ import annotations

import atexit
import time
from typing import Final

from langchain_mlflow_tracer.core import forks
from langchain_mlflow_tracer.recording.recorder import Recorder
from langchain_mlflow_tracer.settings.settings import Settings
from langchain_mlflow_tracer.tracer.pipeline import FORK_PATIENCE, TEARDOWN, Pipeline, PipelineKey

__all__ = ["detach", "shared"]


class _Registry:
    """The pipelines, by what their tracers have in common."""

    def __init__(self) -> None:
        self.lock = forks.ForkLock(forks.Order.REGISTRY, FORK_PATIENCE)
        self.pipelines: dict[PipelineKey, Pipeline] = {}

    def close_all(self) -> None:
        """End every pipeline when the interpreter exits, all within the longest of their timeouts."""
        pipelines = list(self.pipelines.values())
        longest = max((one.exit_timeout for one in pipelines), default=0.0)
        deadline = time.monotonic() + max(0.0, longest - TEARDOWN)
        for pipeline in pipelines:
            pipeline.close(max(0.0, deadline - time.monotonic()))


_registry: Final = _Registry()
atexit.register(_registry.close_all)


def shared(settings: Settings) -> Pipeline:
    """Return the pipeline of this kind, made at its first use."""
    key = PipelineKey.of(settings)
    with _registry.lock:
        pipeline = _registry.pipelines.get(key)
        if pipeline is None:
            pipeline = _registry.pipelines[key] = Pipeline(key)
    pipeline.add_credentials(settings.destination)
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
        ends = pipeline.detach(recorder) and _registry.pipelines.get(pipeline.key) is pipeline
        if ends:
            del _registry.pipelines[pipeline.key]
    if ends:
        pipeline.stop(max(0.0, deadline - time.monotonic()))
    return delivered
