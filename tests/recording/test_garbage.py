"""The garbage collector closes streams that were left, in the middle of anything: also of what we are at."""

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

LEFT = Failure(Outcome.ABANDONED, "left", 1)


@pytest.fixture
def by_hand() -> Iterator[None]:
    """Python collects garbage when it is told to."""
    gc.disable()
    yield
    gc.enable()


def leave(closed: Callable[[], object]) -> None:
    """Leave a stream that has begun, so that only the garbage collector closes it."""

    def stream() -> Iterator[None]:
        try:
            yield
        finally:
            closed()

    left = stream()
    next(left)
    ring: list[object] = [left]
    ring.append(ring)


def ends(work: Callable[[], object]) -> bool:
    """Whether it ends at all."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(30)
    return not thread.is_alive()


class Clock:
    """Counts; once it `collects`, garbage is collected whenever somebody asks for the time."""

    def __init__(self) -> None:
        self.collects = False
        self._now = 0

    def __call__(self) -> int:
        if self.collects:
            gc.collect()
        self._now += 1
        return self._now


def nothing(_span: SpanRecord) -> None:
    """Fill nothing."""


@pytest.mark.usefixtures("by_hand")
def test_while_a_run_starts() -> None:
    clock, traces = Clock(), list[TraceRecord]()
    recorder = Recorder(traces.append, monotonic_clock=clock)
    recorder.start("root", None, "root", "CHAIN")
    recorder.start("stream", None, "stream", "CHAIN")
    leave(lambda: recorder.fail("stream", LEFT, nothing))
    clock.collects = True
    assert ends(lambda: recorder.start("child", "root", "child", "CHAIN"))
    recorder.end("root", nothing)
    assert [(trace.name, len(trace.spans)) for trace in traces] == [("stream", 1), ("root", 2)]


@pytest.mark.usefixtures("by_hand")
def test_while_a_run_starts_in_the_very_trace() -> None:
    clock, traces = Clock(), list[TraceRecord]()
    recorder = Recorder(traces.append, monotonic_clock=clock)
    recorder.start("stream", None, "stream", "CHAIN")
    leave(lambda: recorder.fail("stream", LEFT, nothing))
    clock.collects = True
    assert ends(lambda: recorder.start("child", "stream", "child", "CHAIN"))
    recorder.end("child", nothing)
    assert [trace.name for trace in traces] == ["stream", "child"]
    assert not recorder.is_recording
    assert not recorder.is_open("child")
    assert recorder.now("child") is None


@pytest.mark.usefixtures("by_hand")
def test_while_a_trace_is_handed_over() -> None:
    class Collecting(deque[Any]):
        def append(self, one: object) -> None:
            gc.collect()
            super().append(one)

    put: list[Item] = []
    writer = Writer(
        lambda trace: Item(trace.name, "", "", b""), put.extend, 1 << 20, Log(logging.getLogger())
    )
    writer._queue._entries = Collecting()
    first, second = (TraceRecord(name.encode() * 16, name) for name in "ab")
    leave(lambda: writer.accept(first))
    assert ends(lambda: writer.accept(second))
    assert writer.wait_empty(10)
    assert {item.key for item in put} == {"a", "b"}
    writer.stop(10)


@pytest.mark.usefixtures("by_hand")
def test_while_something_is_said() -> None:
    now = iter(range(1_000, 2_000))

    def clock() -> float:
        gc.collect()
        return next(now)

    log = Log(logging.getLogger("quiet"), clock)
    leave(lambda: log.count("left"))
    assert ends(lambda: log.report("cause", "said"))
    assert log.counts() == {"cause": 1, "left": 1}


@pytest.mark.usefixtures("by_hand")
def test_a_stream_of_langchain_is_closed_while_a_run_starts(tmp_path: Path) -> None:
    def clock() -> int:
        gc.collect()
        return time.perf_counter_ns()

    model = FakeListChatModel(responses=["An answer."])
    with MlflowTracer("http://127.0.0.1:9", spool_dir=tmp_path, forwarder="none") as tracer:
        assert tracer._recorder is not None

        def ask(question: str, config: RunnableConfig) -> str:
            stream = model.stream(question, {"callbacks": [tracer]})
            next(stream)
            ring: list[object] = [stream]
            ring.append(ring)
            del stream, ring
            return str(model.invoke(question, config).content)

        chain = RunnableLambda(ask)
        tracer._recorder._clock = clock
        assert ends(lambda: chain.invoke("question", {"callbacks": [tracer]}))
        tracer.flush(timeout=0.1)
        assert tracer.stats()["recorded"] == 2
