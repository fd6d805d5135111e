"""Garbage collection may close a dropped stream at any moment, also in the middle of the recorder."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import RunnableConfig, RunnableLambda

from langchain_mlflow_tracer import MlflowTracer
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import Outcome, SpanRecord, TraceRecord
from langchain_mlflow_tracer.encoding.writer import Writer
from langchain_mlflow_tracer.recording.endings import Failure
from langchain_mlflow_tracer.recording.recorder import Recorder
from langchain_mlflow_tracer.spool.rows import Item

ABANDONED = Failure(Outcome.ABANDONED, "abandoned", 1)


@pytest.fixture(autouse=True)
def by_hand() -> Iterator[None]:
    """Collect garbage only when a test calls for it, and only among the objects that the test made.

    The libraries that are loaded are a million objects: to look through them takes half a second each time.
    """
    gc.disable()
    gc.freeze()
    yield
    gc.unfreeze()
    gc.enable()


def drop_stream(closed: Callable[[], object]) -> None:
    """Start a stream and drop it in a reference cycle, so that only the garbage collector closes it."""

    def stream() -> Iterator[None]:
        try:
            yield
        finally:
            closed()

    dropped = stream()
    next(dropped)
    cycle: list[object] = [dropped]
    cycle.append(cycle)


def ends(work: Callable[[], object]) -> bool:
    """Whether `work` ends within 30 seconds."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(30)
    return not thread.is_alive()


class Clock:
    """Counts up; while `collects` is true, each reading of the time collects garbage."""

    def __init__(self) -> None:
        self.collects = False
        self._now = 0

    def __call__(self) -> int:
        if self.collects:
            gc.collect()
        self._now += 1
        return self._now


def nothing(_span: SpanRecord) -> None:
    """Leave the span as it is."""


def test_a_run_starts_while_garbage_collection_ends_another_trace() -> None:
    clock, traces = Clock(), list[TraceRecord]()
    recorder = Recorder(traces.append, monotonic_clock=clock)
    recorder.start("root", None, "root", "CHAIN")
    recorder.start("stream", None, "stream", "CHAIN")
    drop_stream(lambda: recorder.fail("stream", ABANDONED, nothing))
    clock.collects = True
    assert ends(lambda: recorder.start("child", "root", "child", "CHAIN"))
    recorder.end("root", nothing)
    assert [(trace.name, len(trace.spans)) for trace in traces] == [("stream", 1), ("root", 2)]


def test_a_run_starts_while_garbage_collection_ends_its_own_trace() -> None:
    clock, traces = Clock(), list[TraceRecord]()
    recorder = Recorder(traces.append, monotonic_clock=clock)
    recorder.start("stream", None, "stream", "CHAIN")
    drop_stream(lambda: recorder.fail("stream", ABANDONED, nothing))
    clock.collects = True
    assert ends(lambda: recorder.start("child", "stream", "child", "CHAIN"))
    recorder.end("child", nothing)
    assert [trace.name for trace in traces] == ["stream", "child"]
    assert not recorder.is_recording
    assert not recorder.is_open("child")
    assert recorder.now("child") is None


def test_a_trace_is_queued_while_garbage_collection_queues_another_trace() -> None:
    class Collecting(deque[Any]):
        def append(self, item: object) -> None:
            gc.collect()
            super().append(item)

    put: list[Item] = []
    writer = Writer(
        lambda trace: Item(trace.name, "", "", b""), put.extend, 1 << 20, Log(logging.getLogger())
    )
    writer._queue._entries = Collecting()
    first, second = (TraceRecord(name.encode() * 16, name) for name in "ab")
    drop_stream(lambda: writer.accept(first))
    assert ends(lambda: writer.accept(second))
    assert writer.wait_empty(10)
    assert {item.key for item in put} == {"a", "b"}
    writer.stop(10)


def test_a_log_line_is_written_while_garbage_collection_counts_another_cause() -> None:
    now = iter(range(1_000, 2_000))

    def clock() -> float:
        gc.collect()
        return next(now)

    log = Log(logging.getLogger("quiet"), clock)
    drop_stream(lambda: log.count("other"))
    assert ends(lambda: log.report("cause", "text"))
    assert log.counts() == {"cause": 1, "other": 1}


def test_a_langchain_run_starts_while_garbage_collection_closes_a_langchain_stream(
    tmp_path: Path,
) -> None:
    def clock() -> int:
        gc.collect()
        return time.perf_counter_ns()

    model = FakeListChatModel(responses=["An answer."])
    with MlflowTracer("http://127.0.0.1:9", spool_dir=tmp_path, forwarder="none") as tracer:
        assert tracer._recorder is not None

        def ask(question: str, config: RunnableConfig) -> str:
            stream = model.stream(question, {"callbacks": [tracer]})
            next(stream)
            cycle: list[object] = [stream]
            cycle.append(cycle)
            del stream, cycle
            return str(model.invoke(question, config).content)

        chain = RunnableLambda(ask)
        tracer._recorder._clock = clock
        assert ends(lambda: chain.invoke("question", {"callbacks": [tracer]}))
        tracer.flush(timeout=0.1)
        assert tracer.stats()["recorded"] == 2
