"""Keeps the pipelines of this process, and closes them when it exits.

Tracers with the same spool and options share one pipeline, so a tracer made for one call starts no threads.
"""

from __future__ import annotations

import atexit
import time
from typing import Final

from langchain_mlflow_tracer.core import forks
from langchain_mlflow_tracer.recording.recorder import Recorder
from langchain_mlflow_tracer.settings.settings import Settings
from langchain_mlflow_tracer.tracer.pipeline import FORK_PATIENCE, TEARDOWN, Pipeline, PipelineKey
from langchain_mlflow_tracer.tracer.sink import TraceSink

__all__ = ["shared"]


class _Shared(Pipeline):
    """A pipeline of several tracers, which ends with the last one."""

    def release(self, recorder: Recorder, timeout: float | None) -> bool:
        """Flush, and remove a closed tracer from the pipeline, which stops after its last tracer.

        `timeout` is in seconds; None means the exit timeout. Returns the same as a flush.
        """
        if timeout is None:
            timeout = max(0.0, self.exit_timeout - TEARDOWN)
        deadline = time.monotonic() + timeout
        delivered = self.flush(timeout)
        self.report_what_is_left()
        with _registry.lock:
            ends = self.detach(recorder) and _registry.pipelines.get(self.key) is self
            if ends:
                del _registry.pipelines[self.key]
        if ends:
            self.stop(max(0.0, deadline - time.monotonic()))
        return delivered


class _Registry:
    """The pipelines, by what their tracers have in common."""

    def __init__(self) -> None:
        self.lock = forks.ForkLock(forks.Order.REGISTRY, FORK_PATIENCE)
        self.pipelines: dict[PipelineKey, _Shared] = {}

    def close_all(self) -> None:
        """End every pipeline when the interpreter exits, all within the longest of their timeouts."""
        pipelines = list(self.pipelines.values())
        longest = max((pipeline.exit_timeout for pipeline in pipelines), default=0.0)
        deadline = time.monotonic() + max(0.0, longest - TEARDOWN)
        for pipeline in pipelines:
            pipeline.close(max(0.0, deadline - time.monotonic()))


_registry: Final = _Registry()
atexit.register(_registry.close_all)


def shared(settings: Settings) -> TraceSink:
    """Return the pipeline for these settings; it is made at its first use."""
    key = PipelineKey.of(settings)
    with _registry.lock:
        pipeline = _registry.pipelines.get(key)
        if pipeline is None:
            pipeline = _registry.pipelines[key] = _Shared(key)
    pipeline.add_credentials(settings.destination)
    return pipeline
