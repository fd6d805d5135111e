"""Code that is not ours raises what it likes: on our threads nothing of it ends them, whatever its kind."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from langchain_core.runnables import RunnableLambda

from langchain_mlflow_tracer.core.guard import Worker, attempt
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import SpanRecord, TraceRecord
from langchain_mlflow_tracer.delivery import retry, supervisor
from langchain_mlflow_tracer.delivery.exporter import Exporter
from langchain_mlflow_tracer.delivery.forwarder import Forwarder
from langchain_mlflow_tracer.delivery.supervisor import Supervisor
from langchain_mlflow_tracer.encoding.redaction import WITHHELD
from langchain_mlflow_tracer.encoding.writer import Writer
from langchain_mlflow_tracer.spool.rows import Item
from langchain_mlflow_tracer.spool.spool import Spool
from langchain_mlflow_tracer.tracer.pipeline import SYNC_PATIENCE
from tests.conftest import MakeTracer, wait_for
from tests.support.fakes import MemoryExporter
from tests.support.stored import root, stored_trace


class Whatever(BaseException):
    """What only `except BaseException` catches."""


ANYTHING = [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, Whatever]

anything = pytest.mark.parametrize("kind", ANYTHING)


def trace(number: int) -> TraceRecord:
    return TraceRecord(number.to_bytes(16), spans=[SpanRecord(b"s" * 8, None, "run", "CHAIN", 1, 2)])


@pytest.fixture
def log() -> Log:
    return Log(logging.getLogger("langchain_mlflow_tracer"))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool", 2**30)
    yield made
    made.close()


@anything
@pytest.mark.parametrize("durability", ["background", "sync"])
def test_a_redact_function_that_raises_withholds_its_text_and_costs_no_other_trace(
    kind: type[BaseException], durability: str, make_tracer: MakeTracer, store_uri: str
) -> None:
    def redact(text: str) -> str:
        if "Ada" in text:
            raise kind
        return text

    tracer = make_tracer(store_uri, redact=redact, durability=durability)
    chain = RunnableLambda(lambda text: text).with_config(callbacks=[tracer])
    began = time.monotonic()
    chain.invoke("Ada was here")
    took = time.monotonic() - began
    masked = root(stored_trace(store_uri, tracer))
    chain.invoke("Bob was here")
    whole = root(stored_trace(store_uri, tracer))

    assert (masked.inputs, masked.outputs) == (WITHHELD, WITHHELD)
    assert (whole.inputs, whole.outputs) == ("Bob was here", "Bob was here")
    assert took < SYNC_PATIENCE
    assert tracer.stats()["dropped"] == {}


@anything
def test_a_trace_whose_encoding_raises_is_dropped_and_the_next_one_is_written(
    kind: type[BaseException], log: Log
) -> None:
    def encode(one: TraceRecord) -> Item:
        if one.trace_id[-1] == 1:
            raise kind
        return Item(one.mlflow_id, "d", "p", b"")

    put: list[Item] = []
    writer = Writer(encode, put.extend, 2**30, log)
    for number in (1, 2):
        writer.accept(trace(number))

    assert writer.wait_empty(10)
    assert [item.key for item in put] == [trace(2).mlflow_id]
    assert log.counts()["dropped_not_encoded"] == 1
    writer.stop(1)


@anything
@pytest.mark.parametrize("step", ["tick", "put"])
def test_the_writer_survives_what_its_steps_raise(
    kind: type[BaseException], step: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langchain_mlflow_tracer.encoding.writer.PAUSE", 0.01)
    failures = [kind, kind]
    put: list[Item] = []

    def fail() -> None:
        if failures:
            raise failures.pop()

    def putting(items: Sequence[Item]) -> None:
        if step == "put":
            fail()
        put.extend(items)

    writer = Writer(
        lambda one: Item(one.mlflow_id, "d", "p", b""), putting, 2**30, log,
        tick=fail if step == "tick" else lambda: None,
    )  # fmt: skip
    writer.accept(trace(1))

    assert writer.wait_empty(10)
    assert [item.key for item in put] == [trace(1).mlflow_id]
    wait_for(lambda: log.counts().get("writer_failed") == 2)
    writer.stop(1)


class Raising:
    """Raises a few times, and then takes what it is sent."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.failures = [kind, kind]
        self.memory = MemoryExporter()

    def export(self, payloads: Sequence[bytes]) -> None:
        if self.failures:
            raise self.failures.pop()
        self.memory.export(payloads)

    show = export


@pytest.fixture
def start(spool: Spool, log: Log) -> Iterator[Callable[[Callable[[str], Exporter]], Forwarder]]:
    started: list[Forwarder] = []

    def begin(make: Callable[[str], Exporter]) -> Forwarder:
        started.append(Forwarder(spool, make, log))
        started[-1].start()
        return started[-1]

    yield begin
    for forwarder in started:
        forwarder.stop(5)


Start = Callable[[Callable[[str], Exporter]], Forwarder]


@anything
def test_an_exporter_that_raises_is_tried_again(
    kind: type[BaseException], spool: Spool, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)
    spool.put([Item("1", "d", "p", b"")])
    exporter = Raising(kind)
    start(lambda _: exporter)

    wait_for(lambda: spool.figures.waiting() == 0)
    assert exporter.failures == []


@anything
def test_an_exporter_that_cannot_be_made_holds_up_no_other_destination(
    kind: type[BaseException], spool: Spool, start: Start, log: Log
) -> None:
    def make(destination: str) -> Exporter:
        if destination == "broken":
            raise kind
        return MemoryExporter()

    spool.put([Item("1", "broken", "p", b""), Item("2", "works", "p", b"")])
    start(make)

    wait_for(lambda: spool.figures.waiting() == 1)
    assert spool.destinations() == ["broken"]
    assert log.counts()["forwarder_failed"] >= 1


@anything
def test_the_supervisor_survives_what_a_look_raises(
    kind: type[BaseException], spool: Spool, log: Log, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failures = [kind, kind]
    is_empty = spool.figures.is_empty

    def failing() -> bool:
        if failures:
            raise failures.pop()
        return is_empty()

    monkeypatch.setattr(supervisor, "LOOK", 0.01)
    monkeypatch.setattr(spool.figures, "is_empty", failing)
    made = Supervisor(spool, tmp_path / "spool", {}, log, lambda: pytest.fail("nothing waits"))
    made.start()

    wait_for(lambda: not failures)
    wait_for(lambda: log.counts().get("forwarder_failed") == 2)
    assert made.stop(5)


class TestLogging:
    """Handlers and filters of the application's logging are foreign too."""

    @pytest.fixture
    def raising(self) -> Iterator[Callable[[type[BaseException]], None]]:
        logger = logging.getLogger("langchain_mlflow_tracer")
        added: list[logging.Handler] = []

        def add(kind: type[BaseException]) -> None:
            class Handler(logging.Handler):
                def emit(self, record: logging.LogRecord) -> None:
                    raise kind

            added.append(Handler())
            logger.addHandler(added[-1])

        yield add
        for handler in added:
            logger.removeHandler(handler)

    @anything
    def test_a_log_handler_that_raises_does_not_end_the_writer(
        self, kind: type[BaseException], log: Log, raising: Callable[[type[BaseException]], None]
    ) -> None:
        def encode(one: TraceRecord) -> Item:
            if one.trace_id[-1] == 1:
                raise ValueError
            return Item(one.mlflow_id, "d", "p", b"")

        raising(kind)
        put: list[Item] = []
        writer = Writer(encode, put.extend, 2**30, log)
        for number in (1, 2):
            writer.accept(trace(number))

        assert writer.wait_empty(10)
        assert [item.key for item in put] == [trace(2).mlflow_id]
        writer.stop(1)

    def test_a_log_handler_that_raises_reaches_no_caller(
        self, log: Log, raising: Callable[[type[BaseException]], None]
    ) -> None:
        raising(ValueError)
        log.report("cause", "a line")
        assert log.counts() == {"cause": 1}

    def test_an_interrupt_while_a_line_is_logged_reaches_the_caller(
        self, log: Log, raising: Callable[[type[BaseException]], None]
    ) -> None:
        raising(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            log.report("cause", "a line")


class TestAttempt:
    @staticmethod
    def of(kind: type[BaseException]) -> str:
        def raises() -> str:
            raise kind

        return attempt(raises, lambda error: type(error).__name__)

    @anything
    def test_attempt_on_a_thread_of_ours_catches_every_exception(self, kind: type[BaseException]) -> None:
        found: list[str] = []
        worker = Worker("test", lambda: found.append(self.of(kind)))
        worker.start()
        worker.join(10)
        assert found == [kind.__name__]

    @pytest.mark.parametrize("kind", ANYTHING[1:])
    def test_attempt_on_a_callers_thread_raises_an_interrupt_again(self, kind: type[BaseException]) -> None:
        with pytest.raises(kind):
            self.of(kind)

    def test_attempt_on_a_callers_thread_catches_an_exception(self) -> None:
        assert self.of(ValueError) == "ValueError"
