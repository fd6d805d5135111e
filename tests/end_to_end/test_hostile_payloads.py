"""Runs chains on the twelve payloads that break tracers, and reads their traces from a real store."""

from __future__ import annotations

import math
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel, computed_field

from langchain_mlflow_tracer.delivery import suspects
from tests.conftest import MakeTracer
from tests.support.stored import Client, experiment_id, root, stored_trace


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("not today")


class WithComputedField(BaseModel):
    name: str = "kept"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        raise RuntimeError("not today")


class WithProperty:
    name = "kept"

    @property
    def total(self) -> int:
        raise RuntimeError("not today")


def circular() -> dict[str, Any]:
    value: dict[str, Any] = {"name": "kept"}
    value["itself"] = value
    return value


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


PAYLOADS: dict[str, Any] = {
    "circular dict": circular(),
    "object whose repr raises": Unprintable(),
    "object whose repr raises in a dict": {"name": "kept", "value": Unprintable()},
    "lone surrogate": "\ud800 kept",
    "lone surrogate in a dict": {"name": "kept", "value": "\ud800"},
    "NaN and infinities": {"name": "kept", "value": [math.nan, math.inf, -math.inf]},
    "bytes": b"\x00\xff",
    "10 MB": "x" * 10_000_000,
    "non-string keys": {1: "one", (2, 3): "pair", None: "none", "name": "kept"},
    "nested 1,000 deep": {"name": "kept", "value": nested(1_000)},
    "computed field that raises": WithComputedField(),
    "property that raises": WithProperty(),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_hostile_payload_passes_the_chain_unharmed_and_its_trace_arrives(
    name: str, make_tracer: MakeTracer, store_uri: str
) -> None:
    payload = PAYLOADS[name]
    chain = RunnableLambda(lambda value: value).with_config(run_name="inner") | (lambda value: value)
    tracer = make_tracer(store_uri)
    assert chain.invoke(payload, {"callbacks": [tracer]}) is payload
    trace = stored_trace(store_uri, tracer)
    assert len(trace.data.spans) == 3
    for side in (root(trace).inputs, root(trace).outputs):
        assert side is not None
        assert "kept" in str(side) or name in {
            "object whose repr raises", "bytes", "10 MB", "property that raises",
        }  # fmt: skip
    assert "hook_failed" not in tracer.stats()["problems"]


def test_a_payload_of_ten_megabytes_arrives_whole(make_tracer: MakeTracer, store_uri: str) -> None:
    tracer = make_tracer(store_uri)
    RunnableLambda(len).invoke(PAYLOADS["10 MB"], {"callbacks": [tracer]})
    assert root(stored_trace(store_uri, tracer)).inputs == PAYLOADS["10 MB"]


def test_a_value_that_json_cannot_hold_is_written_as_text(make_tracer: MakeTracer, store_uri: str) -> None:
    tracer = make_tracer(store_uri)
    RunnableLambda(lambda value: value).invoke(
        {**PAYLOADS["NaN and infinities"], "big": 2**70, "lone": "\ud800", 7: "seven"},
        {"callbacks": [tracer]},
    )
    assert root(stored_trace(store_uri, tracer)).inputs == {
        "name": "kept", "value": ["nan", "inf", "-inf"], "big": str(2**70), "lone": "\\ud800", "7": "seven",
    }  # fmt: skip


@pytest.mark.parametrize("odd", [["x"], {"a": 1}, 5, None])
def test_types_and_roles_that_are_no_texts_cost_neither_the_span_nor_the_trace(
    odd: object, make_tracer: MakeTracer, store_uri: str
) -> None:
    picture = "data:image/png;base64," + "iVBORw0KGgo" * 20
    blocks: Any = [{"type": odd, "text": "x", "url": "y"}, {"type": "text", "text": "said"}]
    given = {
        "messages": [{"role": odd, "type": odd, "content": "beside"}],
        "blocks": [{"type": odd, "data": "A" * 64, "image_url": {"url": picture}}],
        "spoken": [HumanMessage(blocks), AIMessage(blocks)],
    }
    tracer = make_tracer(store_uri)
    RunnableLambda[Any, Any](len).invoke(given, {"callbacks": [tracer]})
    inputs = root(stored_trace(store_uri, tracer)).inputs
    assert inputs["messages"][0]["content"] == "beside"
    assert "said" in str(inputs["spoken"])
    assert "mlflow-attachment://" in str(inputs["blocks"])
    assert "hook_failed" not in tracer.stats()["problems"]


TEXTS = {
    "5,000 digits": "9" * 5_000,
    "5,000 digits in a list": "[" + "9" * 5_000 + "]",
    "995 brackets": "[" * 995,
    "50,000 keys": '{"a":' * 50_000,
    "lone surrogate as JSON": '"\\ud800"',
}


@pytest.mark.timeout(150)
@pytest.mark.parametrize("kind", ["embedded", "server"])
@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_mlflow_cannot_read_as_json_stops_no_other_trace(
    name: str,
    kind: str,
    make_tracer: MakeTracer,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suspects, "GUILTY_WAIT", 0.2)
    uri = request.getfixturevalue("store_uri" if kind == "embedded" else "server")
    experiment = f"{kind} {name}"
    tracer = make_tracer(uri, experiment)
    chain = RunnableLambda[str, str](lambda text: text)
    for text in ("before", TEXTS[name], "behind", "behind that"):
        chain.invoke(text, {"callbacks": [tracer]})
    tracer.flush(timeout=60)  # it says whether all are stored, and one may not be
    assert tracer.stats()["waiting"] == 0
    found = Client(uri).search_traces(locations=[experiment_id(uri, experiment)])
    dead = tracer.stats()["dead_letters"]
    told = {str(root(one).inputs) for one in found if len(str(root(one).inputs)) < 20}
    assert {"before", "behind", "behind that"} <= told
    assert len(found) + dead == 4
