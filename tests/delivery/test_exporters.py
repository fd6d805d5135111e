"""Sends traces to a real MLflow server and into a real store, and maps their refusals to our errors."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from mlflow.entities import Trace, TraceState

from langchain_mlflow_tracer.core.errors import PermanentExportError, TransientExportError
from langchain_mlflow_tracer.core.record import Outcome, SpanLink, SpanRecord, Status, TraceRecord
from langchain_mlflow_tracer.delivery.exporter import http
from langchain_mlflow_tracer.delivery.exporter import server as server_exporter
from langchain_mlflow_tracer.encoding import otlp
from tests.conftest import wait_for
from tests.support.faults import answering, hanging, hanging_up, older, refusing
from tests.support.sending import exporter_to
from tests.support.stored import Client, attribute, experiment_id, named, root
from tests.support.versions import SUMS_PARTS, needs_whole_mlflow

SECOND = 1_000_000_000
START = 1_790_000_000 * SECOND


def record(number: int = 1, **facts: object) -> TraceRecord:
    """Return a trace of a chain with one model call, which always has the same id for a number."""
    trace_id = number.to_bytes(16, "big")
    chain = SpanRecord(b"\0" * 7 + b"\1", None, "chain", "CHAIN", START, START + SECOND, Status.OK)
    chain.outcome = Outcome.COMPLETED
    chain.inputs = {"messages": [{"role": "user", "content": "What?"}]}
    chain.outputs = {
        "messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "So."}]
    }
    model = SpanRecord(
        b"\0" * 7 + b"\2", chain.span_id, "model", "CHAT_MODEL", START, START + SECOND, Status.OK
    )
    model.attributes = {
        "mlflow.llm.model": "gpt-4o-2024-11-20",
        "mlflow.llm.provider": "azure",
        "mlflow.chat.tokenUsage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
    }
    trace = TraceRecord(trace_id, "geography", spans=[chain, model], tags={"beta": "true"})
    trace.session_id, trace.user_id = "s-1", "ada"
    for name, value in facts.items():
        setattr(trace, name, value)
    return trace


def check(trace: Trace) -> None:
    """Check that everything of `record` is there."""
    info = trace.info
    assert info.state is TraceState.OK
    assert info.execution_duration == 1000
    assert info.tags["mlflow.traceName"] == "geography"
    assert info.tags["beta"] == "true"
    assert info.tags["lc.outcome"] == "completed"
    assert info.trace_metadata["mlflow.trace.session"] == "s-1"
    assert info.trace_metadata["mlflow.trace.user"] == "ada"
    assert (info.token_usage or {})["total_tokens"] == 15
    assert (info.request_preview, info.response_preview) == ("What?", "So.")
    assert root(trace).inputs == {"messages": [{"role": "user", "content": "What?"}]}
    assert attribute(named(trace, "model"), "mlflow.chat.tokenUsage")["output_tokens"] == 5
    assert len(trace.data.spans) == 2


@pytest.fixture(params=["server", "3.14.0", pytest.param("embedded", marks=needs_whole_mlflow)])
def uri(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield each kind of destination."""
    if request.param == "embedded":
        yield request.getfixturevalue("store_uri")
        return
    server = request.getfixturevalue("server")
    if request.param == "server":
        yield server
        return
    with older(server, request.param) as address:
        yield address


class TestEveryDestination:
    def test_a_trace_that_is_sent_twice_is_stored_completely_and_once(
        self, uri: str, request: pytest.FixtureRequest
    ) -> None:
        experiment = request.node.name
        destination = exporter_to(uri, experiment)
        payload = otlp.encode(record(hash(uri) % 2**60))
        destination.export([payload])
        destination.export([payload])
        client = Client(uri)
        (trace,) = client.search_traces(locations=[experiment_id(uri, experiment)])
        check(client.get_trace(trace.info.trace_id))

    def test_metadata_of_a_trace_is_stored_as_mlflows_metadata(self, uri: str) -> None:
        trace = record(hash(uri) % 2**60 + 1, metadata={"tenant": "acme"})
        exporter_to(uri).export([otlp.encode(trace)])
        stored = Client(uri).get_trace(trace.mlflow_id)
        assert stored.info.trace_metadata["tenant"] == "acme"
        check(stored)

    def test_a_tag_that_is_json_is_stored_as_the_same_text(self, uri: str) -> None:
        listed = '[{"name": "about", "version": "1"}]'
        trace = record(
            hash(uri) % 2**60 + 3, metadata={"tenant": "acme"}, tags={"listed": listed, "beta": "true"}
        )
        exporter_to(uri).export([otlp.encode(trace)])
        assert Client(uri).get_trace(trace.mlflow_id).info.tags["listed"] == listed

    def test_a_failed_trace_is_stored_with_state_error(self, uri: str) -> None:
        trace = record(hash(uri) % 2**60 + 2)
        trace.spans[0].status, trace.spans[0].outputs = Status.ERROR, None
        exporter_to(uri).export([otlp.encode(trace)])
        assert Client(uri).get_trace(trace.mlflow_id).info.state is TraceState.ERROR

    def test_several_exporters_at_once_create_a_missing_experiment_once(
        self, uri: str, request: pytest.FixtureRequest
    ) -> None:
        name = f"raced {request.node.name}"
        failed: list[BaseException] = []

        def export(number: int) -> None:
            try:
                exporter_to(uri, name).export([otlp.encode(record(hash(uri) % 2**60 + number))])
            except BaseException as error:  # noqa: BLE001 - told by the main thread
                failed.append(error)

        threads = [threading.Thread(target=export, args=(10 + number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [error for error in failed if not isinstance(error, TransientExportError)] == []
        client = Client(uri)
        assert len(client.search_traces(locations=[experiment_id(uri, name)])) == 4 - len(failed)

    def test_an_export_to_a_deleted_experiment_is_a_transient_error(self, uri: str) -> None:
        client = Client(uri)
        name = f"deleted {uri}"
        client.delete_experiment(client.create_experiment(name))
        with pytest.raises(TransientExportError, match="is deleted: restore it"):
            exporter_to(uri, name).export([otlp.encode(record())])

    def test_bytes_that_are_not_a_trace_are_a_permanent_error(self, uri: str) -> None:
        with pytest.raises(PermanentExportError):
            exporter_to(uri).export([b"junk"])


def part(number: int, span: int) -> TraceRecord:
    """Return what another process adds to `record(number)`: a chain with one model call, below its root."""
    part = record(number)
    part.host = SpanLink(part.trace_id, part.spans[0].span_id)
    for one, span_id in zip(part.spans, (span, span + 1), strict=True):
        one.span_id = span_id.to_bytes(8)
    part.spans[1].parent_id = part.spans[0].span_id
    return part


@pytest.mark.parametrize("metadata", [{}, {"tenant": "acme"}], ids=["no metadata", "metadata"])
class TestPartsOfATrace:
    @pytest.fixture(params=["server", "embedded"])
    def uri(self, request: pytest.FixtureRequest) -> str:
        name = "server" if request.param == "server" else "store_uri"
        return str(request.getfixturevalue(name))

    @staticmethod
    def check(uri: str, trace: TraceRecord, parts: int) -> None:
        """Check that all spans are there; the totals of a trace with metadata depend on what came last."""
        stored = Client(uri).get_trace(trace.mlflow_id)
        assert stored.info.state is TraceState.OK
        assert stored.info.tags["mlflow.traceName"] == "geography"
        assert len(stored.data.spans) == 2 * (1 + parts)
        assert root(stored).name == "chain"
        if SUMS_PARTS and not trace.metadata:
            counted = 1 + parts
            assert stored.info.token_usage == {
                "input_tokens": 10 * counted, "output_tokens": 5 * counted, "total_tokens": 15 * counted,
            }  # fmt: skip
            costs = [attribute(span, "mlflow.llm.cost") for span in stored.data.spans]
            whole = sum(cost["total_cost"] for cost in costs if cost)
            assert (stored.info.cost or {}).get("total_cost") == (pytest.approx(whole) if whole else None)
        assert {key: stored.info.trace_metadata.get(key) for key in trace.metadata} == trace.metadata

    @pytest.mark.parametrize("order", ["root first", "root last", "root between", "together"])
    def test_all_parts_of_a_trace_are_stored_once_in_any_order_of_sending(
        self, order: str, uri: str, metadata: dict[str, str]
    ) -> None:
        number = hash((uri, order, len(metadata))) % 2**60
        whole = record(number, metadata=metadata)
        sent = [otlp.encode(one) for one in (whole, part(number, 11), part(number, 21))]
        batches = {
            "root first": [[0], [1], [2], [1]],
            "root last": [[1], [2], [0], [0]],
            "root between": [[1], [0], [2], [0]],
            "together": [[2, 0, 1]],
        }[order]
        for batch in batches:
            exporter_to(uri).export([sent[one] for one in batch])
        self.check(uri, whole, parts=2)

    def test_all_parts_of_a_trace_are_stored_if_they_are_sent_at_the_same_time(
        self, uri: str, metadata: dict[str, str]
    ) -> None:
        number = hash((uri, len(metadata))) % 2**60
        whole = record(number, metadata=metadata)
        exporter_to(uri).export([otlp.encode(record(number + 1))])  # all is imported, and made
        sent = [whole, *(part(number, 10 * one) for one in range(1, 8))]
        taken: list[TraceRecord] = []

        def send(one: TraceRecord) -> None:
            while one not in taken:
                with contextlib.suppress(TransientExportError):  # SQLite is locked: a lane tries again
                    exporter_to(uri).export([otlp.encode(one)])
                    taken.append(one)

        threads = [threading.Thread(target=send, args=(one,), daemon=True) for one in sent]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(taken) == len(sent), timeout=60)
        self.check(uri, whole, parts=7)


class TestAServerThatRefuses:
    @pytest.mark.parametrize("status", [401, 403, 404, 408, 425, 429, 500, 502, 503, 504])
    def test_a_status_that_may_change_is_a_transient_error(self, status: int) -> None:
        with answering(status, b"because", version="3.17.2") as address:
            with pytest.raises(TransientExportError, match=f"{status}: because"):
                exporter_to(address).export([otlp.encode(record())])

    @pytest.mark.parametrize("status", [400, 422])
    def test_a_status_that_never_changes_is_a_permanent_error(self, status: int) -> None:
        with answering(status, b"because", version="3.17.2") as address:
            with pytest.raises(PermanentExportError, match=f"{status}: because"):
                exporter_to(address).export([otlp.encode(record())])

    @pytest.mark.parametrize(
        ("status", "body", "suspect"),
        [
            (500, b"what?", True),
            (413, b"what?", True),
            (503, b"busy", False),
            (422, b'{"detail": "Failed to log OpenTelemetry spans"}', True),
            (400, b'{"error_code": "BAD_REQUEST", "message": "QueuePool limit"}', True),
        ],
    )
    def test_an_error_that_may_be_about_the_trace_makes_it_a_suspect(
        self, status: int, body: bytes, *, suspect: bool
    ) -> None:
        with (
            answering(status, body, version="3.17.2") as address,
            pytest.raises(TransientExportError) as caught,
        ):
            exporter_to(address).export([otlp.encode(record())])
        assert caught.value.suspect is suspect

    def test_an_error_about_credentials_names_the_variables_to_set(self) -> None:
        with answering(401) as address, pytest.raises(TransientExportError, match="MLFLOW_TRACKING_TOKEN"):
            exporter_to(address).export([otlp.encode(record())])

    @pytest.mark.parametrize(
        ("said", "seconds"),
        [("7", 7.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", None)],
    )
    def test_the_retry_after_header_is_read_as_seconds_or_date(
        self, said: str, seconds: float | None
    ) -> None:
        with answering(503, headers={"Retry-After": said}, version="3.17.2") as address:
            with pytest.raises(TransientExportError) as caught:
                exporter_to(address).export([otlp.encode(record())])
        assert caught.value.retry_after == seconds

    def test_a_missing_server_or_one_that_hangs_is_a_transient_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server_exporter, "PROBE_TIMEOUT", 0.2)
        for fault in (refusing, hanging):
            with fault() as address, pytest.raises(TransientExportError, match="no answer from"):
                exporter_to(address).export([otlp.encode(record())])

    def test_a_request_on_a_connection_that_the_server_has_closed_is_sent_again_at_once(self) -> None:
        with hanging_up("3.17.2") as address:
            sender = exporter_to(address)
            sender.export([otlp.encode(record(6))])
            sender.export([otlp.encode(record(6))])

    def test_the_error_of_a_request_that_was_sent_again_is_that_of_the_second_attempt(self) -> None:
        errors = iter([ConnectionResetError("hung up"), ConnectionRefusedError("nobody is there")])

        def ask() -> NoReturn:
            raise next(errors)

        with pytest.raises(ConnectionRefusedError) as caught:
            http._again_where_hung_up(ask)
        assert "nobody is there" in http.reason_of(caught.value)

    def test_an_export_error_contains_no_password(self) -> None:
        with refusing() as address, pytest.raises(TransientExportError) as caught:
            exporter_to(address.replace("//", "//ada:hunter2@")).export([otlp.encode(record())])
        assert "hunter2" not in str(caught.value)

    def test_an_answer_that_is_not_from_mlflow_is_a_transient_error(self) -> None:
        with answering(200, b"<html>") as address, pytest.raises(TransientExportError, match="/version"):
            exporter_to(address).export([otlp.encode(record())])

    def test_a_server_before_3_12_is_sent_no_traces(self, server: str) -> None:
        with older(server, "3.11.1") as address:
            with pytest.raises(TransientExportError, match=r"is MLflow 3\.11: upgrade it to 3\.12 or newer"):
                exporter_to(address).export([otlp.encode(record())])

    def test_an_export_succeeds_after_a_failed_probe(self, server: str) -> None:
        sender = exporter_to(server)
        with answering(500) as address:
            real, sender._connection = sender._connection, http.Connection(address)  # type: ignore[attr-defined]
            with pytest.raises(TransientExportError):
                sender.export([otlp.encode(record(3))])
        sender._connection = real  # type: ignore[attr-defined]
        sender.export([otlp.encode(record(3))])
        assert Client(server).get_trace(record(3).mlflow_id).data.spans

    def test_an_experiment_that_can_be_neither_found_nor_created_is_a_transient_error(self) -> None:
        with answering(404, b"{}", version="3.17.2") as address:
            with pytest.raises(TransientExportError, match="create answered 404"):
                exporter_to(address, "lost").export([otlp.encode(record())])


def wait_less(_: object, __: object, statement: str, values: object, *___: object) -> tuple[str, object]:
    """Let MLflow wait a tenth of a second for a locked database, instead of 20 seconds (mlflow 3.17)."""
    return statement.replace("busy_timeout = 20000", "busy_timeout = 100"), values


class TestAStoreThatRefuses:
    @needs_whole_mlflow
    def test_a_locked_database_is_a_transient_error(self, store_uri: str, tmp_path: Path) -> None:
        from sqlalchemy import event  # noqa: PLC0415 - mlflow-tracing alone does not bring it

        sender = exporter_to(store_uri)
        sender.export([otlp.encode(record(4))])
        event.listen(sender._store.engine, "before_cursor_execute", wait_less, retval=True)  # type: ignore[attr-defined]
        other = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TransientExportError, match="locked") as caught:
            sender.export([otlp.encode(record(5))])
        assert not caught.value.suspect
        other.execute("ROLLBACK")
        other.close()
        sender.export([otlp.encode(record(5))])

    def test_an_unknown_experiment_id_is_a_transient_error(self, store_uri: str) -> None:
        with pytest.raises(TransientExportError):
            exporter_to(store_uri, None, "12345").export([otlp.encode(record())])
