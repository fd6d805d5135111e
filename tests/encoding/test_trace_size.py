"""Counts long texts that spans share."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import HumanMessage
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_mlflow_tracer.core.record import SpanRecord, TraceRecord
from langchain_mlflow_tracer.encoding.trace_size import LARGE, LOOKED_AT, count_once
from langchain_mlflow_tracer.recording.content.freeze import Freezer
from tests.conftest import MakeTracer
from tests.support.faults import refusing
from tests.support.pictures import as_data_uri, picture


def traced(*values: object) -> TraceRecord:
    """Return a trace with a span for each value, counted as the handler does."""
    trace = TraceRecord(b"0" * 16)
    for value in values:
        copy = Freezer()
        span = SpanRecord(b"s" * 8, None, "span", "CHAIN", 1, inputs=copy(value))
        span.size = copy.size
        trace.spans.append(span)
    return trace


def test_a_long_text_that_several_spans_share_counts_once_in_the_trace_size() -> None:
    text = "x" * LARGE
    trace = traced(text, {"messages": [{"content": text}]}, [text, text])
    assert trace.size > 4 * LARGE
    count_once(trace)
    assert LARGE < trace.size < 1.1 * LARGE


def test_long_texts_that_are_different_each_count_in_the_trace_size() -> None:
    trace = traced("x" * LARGE, "y" * LARGE)
    before = trace.size
    count_once(trace)
    assert trace.size == before


def test_a_shared_text_beside_a_structure_that_is_too_large_to_search_counts_once() -> None:
    text, large = "x" * LARGE, ["a"] * 2 * LOOKED_AT
    trace = traced([large, text, large], [large, text, large])
    before = trace.size
    count_once(trace)
    assert trace.size == before - LARGE


def test_a_shared_text_counts_in_every_span_when_a_trace_has_too_many_structures_to_search() -> None:
    text, many = "x" * LARGE, [["a"] * 100] * 2 * (LOOKED_AT // 100)
    trace = traced([text, many], [text, many])
    before = trace.size
    count_once(trace)
    assert trace.size == before


def test_a_burst_of_traces_is_not_dropped_when_its_pictures_fit_in_the_queue_once(
    make_tracer: MakeTracer,
) -> None:
    steps: Runnable[Any, Any] = RunnableLambda(lambda value: value)
    for _ in range(5):
        steps |= RunnableLambda(lambda value: value)
    pictures = [as_data_uri(picture(300, seed)) for seed in range(8)]
    asked = [[HumanMessage([{"type": "image_url", "image_url": {"url": one}}])] for one in pictures]
    room = sum(len(one) for one in pictures) + 1024 * 1024
    with refusing() as address:
        tracer = make_tracer(address, queue_max_bytes=room)
        steps.batch(asked, {"callbacks": [tracer], "max_concurrency": 8})
        tracer.flush(timeout=1)
        assert tracer.stats()["dropped"] == {}
        assert tracer.stats()["spooled"] == 8
