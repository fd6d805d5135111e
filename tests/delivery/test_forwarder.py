"""Empties spools into exporters that fail, hang, refuse and recover."""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tenacity import RetryCallState, Retrying

from langchain_mlflow_tracer.core.errors import (
    ExportError,
    PermanentExportError,
    SpoolError,
    TransientExportError,
)
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import SpanRecord, TraceRecord
from langchain_mlflow_tracer.delivery import lane, retry
from langchain_mlflow_tracer.delivery.exporter import Exporter
from langchain_mlflow_tracer.delivery.forwarder import Forwarder
from langchain_mlflow_tracer.encoding import otlp
from langchain_mlflow_tracer.encoding.writer import Writer
from langchain_mlflow_tracer.spool.rows import Item
from langchain_mlflow_tracer.spool.spool import Spool
from tests.conftest import wait_for
from tests.support.fakes import MemoryExporter

Start = Callable[..., Forwarder]


def trace(number: int) -> TraceRecord:
    return TraceRecord(number.to_bytes(16, "big"), spans=[SpanRecord(b"12345678", None, "n", "CHAIN", 1, 2)])


def items(count: int, destination: str = "d", first: int = 1) -> list[Item]:
    made = [trace(number) for number in range(first, first + count)]
    return [Item(one.mlflow_id, destination, "p", otlp.encode(one)) for one in made]


@pytest.fixture
def log() -> Log:
    return Log(logging.getLogger("langchain_mlflow_tracer"))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool(tmp_path / "spool", max_bytes=2**30)
    yield opened
    opened.close()


@pytest.fixture
def start(spool: Spool, log: Log) -> Iterator[Start]:
    started: list[Forwarder] = []

    def begin(exporter: Exporter | Callable[[str], Exporter], on: Spool | None = None) -> Forwarder:
        make = exporter if callable(exporter) else lambda _destination: exporter
        started.append(Forwarder(on or spool, make, log))
        started[-1].start()
        return started[-1]

    yield begin
    for one in started:
        one.stop(timeout=5)


class Refusing(MemoryExporter):
    """Never takes a request that holds `guilty`."""

    def __init__(self, guilty: str) -> None:
        super().__init__()
        self.guilty = guilty

    def export(self, payloads: Sequence[bytes]) -> None:
        if bytes.fromhex(self.guilty.removeprefix("tr-")) in b"".join(payloads):
            raise PermanentExportError("that one is malformed")
        super().export(payloads)


class Decoding(MemoryExporter):
    """Rejects what is not OTLP, as a server does."""

    def export(self, payloads: Sequence[bytes]) -> None:
        try:
            super().export(payloads)
        except DecodeError as error:
            raise PermanentExportError("not a trace") from error


class Hanging:
    """Takes no answer from anybody until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.leave = threading.Event()

    def export(self, payloads: Sequence[bytes]) -> None:
        self.entered.set()
        self.leave.wait(30)
        raise TransientExportError(f"{len(payloads)} timed out")


class TestDelivery:
    def test_all_traces_are_sent_in_bounded_batches_and_removed_from_the_spool(
        self, spool: Spool, start: Start
    ) -> None:
        spool.put(items(250))
        exporter = MemoryExporter()
        start(exporter)
        wait_for(lambda: spool.figures.totals().waiting == 0)
        assert len(exporter.traces) == 250
        assert exporter.batches == [100, 100, 50]

    def test_a_batch_is_bounded_in_bytes(
        self, spool: Spool, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lane, "BATCH_BYTES", 1)
        spool.put(items(3))
        exporter = MemoryExporter()
        start(exporter)
        wait_for(lambda: spool.figures.totals().waiting == 0)
        assert exporter.batches == [1, 1, 1]

    def test_a_permanently_refused_trace_delays_no_other(self, spool: Spool, start: Start) -> None:
        spool.put(items(20))
        exporter = Refusing(trace(7).mlflow_id)
        start(exporter)
        wait_for(lambda: spool.figures.totals().waiting == 0)
        assert len(exporter.traces) == 19
        assert spool.figures.totals().dead == 1
        (dead,) = spool.dead_letters
        assert (dead.key, dead.reason) == (trace(7).mlflow_id, "that one is malformed")

    def test_a_damaged_running_trace_of_a_dead_process_is_rejected_and_the_others_are_sent_as_cut_off(
        self, spool: Spool, start: Start, tmp_path: Path, log: Log
    ) -> None:
        dead_process = Spool(tmp_path / "spool", max_bytes=2**30)
        dead_process.running.put(items(3))
        dead_process.close()
        damaged = trace(2).mlflow_id
        with sqlite3.connect(tmp_path / "spool" / "spool.db") as database:
            database.execute("UPDATE running SET payload = ? WHERE key = ?", (b"\xff" * 40, damaged))
        database.close()

        exporter = Decoding()
        start(exporter)

        wait_for(lambda: spool.figures.totals().dead == 1)
        wait_for(lambda: spool.figures.totals().waiting == spool.figures.totals().running == 0)
        assert set(exporter.traces) == {trace(1).mlflow_id, trace(3).mlflow_id}
        assert [letter.key for letter in spool.dead_letters] == [damaged]
        assert "forwarder_failed" not in log.counts()

    def test_transient_failures_are_retried_and_counted(
        self, spool: Spool, start: Start, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)
        failures: list[ExportError] = [TransientExportError("not now"), TransientExportError("nor now")]
        exporter = MemoryExporter(failures)
        spool.put(items(3))
        start(exporter)
        wait_for(lambda: spool.figures.totals().waiting == 0)
        assert len(exporter.traces) == 3
        assert log.counts()["export_failed"] == 2
        assert spool.figures.failures() == []

    def test_an_unexpected_exception_keeps_the_traces_and_is_not_retried_at_once(
        self, spool: Spool, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Broken:
            calls = 0

            def export(self, payloads: Sequence[bytes]) -> None:
                self.calls += 1
                raise KeyError(len(payloads))

        monkeypatch.setattr(retry, "FIRST_WAIT", 1_000.0)
        broken = Broken()
        spool.put(items(1))
        forwarder = start(broken)
        for attempt in (1, 2, 3):
            wait_for(lambda attempt=attempt: [one.attempts for one in spool.figures.failures()] == [attempt])  # type: ignore[misc]
            assert broken.calls == attempt
            forwarder.retry_now()
        assert "unexpected KeyError" in spool.figures.failures()[0].reason
        assert spool.figures.totals().waiting == 1

    def test_a_destination_that_hangs_delays_no_other(self, spool: Spool, start: Start) -> None:
        spool.put([*items(1, "hangs"), *items(1, "works", first=2)])
        hanging, memory = Hanging(), MemoryExporter()
        start(lambda destination: hanging if destination == "hangs" else memory)
        assert hanging.entered.wait(10)
        wait_for(lambda: len(memory.traces) == 1)
        hanging.leave.set()

    def test_stop_does_not_wait_for_a_lane_that_hangs(self, spool: Spool, start: Start) -> None:
        hanging = Hanging()
        spool.put(items(1))
        forwarder = start(hanging)
        assert hanging.entered.wait(10)
        began = time.monotonic()
        forwarder.stop(timeout=0.2)
        assert time.monotonic() - began < 2
        assert spool.figures.totals().waiting == 1
        hanging.leave.set()

    def test_a_second_forwarder_takes_over_when_the_first_ends(self, spool: Spool, start: Start) -> None:
        first = start(MemoryExporter())
        wait_for(lambda: first.holds_drain_lock)
        second = start(MemoryExporter())
        assert first.stop(timeout=5)
        wait_for(lambda: second.holds_drain_lock)

    def test_retry_now_ends_the_wait_before_the_next_attempt(
        self, spool: Spool, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retry, "FIRST_WAIT", 1_000.0)
        spool.put(items(1))
        forwarder = start(MemoryExporter([TransientExportError("not now")]))
        wait_for(spool.figures.failures)
        forwarder.retry_now()
        wait_for(lambda: spool.figures.totals().waiting == 0)

    def test_a_forwarder_logs_a_failing_spool_and_continues_when_it_works_again(
        self, spool: Spool, start: Start, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> object:
            raise SpoolError("the disk is gone")

        monkeypatch.setattr(spool, "destinations", fail)
        start(MemoryExporter()).wake()
        wait_for(lambda: log.counts().get("spool_failed"))
        monkeypatch.undo()
        monkeypatch.setattr(lane, "PAUSE", 0.01)
        monkeypatch.setattr(spool, "lease", fail)
        spool.put(items(1))
        before = log.counts()["spool_failed"]
        wait_for(lambda: log.counts()["spool_failed"] > before)
        monkeypatch.undo()
        wait_for(lambda: spool.figures.totals().waiting == 0)

    def test_traces_that_a_full_disk_cannot_remove_are_not_sent_again(
        self, spool: Spool, start: Start, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise SpoolError("the disk is full")

        monkeypatch.setattr(spool, "ack", fail)
        spool.put(items(250))
        exporter = MemoryExporter()
        start(exporter)
        wait_for(lambda: len(exporter.traces) == 250)
        failed = log.counts()["spool_failed"]
        wait_for(lambda: log.counts()["spool_failed"] > failed)  # it looked again
        monkeypatch.undo()
        wait_for(lambda: spool.figures.waiting() == 0)
        assert sum(exporter.batches) == 250

    def test_an_exporter_that_cannot_be_created_is_counted_and_its_traces_stay_pending(
        self, spool: Spool, start: Start, log: Log
    ) -> None:
        def make(destination: str) -> Exporter:
            raise ValueError(destination)

        spool.put(items(1))
        start(make)
        wait_for(lambda: log.counts().get("forwarder_failed"))
        assert spool.figures.totals().waiting == 1


class TestRetryPolicy:
    @staticmethod
    def waits(error: Exception, attempts: int) -> list[float]:
        """Return the waits that the policy makes before it is stopped."""
        slept: list[float] = []
        policy = retry.until_delivered(slept.append, lambda: len(slept) >= attempts, lambda _: None)

        def fail() -> None:
            raise error

        with pytest.raises(type(error)):
            policy(fail)
        return slept

    def test_waits_between_attempts_grow_randomly_up_to_a_minute(self) -> None:
        waits = self.waits(TransientExportError("no"), 40)
        for number, wait in enumerate(waits):
            longest = min(1.2**number, 60)
            assert longest / 2 <= wait <= longest
        assert max(waits) > 30
        assert len(set(waits[20:])) > 1

    def test_the_end_of_an_outage_of_twenty_seconds_is_noticed_within_ten_seconds(self) -> None:
        for _ in range(100):
            passed = 0.0
            for wait in self.waits(TransientExportError("no"), 40):
                if passed < 20:
                    assert wait < 9.1
                passed += wait

    def test_a_wait_that_the_destination_asks_for_is_respected_up_to_a_quarter_of_an_hour(self) -> None:
        assert 30 <= self.waits(TransientExportError("no", retry_after=30), 1)[0] <= 31
        assert 900 <= self.waits(TransientExportError("no", retry_after=9_999), 1)[0] <= 901

    @pytest.mark.parametrize("status", [401, 403])
    def test_refused_credentials_are_retried_slowly(self, status: int) -> None:
        waits = self.waits(TransientExportError("no", status=status), 40)
        assert waits[0] == 5
        assert max(waits) > 30

    @pytest.mark.parametrize("error", [PermanentExportError("never"), ValueError("what?")])
    def test_only_transient_failures_are_retried(self, error: Exception) -> None:
        assert self.waits(error, 1) == []

    def test_a_wait_before_any_failure_is_as_long_as_the_first(self) -> None:
        state = RetryCallState(Retrying(), None, (), {})
        assert 0.5 <= retry._Wait(random.Random(1))(state) <= 1.0  # noqa: S311 - no secret


class TestWriter:
    @pytest.fixture
    def put(self) -> list[Sequence[Item]]:
        return []

    def encode(self, one: TraceRecord) -> Item:
        return Item(one.mlflow_id, "d", "p", b"")

    def test_the_writer_puts_traces_into_the_spool_in_groups_and_in_order(
        self, put: list[Sequence[Item]], log: Log
    ) -> None:
        writer = Writer(self.encode, put.append, 2**30, log)
        for number in range(100):
            assert writer.accept(trace(number))
        assert writer.wait_empty(10)
        keys = [item.key for group in put for item in group]
        assert keys == [trace(number).mlflow_id for number in range(100)]
        assert len(put) < 100
        writer.stop(1)

    def test_the_writer_drops_only_the_trace_that_cannot_be_encoded(
        self, put: list[Sequence[Item]], log: Log
    ) -> None:
        def encode(one: TraceRecord) -> Item:
            return Item(one.mlflow_id, "d", "p", bytes(1 // (one.trace_id[-1] - 1)))

        writer = Writer(encode, put.append, 2**30, log)
        for number in (1, 2):
            writer.accept(trace(number))
        assert writer.wait_empty(10)
        assert [item.key for group in put for item in group] == [trace(2).mlflow_id]
        assert log.counts()["dropped_not_encoded"] == 1
        writer.stop(1)

    def test_the_writer_keeps_traces_in_memory_while_the_disk_fails(
        self, put: list[Sequence[Item]], log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("langchain_mlflow_tracer.encoding.writer.PAUSE", 0.01)
        failures = [SpoolError("disk full"), OSError("what?")]

        def fail(group: Sequence[Item]) -> None:
            if failures:
                raise failures.pop()
            put.append(list(group))

        writer = Writer(self.encode, fail, 2**30, log)
        writer.accept(trace(1))
        assert writer.wait_empty(10)
        assert len(put) == 1
        assert (log.counts()["spool_failed"], log.counts()["writer_failed"]) == (1, 1)
        writer.stop(1)

    def test_the_writer_writes_finished_traces_even_if_running_ones_fail(
        self, put: list[Sequence[Item]], log: Log
    ) -> None:
        def tick() -> None:
            raise KeyError("what?")

        writer = Writer(self.encode, put.append, 2**30, log, tick=tick)
        writer.accept(trace(1))
        assert writer.wait_empty(10)
        assert log.counts()["writer_failed"] >= 1
        writer.stop(1)

    def test_the_writer_counts_traces_that_the_disk_did_not_take_before_the_end(self, log: Log) -> None:
        def fail(_: Sequence[Item]) -> None:
            raise SpoolError("disk full")

        writer = Writer(self.encode, fail, 2**30, log)
        writer.accept(trace(1))
        writer.stop(0.2)
        assert log.counts()["dropped_at_close"] == 1
