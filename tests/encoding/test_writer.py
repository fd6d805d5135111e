"""The queue between callers and the disk: order, bounds, waiting and closing."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import pytest

from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import SpanRecord, TraceRecord
from langchain_mlflow_tracer.encoding import writer as module
from langchain_mlflow_tracer.encoding.memory_queue import Entry
from langchain_mlflow_tracer.encoding.writer import Writer
from langchain_mlflow_tracer.spool.rows import Item
from tests.conftest import wait_for


def trace(number: int, size: int = 0) -> TraceRecord:
    span = SpanRecord(b"s" * 8, None, "run", "CHAIN", 1, 2, size=size)
    return TraceRecord(number.to_bytes(16), spans=[span])


class Disk:
    """Takes items, when it is let."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.groups: list[int] = []
        self.works = threading.Event()
        self.works.set()

    def put(self, items: Sequence[Item]) -> None:
        self.works.wait(30)
        self.keys += [item.key for item in items]
        self.groups.append(len(items))


class Encoder:
    """Encodes, and remembers on which thread."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.fails: Callable[[TraceRecord], bool] = lambda _: False

    def __call__(self, one: TraceRecord) -> Item:
        self.threads.append(threading.current_thread().name)
        if self.fails(one):
            raise ValueError
        return Item(one.mlflow_id, "d", "p", b"x" * 100)


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.works.set()


@pytest.fixture
def encode() -> Encoder:
    return Encoder()


@pytest.fixture
def log() -> Log:
    return Log(logging.getLogger(__name__))


def busy(writer: Writer, disk: Disk, encode: Encoder) -> None:
    """Keep the writer's thread in the disk, as one that has not its turn."""
    disk.works.clear()
    writer.accept(trace(1_000))
    wait_for(lambda: encode.threads == ["mlflow-tracer-writer"], 10)
    encode.threads.clear()


def test_a_trace_is_on_disk_when_the_wait_for_the_trace_returns(
    disk: Disk, encode: Encoder, log: Log
) -> None:
    writer = Writer(encode, disk.put, 2**30, log, gather=0.0)

    for number in range(20):
        accepted = writer.accept(trace(number))
        assert accepted is not None
        assert writer.wait_for(accepted, 10)
        assert disk.keys[-1] == trace(number).mlflow_id

    writer.stop(1)


def test_each_of_many_threads_waits_until_its_own_trace_is_written(
    disk: Disk, encode: Encoder, log: Log
) -> None:
    writer = Writer(encode, disk.put, 2**30, log, gather=0.0)
    told: list[bool] = []

    def work(first: int) -> None:
        for number in range(first, first + 50):
            accepted = writer.accept(trace(number))
            told.append(accepted is not None and writer.wait_for(accepted, 10))
            told.append(trace(number).mlflow_id in disk.keys)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 400, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert told == [True] * 800
    writer.stop(1)


def test_a_wait_for_a_disk_that_hangs_ends_after_the_given_timeout(
    disk: Disk, encode: Encoder, log: Log
) -> None:
    writer = Writer(encode, disk.put, 2**30, log, gather=0.0)
    disk.works.clear()
    number = writer.accept(trace(1))

    assert number is not None
    assert not writer.wait_for(number, 0.05)
    disk.works.set()
    assert writer.wait_for(number, 10)
    writer.stop(1)


def test_a_wait_for_a_trace_that_cannot_be_encoded_ends_and_the_dropped_trace_is_counted(
    disk: Disk, encode: Encoder, log: Log
) -> None:
    encode.fails = lambda one: one.trace_id[-1] % 2 == 1
    writer = Writer(encode, disk.put, 2**30, log)
    numbers = [writer.accept(trace(number)) for number in range(100)]

    assert all(number is not None and writer.wait_for(number, 10) for number in numbers)
    assert disk.keys == [trace(number).mlflow_id for number in range(0, 100, 2)]
    assert log.counts()["dropped_not_encoded"] == 50
    writer.stop(1)


def test_the_queue_of_the_writer_is_bounded_in_bytes(disk: Disk, encode: Encoder, log: Log) -> None:
    writer = Writer(encode, disk.put, 100_000, log)
    busy(writer, disk, encode)

    taken = sum(writer.accept(trace(number)) is not None for number in range(2_000))

    assert taken == 100_000 // trace(0).size
    assert log.counts()["dropped_queue_full"] == 2_000 - taken
    disk.works.set()
    assert writer.wait_empty(10)
    assert len(disk.keys) == taken + 1
    assert writer._queue.bytes == 0
    writer.stop(1)


def test_the_writer_loses_no_trace_of_many_threads(disk: Disk, encode: Encoder, log: Log) -> None:
    writer = Writer(encode, disk.put, 2**30, log)

    def work(first: int) -> None:
        for number in range(first, first + 500):
            writer.accept(trace(number))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 4_000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert writer.wait_empty(20)
    assert sorted(disk.keys) == sorted(trace(number).mlflow_id for number in range(4_000))
    assert max(disk.groups) <= module.GROUP
    writer.stop(1)


def test_every_trace_wakes_a_sleeping_writer(disk: Disk, encode: Encoder, log: Log) -> None:
    writer = Writer(encode, disk.put, 2**30, log, gather=0.0)
    for number in range(200):
        began = time.monotonic()
        accepted = writer.accept(trace(number))
        assert accepted is not None
        assert writer.wait_for(accepted, 10)
        assert time.monotonic() - began < module.TICK  # a lost wake-up would be found at the next tick only
    writer.stop(1)


def test_a_signal_handler_that_closes_the_writer_during_a_handover_loses_no_trace_and_does_not_deadlock(
    disk: Disk, encode: Encoder, log: Log
) -> None:
    class Interrupted(deque[Entry]):
        def append(self, entry: Entry) -> None:
            super().append(entry)
            if entry.size == trace(2, 2).size:  # the handler of SIGTERM runs here, with the lock held
                assert writer.wait_empty(30)
                writer.stop(30)

    writer = Writer(encode, disk.put, 2**30, log)
    writer._queue._entries = Interrupted()
    began = time.monotonic()
    for number in range(3):
        writer.accept(trace(number, number))

    assert time.monotonic() - began < 10
    assert disk.keys == [trace(number).mlflow_id for number in range(3)]
    assert writer._queue.bytes == 0
    assert log.counts() == {}


def test_a_trace_that_is_handed_over_twice_is_written_once(disk: Disk, encode: Encoder, log: Log) -> None:
    writer = Writer(encode, disk.put, 2**30, log)
    one = trace(1)

    numbers = [writer.accept(one), writer.accept(one)]

    assert numbers == [1, 2]
    assert writer.wait_for(2, 10)
    assert disk.keys == [one.mlflow_id]
    writer.stop(1)


def test_a_run_that_ends_on_the_thread_of_the_writer_does_not_wait_for_the_writer(
    disk: Disk, encode: Encoder, log: Log
) -> None:
    told: list[bool] = []

    def closing(one: TraceRecord) -> Item:
        if not told:  # as the garbage collector may close a stream there
            told.append(writer.wait_for(number + 1, 30))
        return encode(one)

    writer = Writer(closing, disk.put, 2**30, log, gather=0.0)
    number = 0
    began = time.monotonic()
    accepted = writer.accept(trace(1))
    assert accepted is not None
    assert writer.wait_for(accepted, 20)
    assert told == [False]
    assert time.monotonic() - began < 20
    writer.stop(1)


def test_the_writer_can_be_stopped_on_its_own_thread(disk: Disk, encode: Encoder, log: Log) -> None:
    def closing(one: TraceRecord) -> Item:
        writer.stop(1)  # as the garbage collector may, of whoever held the tracer last
        return encode(one)

    writer = Writer(closing, disk.put, 2**30, log, gather=0.0)
    writer.accept(trace(1))
    assert writer._thread is not None
    writer._thread.join(10)
    assert not writer._thread.is_alive()
    assert len(disk.keys) == 1
    assert log.counts() == {}


def test_a_wait_for_an_ended_writer_returns_before_the_timeout(disk: Disk, encode: Encoder, log: Log) -> None:
    writer = Writer(encode, disk.put, 2**20, log)
    writer.accept(trace(1))
    writer.stop(10)
    late = writer.accept(trace(2))  # as a thread does that a signal's handler interrupted to close the tracer
    assert late is not None
    began = time.monotonic()
    writer.wait_for(late, 30)
    assert not writer.wait_empty(30)
    assert time.monotonic() - began < 10


def test_the_writer_ticks_regularly_when_each_tick_waits_for_other_threads(
    disk: Disk, encode: Encoder, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICK", 0.05)
    ticks = []

    def tick() -> None:
        ticks.append(time.monotonic())
        time.sleep(0.2)  # as if other threads held Python's lock; fifty times that are 10 s

    writer = Writer(encode, disk.put, 2**30, log, tick=tick)
    writer.start()
    wait_for(lambda: len(ticks) >= 4, 8)
    writer.stop(1)
