"""Answers each kind of request in place of MLflow, with redirects, login pages and other content."""

from __future__ import annotations

import json

import pytest

from langchain_mlflow_tracer.core.attributes import LINKED_PROMPTS
from langchain_mlflow_tracer.core.errors import PermanentExportError, TransientExportError
from langchain_mlflow_tracer.core.record import TraceRecord
from langchain_mlflow_tracer.delivery.exporter import artifacts
from langchain_mlflow_tracer.delivery.exporter.http import Connection
from langchain_mlflow_tracer.encoding import otlp
from langchain_mlflow_tracer.encoding.attachments import detach
from langchain_mlflow_tracer.encoding.payload import join_attachments
from tests.delivery.test_exporters import record
from tests.support.faults import answering
from tests.support.pictures import as_data_uri, picture, references, stored_content
from tests.support.proxy import HEALTHY, Fault, FaultProxy, redirects, shows_login
from tests.support.sending import exporter_to
from tests.support.stored import Client, root

REQUESTS = [
    "GET /version",
    "GET /api/2.0/mlflow/experiments/get-by-name",
    "POST /api/2.0/mlflow/experiments/create",
    "POST /v1/traces",
    "POST /api/3.0/mlflow/traces",
    "POST /api/2.0/mlflow/traces/link-prompts",
    "GET /api/3.0/mlflow/traces/tr-",
    "PUT /api/2.0/mlflow-artifacts/artifacts/",
    "HEAD /ajax-api/2.0/mlflow/get-trace-artifact",
]
"""The requests by which a trace with metadata, a prompt and a picture is stored."""

PICTURE = picture()


def trace_with_everything(name: str) -> tuple[TraceRecord, bytes]:
    """Return a trace for which all of these requests are sent, and its encoded form."""
    trace = record(hash(name) % 2**60, metadata={"tenant": "acme"})
    trace.tags = {**trace.tags, LINKED_PROMPTS: json.dumps([{"name": "greeting", "version": "1"}])}
    trace.spans[0].inputs = as_data_uri(PICTURE)
    found = detach(trace)
    return trace, join_attachments(found, otlp.encode(trace))


def experiment_for(server: str, request: str, name: str, folder: str) -> None:
    """Make the experiment, unless the exporter is to do it: HEAD is asked where artifacts are in a folder."""
    if request.startswith("HEAD"):
        Client(server).create_experiment(name, folder)
    elif "create" not in request:
        Client(server).create_experiment(name, "mlflow-artifacts:/answers")


@pytest.mark.parametrize("request_line", REQUESTS)
@pytest.mark.parametrize("kind", ["302 to a login page", "307 to another server", "200 with a login page"])
def test_a_trace_is_stored_only_by_answers_of_mlflow_itself(
    request_line: str, kind: str, server: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    name = f"{request_line} {kind}"
    experiment_for(server, request_line, name, str(tmp_path_factory.mktemp("artifacts")))
    trace, payload = trace_with_everything(name)
    with FaultProxy(server) as proxy, FaultProxy() as elsewhere:
        faults: dict[str, Fault] = {
            "302 to a login page": redirects(request_line, 302, "/login?state=s3cret"),
            "307 to another server": redirects(
                request_line, 307, f"{elsewhere.address.replace('//', '//ada:hunter2@')}/away?state=s3cret"
            ),
            "200 with a login page": shows_login(request_line),
        }
        proxy.fault = faults[kind]
        sender = exporter_to(proxy.address, name)
        with pytest.raises(TransientExportError, match="MLFLOW_TRACKING_URI") as caught:
            sender.export([payload])
        assert "s3cret" not in str(caught.value)
        assert "hunter2" not in str(caught.value)
        if kind == "302 to a login page":
            assert f"to {proxy.address}/login," in str(caught.value)
        if kind == "307 to another server":
            assert f"to {elsewhere.address}/away," in str(caught.value)
        assert [one for one in proxy.seen if one.path.startswith("/login")] == []
        assert elsewhere.seen == []
        proxy.fault = HEALTHY
        sender.export([payload])
    stored = Client(server).get_trace(trace.mlflow_id)
    assert stored.info.trace_metadata["tenant"] == "acme"
    (one,) = references(root(stored).inputs)
    assert stored_content(server, stored, one["attachment_id"]) == PICTURE


@pytest.mark.parametrize("body", [b"", b"OK", b"[]", b'{"error": "log in first"}', b"\xff\xfe"])
@pytest.mark.parametrize("kind", ["", "text/plain", "application/json"])
def test_a_success_without_mlflows_content_is_transient_and_shows_what_came(body: bytes, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    with answering(200, body, headers, version="3.17.2") as address:
        for experiment in (None, "any"):
            with pytest.raises(TransientExportError, match="this is not an answer of MLflow"):
                exporter_to(address, experiment).export([otlp.encode(record())])


@pytest.mark.parametrize(
    "where", ["", "http://[half", "//", "javascript:alert(1)", "http://h/" + "x" * 9_000]
)
def test_a_redirect_to_nowhere_is_transient_and_short(where: str) -> None:
    headers = {"Location": where} if where else {}
    with answering(307, b"", headers, version="3.17.2") as address:
        with pytest.raises(TransientExportError) as caught:
            exporter_to(address).export([otlp.encode(record())])
    assert len(str(caught.value)) < 1_000


def test_a_setting_of_mlflow_to_follow_redirects_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_HTTP_REDIRECTS", "true")
    with FaultProxy() as elsewhere, answering(302, b"", {"Location": elsewhere.address}, "3.17.2") as address:
        with pytest.raises(TransientExportError, match="redirected"):
            exporter_to(address).export([otlp.encode(record())])
        assert elsewhere.seen == []


class TestArtifactsAtAnAddress:
    """A server may say that artifacts of a trace belong to an address: `--default-artifact-root http://…`."""

    def test_artifacts_at_an_address_of_the_tracking_server_are_stored_through_it(self, server: str) -> None:
        place = f"{server}/api/2.0/mlflow-artifacts/artifacts"
        artifacts.send(Connection(server), place, "addressed/x", b"content")
        with FaultProxy(server) as proxy, FaultProxy() as elsewhere:
            place = f"{proxy.address}/api/2.0/mlflow-artifacts/artifacts"
            proxy.fault = redirects("PUT", 307, f"{elsewhere.address}/x")
            with pytest.raises(TransientExportError, match="redirected"):
                artifacts.send(Connection(proxy.address), place, "addressed/x", b"content")
            assert elsewhere.seen == []

    def test_artifacts_at_an_address_of_another_server_are_not_sent_there(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
        with FaultProxy() as elsewhere:
            with pytest.raises(PermanentExportError, match="another server"):
                artifacts.send(Connection("http://127.0.0.1:9"), f"{elsewhere.address}/1", "x", b"content")
            assert elsewhere.seen == []
