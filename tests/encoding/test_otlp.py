"""Encodes traces and reads the bytes back as any OTLP receiver would."""

from __future__ import annotations

import json
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from langchain_mlflow_tracer.core.json_text import json_bytes
from langchain_mlflow_tracer.core.record import JsonText, Outcome, SpanEvent, SpanRecord, Status, TraceRecord
from langchain_mlflow_tracer.encoding.otlp import encode


def trace(**facts: Any) -> TraceRecord:
    root = SpanRecord(b"rootroot", None, "root", "CHAIN", 10, 30, Status.OK, outcome=Outcome.COMPLETED)
    child = SpanRecord(b"childchi", b"rootroot", "child", "TOOL", 20, 15)
    for name, value in facts.items():
        setattr(root, name, value)
    return TraceRecord(b"0123456789abcdef", "name", spans=[root, child])


def spans(payload: bytes) -> list[Span]:
    request = ExportTraceServiceRequest.FromString(payload)
    return [span for one in request.resource_spans for scope in one.scope_spans for span in scope.spans]


def attributes(span: Span | Span.Event) -> dict[str, Any]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes}


def test_an_encoded_trace_keeps_its_ids_names_times_and_states() -> None:
    root, child = spans(encode(trace()))
    assert (root.trace_id, root.span_id, root.parent_span_id) == (b"0123456789abcdef", b"rootroot", b"")
    assert (child.trace_id, child.parent_span_id) == (b"0123456789abcdef", b"rootroot")
    assert (root.name, root.start_time_unix_nano, root.end_time_unix_nano) == ("root", 10, 30)
    assert (root.status.code, child.status.code) == (1, 0)
    assert child.end_time_unix_nano == child.start_time_unix_nano


def test_two_concatenated_encoded_traces_are_one_valid_request() -> None:
    other = trace(name="other")
    other.trace_id = b"fedcba9876543210"
    assert [span.name for span in spans(encode(trace()) + encode(other))] == [
        "root",
        "child",
        "other",
        "child",
    ]


def test_simple_attributes_keep_their_types_and_structures_become_json_text() -> None:
    values = {"yes": True, "count": 3, "share": 0.5, "text": "日本", "list": [1, "a"], "dict": {"b": None}}
    found = attributes(spans(encode(trace(attributes=values, inputs={"q": "日本"}, outputs="text")))[0])
    assert found["yes"] is True
    assert (found["count"], found["share"], found["text"]) == (3, 0.5, "日本")
    assert (found["list"], found["dict"]) == ('[1,"a"]', '{"b":null}')
    assert (found["mlflow.spanInputs"], found["mlflow.spanOutputs"]) == ('{"q":"日本"}', "text")
    assert found["mlflow.spanType"] == "CHAIN"


def test_values_that_otlp_or_utf8_cannot_hold_are_written_as_text() -> None:
    values = {
        "lone": "\ud800",
        "big": 2**70,
        "in": [{"\ud800": "\ud800", "n": 2**70, "j": JsonText(k="\ud800")}],
    }
    found = attributes(spans(encode(trace(attributes=values, name="\ud800")))[0])
    assert (found["lone"], found["big"]) == ("\\ud800", str(2**70))
    (inside,) = json.loads(found["in"])
    assert inside == {"\\ud800": "\\ud800", "n": str(2**70), "j": '{"k":"\\\\ud800"}'}


def test_tool_arguments_are_encoded_as_json_text_inside_json() -> None:
    assert json.loads(json_bytes({"arguments": JsonText(city="Rome", days=[1])})) == {
        "arguments": '{"city":"Rome","days":[1]}'
    }
    assert json_bytes({"other": object}) == b'{"other":"<class \'object\'>"}'


def test_the_root_span_has_the_attributes_of_the_trace_cut_to_the_limits_of_mlflow() -> None:
    whole = trace()
    whole.tags, whole.metadata = {"k" * 300: "v" * 5_000}, {"tenant": "acme"}
    whole.session_id, whole.user_id = "s" * 300, "ada"
    root, child = (attributes(span) for span in spans(encode(whole)))
    assert root["mlflow.traceTag.mlflow.traceName"] == "name"
    assert root["mlflow.traceTag.lc.outcome"] == "completed"
    assert root["mlflow.traceTag." + "k" * 250] == "v" * 4_096
    assert (root["session.id"], root["user.id"], root["metadata.tenant"]) == ("s" * 250, "ada", "acme")
    assert child == {"mlflow.spanType": "TOOL"}


def test_a_span_has_an_outcome_attribute_only_if_the_run_did_not_complete() -> None:
    assert attributes(spans(encode(trace(outcome=Outcome.CANCELLED)))[0])["lc.outcome"] == "cancelled"
    assert "lc.outcome" not in attributes(spans(encode(trace()))[0])
    assert "mlflow.traceTag.lc.outcome" not in attributes(spans(encode(trace(outcome=None)))[0])


def test_an_event_keeps_its_name_time_and_attributes_and_an_open_span_has_no_end_time() -> None:
    (root, _) = spans(encode(trace(events=[SpanEvent("exception", 7, {"type": "E"})], end_ns=None)))
    (event,) = root.events
    assert (event.name, event.time_unix_nano, attributes(event)) == ("exception", 7, {"type": "E"})
    assert root.end_time_unix_nano == 0


def test_an_integer_of_thousands_of_digits_is_written_in_hexadecimal() -> None:
    huge = 1 << 20_000
    values = {"huge": huge, "in": [huge], "minus": -huge}
    found = attributes(spans(encode(trace(attributes=values)))[0])
    assert found["huge"] == hex(huge)
    assert found["minus"] == hex(-huge)
    assert json.loads(found["in"]) == [hex(huge)]


def test_the_length_limits_of_mlflow_apply_after_escaping() -> None:
    whole = trace()
    whole.tags = {"\ud800" * 250: "\ud800" * 4_096}
    whole.session_id = whole.user_id = "\ud800" * 250
    whole.name = "n" * 5_000
    found = attributes(spans(encode(whole))[0])
    tags = {key: value for key, value in found.items() if key.startswith("mlflow.traceTag.")}
    assert max(len(key) for key in tags) == len("mlflow.traceTag.") + 250
    assert max(len(value) for value in tags.values()) == 4_096
    assert tags["mlflow.traceTag.mlflow.traceName"] == "n" * 4_096
    assert len(found["session.id"]) == len(found["user.id"]) == 250


def test_json_text_inside_json_text_is_escaped_once_more() -> None:
    encoded = json.loads(json_bytes([JsonText(inner=JsonText(city="Rome"))]))
    assert json.loads(json.loads(encoded[0])["inner"]) == {"city": "Rome"}


def test_non_ascii_characters_are_not_escaped() -> None:
    assert json_bytes({"日本": "é😀"}).decode() == '{"日本":"é😀"}'
    assert attributes(spans(encode(trace(attributes={"日本": "é😀"})))[0])["日本"] == "é😀"


def test_integers_of_64_bits_are_numbers_and_larger_integers_are_text() -> None:
    values = {"most": 2**63 - 1, "least": -(2**63), "more": 2**63, "less": -(2**63) - 1}
    found = attributes(spans(encode(trace(attributes=values)))[0])
    assert found == {
        "mlflow.spanType": "CHAIN", "most": 2**63 - 1, "least": -(2**63), "more": str(2**63),
        "less": str(-(2**63) - 1), "mlflow.traceTag.lc.outcome": "completed",
        "mlflow.traceTag.mlflow.traceName": "name",
    }  # fmt: skip
