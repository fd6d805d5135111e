"""Parents and numbers of the attempts of fallbacks, with plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import pytest

from langchain_mlflow_tracer.core.attributes import REQUEST_MODEL
from langchain_mlflow_tracer.core.record import SpanRecord, TraceRecord
from langchain_mlflow_tracer.recording import fallbacks
from langchain_mlflow_tracer.recording.fallbacks import FALLBACKS, NUMBER, Fallbacks

CHAIN, ATTEMPTS = 1, 2
"""Ids of runs: a chain, and the run of `with_fallbacks` below it."""

NODE: Mapping[str, object] = {"langgraph_node": "model"}


def span(number: int, parent: int | None, name: str, span_type: str = "CHAIN", model: str = "") -> SpanRecord:
    parent_id = None if parent is None else parent.to_bytes(8)
    return SpanRecord(
        number.to_bytes(8), parent_id, name, span_type, 0, attributes={REQUEST_MODEL: model} if model else {}
    )


def made(name: str = "", failed: Sequence[SpanRecord] = (), attempts: str = FALLBACKS) -> Fallbacks:
    """Return the fallbacks of a tracer with two open runs; below a run called `name` others have failed."""
    runs = {CHAIN: span(CHAIN, None, "chain"), ATTEMPTS: span(ATTEMPTS, CHAIN, attempts)}

    def find(run_id: int) -> tuple[SpanRecord, TraceRecord] | None:
        return (runs[run_id], TraceRecord(b"t" * 16)) if run_id in runs else None

    return Fallbacks(find, lambda _: (name, failed))


def named(monkeypatch: pytest.MonkeyPatch, run_id: int | None) -> None:
    """Make LangChain's context name this run as the parent."""
    monkeypatch.setattr(fallbacks, "named_parent", lambda: None if run_id is None else UUID(int=run_id))


@pytest.mark.parametrize(
    ("named_id", "reported", "attempts", "expected"),
    [
        pytest.param(ATTEMPTS, CHAIN, FALLBACKS, ATTEMPTS, id="the context names the run of with_fallbacks"),
        pytest.param(ATTEMPTS, CHAIN, "other", CHAIN, id="the context names a run of another kind"),
        pytest.param(ATTEMPTS, 3, FALLBACKS, 3, id="the reported parent is not the parent of that run"),
        pytest.param(ATTEMPTS, None, FALLBACKS, None, id="no parent is reported"),
        pytest.param(4, CHAIN, FALLBACKS, CHAIN, id="the context names an unknown run"),
        pytest.param(None, CHAIN, FALLBACKS, CHAIN, id="the context names no run"),
    ],
)
def test_an_attempt_has_the_run_of_with_fallbacks_as_parent_only_if_langchain_skipped_that_run(
    monkeypatch: pytest.MonkeyPatch,
    named_id: int | None,
    reported: int | None,
    attempts: str,
    expected: int | None,
) -> None:
    named(monkeypatch, named_id)
    assert made(attempts=attempts).parent(reported) == expected


def test_the_number_of_an_attempt_is_the_number_of_earlier_failed_attempts() -> None:
    failed = [span(3, ATTEMPTS, "a"), span(4, ATTEMPTS, "b")]
    attempt = span(5, ATTEMPTS, "c")
    made(FALLBACKS, failed).number(attempt, ATTEMPTS)
    assert attempt.attributes == {NUMBER: 2}


@pytest.mark.parametrize(
    ("name", "failed", "parent"),
    [
        pytest.param(FALLBACKS, [], ATTEMPTS, id="the first attempt"),
        pytest.param("chain", [span(3, CHAIN, "a")], CHAIN, id="a run after a failed one of a usual chain"),
        pytest.param(FALLBACKS, [span(3, ATTEMPTS, "a")], None, id="a root"),
    ],
)
def test_a_run_that_is_no_fallback_is_not_numbered(
    name: str, failed: list[SpanRecord], parent: int | None
) -> None:
    run = span(5, parent, "c")
    made(name, failed).number(run, parent)
    assert NUMBER not in run.attributes


def test_a_fallback_model_in_a_node_is_numbered_by_the_models_that_failed_there() -> None:
    failed = [
        span(3, CHAIN, "model", "CHAT_MODEL", "gpt-a"),
        span(4, CHAIN, "model", "CHAT_MODEL", "gpt-a"),
        span(5, CHAIN, "tool", "TOOL"),
    ]
    model = span(6, CHAIN, "model", "CHAT_MODEL", "gpt-b")
    made("model", failed).number_model(model, CHAIN, NODE)
    assert model.attributes[NUMBER] == 1


@pytest.mark.parametrize(
    ("name", "model", "failed"),
    [
        pytest.param(
            "model", "gpt-a", [span(3, CHAIN, "m", "CHAT_MODEL", "gpt-a")], id="the same model again"
        ),
        pytest.param(
            "other", "gpt-b", [span(3, CHAIN, "m", "CHAT_MODEL", "gpt-a")], id="outside of the node"
        ),
        pytest.param("model", "gpt-b", [span(3, CHAIN, "t", "TOOL")], id="after a failed tool"),
        pytest.param("model", "gpt-b", [], id="after no failure"),
    ],
)
def test_a_model_in_a_node_that_is_no_fallback_is_not_numbered(
    name: str, model: str, failed: list[SpanRecord]
) -> None:
    call = span(6, CHAIN, "model", "CHAT_MODEL", model)
    made(name, failed).number_model(call, CHAIN, NODE)
    assert NUMBER not in call.attributes
