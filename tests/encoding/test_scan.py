"""A trace is looked through once: what that lets pass is what a search of every text would let pass."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from langchain_mlflow_tracer.core.record import JsonText, SpanEvent, SpanRecord, TraceRecord
from langchain_mlflow_tracer.encoding import attachments, otlp
from langchain_mlflow_tracer.encoding.attachments import detach, may_hold
from langchain_mlflow_tracer.encoding.masking import mask, mask_all
from langchain_mlflow_tracer.encoding.redaction import LONG, TEXTS_KNOWN, Redactor
from langchain_mlflow_tracer.encoding.scan import TraceScan
from tests.encoding.test_redaction import HARMLESS, IN_CONTEXT, ISSUED

PICTURE = "data:image/png;base64," + "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"

# Characters whose lower case is another length, or an ASCII letter, among ordinary ones.
words = st.text(st.sampled_from("aZ 9-_:=/\"'\\\n\u0130\u212a\u03a3\ud800é"), max_size=20)
secrets = st.sampled_from([*ISSUED, *(text for text, _ in IN_CONTEXT)])
texts = st.one_of(
    words,
    st.sampled_from(HARMLESS),
    st.builds("{}{}{}".format, words, secrets, words),
    st.builds("{} {}".format, st.sampled_from(HARMLESS), secrets),
    st.builds(lambda text: text.upper(), secrets),
    st.builds(lambda text: text + " " * LONG, secrets),
)
keys = st.one_of(
    st.sampled_from([
        "content", "prompt_tokens", "token", "api_key", "x-api-key", "clientSecret", "password", "data",
        "base64", "result", "logprob", "Authorization", "connection string", "key",
    ]),
    words,
    secrets,
)  # fmt: skip
values = st.recursive(
    st.one_of(texts, st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.just(PICTURE)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.dictionaries(keys, inner, max_size=3).map(JsonText),
        inner.map(lambda one: [one, one]),  # one object in two places
    ),
    max_leaves=12,
)
mappings = st.dictionaries(keys, values, max_size=3)
spans = st.builds(
    lambda name, message, inputs, outputs, attributes, event: SpanRecord(
        b"s" * 8, None, name, "CHAIN", 1, 2, status_message=message, inputs=inputs, outputs=outputs,
        attributes=attributes, events=[SpanEvent(name, 1, event)],
    ),
    texts, texts, values, values, mappings, mappings,
)  # fmt: skip
traces = st.builds(
    lambda name, session, tags, spans: TraceRecord(
        b"t" * 16, name, session_id=session, user_id=session, tags=tags, metadata=dict(tags), spans=spans
    ),
    texts, st.none() | texts, st.dictionaries(keys, texts, max_size=2),
    st.lists(spans, min_size=1, max_size=3),
)  # fmt: skip


def searched(trace: TraceRecord) -> bytes:
    """Encode a trace of which every text was searched for every kind of secret."""
    mask_all(trace, Redactor())
    return otlp.encode(trace)


@given(traces)
def test_masking_with_a_scan_gives_the_same_bytes_as_searching_every_text(trace: TraceRecord) -> None:
    expected = searched(copy.deepcopy(trace))

    assert otlp.encode(mask(trace, Redactor())) == expected


@given(traces)
def test_a_redactor_masks_every_secret_after_a_harmless_trace(trace: TraceRecord) -> None:
    redactor = Redactor()
    expected = searched(copy.deepcopy(trace))
    mask(TraceRecord(b"o" * 16, "harmless"), redactor)

    assert otlp.encode(mask(trace, redactor)) == expected
    assert redactor.text(ISSUED[0]) != ISSUED[0]


@given(st.lists(traces, min_size=2, max_size=4))
def test_the_texts_of_earlier_traces_do_not_change_the_masking_of_later_traces(
    many: list[TraceRecord],
) -> None:
    redactor = Redactor()
    expected = [searched(copy.deepcopy(trace)) for trace in many]

    assert [otlp.encode(mask(trace, redactor)) for trace in many] == expected


def test_a_redactor_remembers_a_bounded_number_of_clean_texts() -> None:
    redactor = Redactor()
    for number in range(3 * TEXTS_KNOWN):
        assert not redactor.looks_for(TraceScan.of([f"harmless {number}", "x" * LONG]))

    assert not redactor.looks_for(TraceScan.of([[f"more {number}" for number in range(3 * TEXTS_KNOWN)]]))
    assert len(redactor._clean) <= TEXTS_KNOWN
    assert redactor.looks_for(TraceScan.of(["harmless 1", ISSUED[0]]))


@given(traces)
def test_detaching_does_not_change_a_trace_whose_scan_finds_no_attachment(trace: TraceRecord) -> None:
    if not may_hold(TraceScan.of(trace.texts())):
        before = otlp.encode(copy.deepcopy(trace))
        assert detach(trace) == []
        assert otlp.encode(trace) == before


def test_a_scan_detects_pictures_in_values_and_ignores_ordinary_text() -> None:
    def holds(value: Any) -> bool:
        return attachments.may_hold(TraceScan.of([value]))

    assert holds([{"deep": [PICTURE]}])
    assert holds({"type": "image", "base64": "AAAA"})
    assert holds("x" * 2_000 + PICTURE)
    assert not holds({"content": "data: none", "more": ["x" * 2_000, 5, None]})
