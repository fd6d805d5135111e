"""Records failed model calls in a process that never made HTTP clients of ours: the exception has the facts.

The other tests import `langchain_mlflow_tracer.wire`, which must make no difference here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer.spool.spool import Spool
from tests.encoding.test_otlp import attributes, spans
from tests.support.failing_models import WAYS
from tests.support.operating import environment

ROOT = Path(__file__).resolve().parents[2]

Facts = dict[str, Any]

FACTS = ("azure.", "http.", "error.")
"""How the names of facts of failed calls begin."""

CLIENT = {"azure.deployment": "gpt-4o-prod", "azure.api_version": "2024-10-21"}
HEADERS = {
    "azure.region": "Sweden Central",
    "azure.ratelimit.remaining_requests": 599,
    "azure.ratelimit.remaining_tokens": 100_000,
}
LIMITED = {
    **HEADERS,
    "http.response.status_code": 429,
    "azure.error.code": "RateLimitReached",
    "azure.retry_after_seconds": 3.0,
    "azure.ratelimit.remaining_requests": 0,
    "azure.ratelimit.remaining_tokens": 0,
}
BROKEN = {"http.response.status_code": 500, "azure.error.code": "InternalServerError", **HEADERS}


@pytest.fixture(scope="module")
def traces(emulator: AzureEmulator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Span]]:
    """Return the spans of every case, all recorded in one process."""
    folder = tmp_path_factory.mktemp("failing") / "spool"
    told = {"spool": str(folder), "chat": emulator.chat(), "embeddings": emulator.embeddings()}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.failing_models", json.dumps(told)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "could not record" not in ended.stderr
    spool = Spool(folder, max_bytes=2**40)
    leases = [lease for d in spool.destinations() for lease in spool.lease(d, 1_000, 2**40)]
    spool.close()
    recorded = [spans(lease.payload) for lease in leases]
    return {next(span.name for span in trace if not span.parent_span_id): trace for trace in recorded}


def facts(span: Span) -> Facts:
    """Return what is recorded of a failed call, but the id of its request, which is checked here."""
    found = {key: value for key, value in attributes(span).items() if key.startswith(FACTS)}
    if "http.response.status_code" in found:
        assert len(found.pop("azure.request_id")) == 36
    return found


def root(traces: dict[str, list[Span]], name: str) -> Span:
    (found,) = [span for span in traces[name] if not span.parent_span_id]
    return found


@pytest.mark.parametrize("way", WAYS)
class TestWithoutTheWire:
    def test_without_the_wire_a_refused_prompt_has_its_verdict(
        self, way: str, traces: dict[str, list[Span]]
    ) -> None:
        told = facts(root(traces, f"refused prompt, {way}"))
        inner = json.loads(told.pop("azure.error.innererror"))
        assert inner["code"] == "ResponsibleAIPolicyViolation"
        assert inner["content_filter_result"]["jailbreak"]["filtered"] is True
        assert told == {
            **CLIENT,
            **HEADERS,
            "http.response.status_code": 400,
            "azure.error.code": "content_filter",
            "azure.content_filter.tripped": "jailbreak",
            "azure.content_filter.source": "prompt",
        }

    def test_without_the_wire_a_wrong_key_has_status_and_code(
        self, way: str, traces: dict[str, list[Span]]
    ) -> None:
        told = facts(root(traces, f"401, {way}"))
        assert told == {**CLIENT, **HEADERS, "http.response.status_code": 401, "azure.error.code": "401"}

    def test_without_the_wire_a_rate_limit_has_the_time_to_wait(
        self, way: str, traces: dict[str, list[Span]]
    ) -> None:
        assert facts(root(traces, f"429, {way}")) == {**CLIENT, **LIMITED}

    def test_without_the_wire_a_broken_service_has_status_and_code(
        self, way: str, traces: dict[str, list[Span]]
    ) -> None:
        assert facts(root(traces, f"500, {way}")) == {**CLIENT, **BROKEN}


def test_without_the_wire_no_text_of_an_error_is_recorded_with_metadata_alone(
    traces: dict[str, list[Span]],
) -> None:
    told = facts(root(traces, "only metadata"))
    assert set(json.loads(told["azure.error.innererror"])) == {"code", "content_filter_result"}
    assert told["azure.content_filter.tripped"] == "jailbreak"


def test_without_the_wire_a_failed_request_has_its_number_of_retries(
    traces: dict[str, list[Span]],
) -> None:
    told = facts(root(traces, "sent again"))
    assert (told["http.request.resend_count"], told["http.response.status_code"]) == (2, 429)


@pytest.mark.parametrize(("name", "kind"), [("no connection", ".ConnectError"), ("timeout", ".ReadTimeout")])
def test_without_the_wire_a_request_without_an_answer_has_its_cause(
    name: str, kind: str, traces: dict[str, list[Span]]
) -> None:
    told = facts(root(traces, name))
    assert told.pop("error.type").endswith(kind)
    assert told == CLIENT


def test_without_the_wire_azure_is_recognized_by_its_address(traces: dict[str, list[Span]]) -> None:
    told = facts(root(traces, "a client that is not Azure's"))
    assert told == {**HEADERS, "http.response.status_code": 401}


def test_the_failed_prompt_of_a_batch_has_the_facts_of_azure(traces: dict[str, list[Span]]) -> None:
    models = [span for span in traces["several prompts"] if span.name == "AzureChatOpenAI"]
    assert [facts(span) for span in models] == [{**CLIENT, **BROKEN}, CLIENT]


def test_a_retriever_whose_embeddings_fail_has_the_facts_of_azure(traces: dict[str, list[Span]]) -> None:
    assert facts(root(traces, "retriever")) == {"azure.api_version": "2024-10-21", **LIMITED}


def test_only_the_span_that_raised_has_the_facts_of_azure(traces: dict[str, list[Span]]) -> None:
    having = [span.name for span in traces["whole chain"] if "http.response.status_code" in attributes(span)]
    assert having == ["AzureChatOpenAI"]
    assert [event.name for event in root(traces, "whole chain").events] == []


def test_an_exception_that_cannot_be_read_is_recorded_without_facts(traces: dict[str, list[Span]]) -> None:
    span = root(traces, "an exception that cannot be read")
    assert facts(span) == {}
    assert [event.name for event in span.events] == ["exception"]
    assert span.status.message == "OddError"


def test_a_root_is_linked_to_the_span_around_it_where_nobody_imported_a_propagator(
    traces: dict[str, list[Span]],
) -> None:
    assert len(root(traces, "inside a span of OpenTelemetry").links) == 1
