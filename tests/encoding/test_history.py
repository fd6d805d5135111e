"""Tells conversations once, and puts them together again from what a real MLflow store has kept of them."""

from __future__ import annotations

import json
import logging
import sqlite3
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI
from mlflow.entities import Span, Trace

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer import http_clients, whole_messages
from langchain_mlflow_tracer.core.json_text import json_bytes
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import SpanRecord, TraceRecord
from langchain_mlflow_tracer.encoding import history
from langchain_mlflow_tracer.encoding.encoder import Encoder
from langchain_mlflow_tracer.encoding.history import EARLIER, KEPT, shorten
from tests.conftest import MakeTracer
from tests.support.stored import attribute, named, root, stored_trace

ROUNDS = 40

STORED_BYTES_OF_FORTY_ROUNDS = 450_000
"""What a trace of an agent with forty rounds may take in MLflow; told in full it takes four times as much."""

STORED_BYTES_OF_A_STREAM = 6_000

LONG = "A long answer. " * 100
"""Beside a few of these, repetition is more than is let pass."""


@tool
def look_up(topic: str) -> str:
    """Look a topic up."""
    return f"On {topic}: " + "a tool's answer has some length, as those of real tools have. " * 4


@tool
def calculate(formula: str) -> str:
    """Calculate something."""
    return f"{formula} = " + ", ".join(map(str, range(90)))


def models(trace: Trace) -> list[Span]:
    """Return the model spans of a trace, in their order."""
    found = [span for span in trace.data.spans if span.span_type == "CHAT_MODEL"]
    return sorted(found, key=lambda span: span.start_time_ns)


def stored_bytes(uri: str, trace: Trace) -> int:
    """Return the bytes that the spans of a trace take in the database."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        rows = database.execute("SELECT content FROM spans WHERE trace_id = ?", (trace.info.trace_id,))
        return sum(len(content.encode()) for (content,) in rows)


def bare(messages: Any) -> list[tuple[str, str, list[str]]]:
    """Return what messages say, whatever else they have: as sent to Azure, and as stored."""
    return [
        (one["role"], one["content"] or "", [call["id"] for call in one.get("tool_calls") or ()])
        for one in messages
    ]


class TestAgentOfFortyRounds:
    @pytest.fixture
    def trace(
        self,
        model: AzureChatOpenAI,
        emulator: AzureEmulator,
        store_uri: str,
        make_tracer: MakeTracer,
    ) -> Trace:
        """Run it, and return its trace."""
        tracer = make_tracer(store_uri)
        agent = create_agent(model, [look_up, calculate], system_prompt="You look things up.")
        question: Any = {"messages": [("user", f"[[loop {ROUNDS}]] Find out.")]}
        config: Any = {"callbacks": [tracer], "recursion_limit": 500, "metadata": {"tenant": "acme"}}
        agent.invoke(question, config)
        return stored_trace(store_uri, tracer)

    def test_an_agent_trace_of_forty_rounds_is_stored_within_its_size_limit(
        self, trace: Trace, store_uri: str
    ) -> None:
        assert len(json.dumps(root(trace).outputs["messages"])) > 24_000  # what there is to tell
        assert stored_bytes(store_uri, trace) <= STORED_BYTES_OF_FORTY_ROUNDS

    def test_the_full_messages_of_each_model_call_can_be_restored(
        self, trace: Trace, emulator: AzureEmulator
    ) -> None:
        calls = models(trace)
        sent = [request.messages for request in emulator.requests[-len(calls) :]]
        assert len(calls) == ROUNDS + 1
        assert [bare(whole_messages(trace, span)) for span in calls] == [bare(one) for one in sent]
        assert len(calls[-1].inputs["messages"]) < 10

    def test_a_shortened_span_names_the_span_with_the_earlier_messages(self, trace: Trace) -> None:
        last = models(trace)[-1]
        (stands_for,) = [message for message in last.inputs["messages"] if EARLIER in message]
        told_in = {span.span_id for span in trace.data.spans}
        assert stands_for[EARLIER]["span_id"] in told_in
        assert stands_for["role"] == "system"  # or MLflow shows no chat
        assert stands_for[EARLIER]["span_id"] in stands_for["content"]

    def test_the_root_span_of_a_long_agent_run_has_the_whole_conversation(self, trace: Trace) -> None:
        messages = root(trace).outputs["messages"]
        assert len(messages) == 2 + 2 * ROUNDS
        assert not any(EARLIER in message for message in messages)

    def test_the_tools_of_an_agent_are_stored_in_the_first_model_span_only(self, trace: Trace) -> None:
        first, *others = models(trace)
        assert len(attribute(first, "mlflow.chat.tools")) == 2
        assert {attribute(span, "lc.tools.in_span") for span in others} == {first.span_id}
        assert not any(attribute(span, "mlflow.chat.tools") for span in others)

    def test_the_metadata_of_the_config_is_stored_in_one_span_only(self, trace: Trace) -> None:
        assert trace.info.trace_metadata["tenant"] == "acme"
        assert sum("acme" in json.dumps(span.to_dict()) for span in trace.data.spans) == 1


class TestShortTrace:
    def test_an_agent_trace_of_a_few_rounds_is_not_shortened(
        self, model: AzureChatOpenAI, store_uri: str, make_tracer: MakeTracer
    ) -> None:
        tracer = make_tracer(store_uri)
        question: Any = {"messages": [("user", "[[loop 2]] Find out.")]}
        create_agent(model, [look_up, calculate]).invoke(question, {"callbacks": [tracer]})
        trace = stored_trace(store_uri, tracer)
        assert [len(span.inputs["messages"]) for span in models(trace)] == [1, 3, 5]
        assert "earlier_messages" not in json.dumps(trace.to_dict())

    def test_a_stream_of_a_hundred_tokens_is_stored_within_its_size_limit(
        self, emulator: AzureEmulator, store_uri: str, make_tracer: MakeTracer
    ) -> None:
        tracer = make_tracer(store_uri)
        observed = AzureChatOpenAI(**emulator.chat(), **http_clients(), stream_usage=True)
        chain = ChatPromptTemplate.from_template("{q}") | observed | StrOutputParser()
        assert len(list(chain.stream({"q": "[[tokens 100]]"}, {"callbacks": [tracer]}))) >= 100
        trace = stored_trace(store_uri, tracer)
        assert stored_bytes(store_uri, trace) <= STORED_BYTES_OF_A_STREAM
        span = named(trace, "AzureChatOpenAI")
        assert attribute(span, "lc.stream.chunks") >= 100
        assert 0 < attribute(span, "gen_ai.response.time_to_first_chunk") < 60
        assert not span.events


def test_history_full_stores_the_complete_input_of_every_node_and_model(
    model: AzureChatOpenAI, store_uri: str, make_tracer: MakeTracer
) -> None:
    tracer = make_tracer(store_uri, history="full")
    question: Any = {"messages": [("user", "[[loop 12]] Find out.")]}
    create_agent(model, [look_up, calculate]).invoke(
        question, {"callbacks": [tracer], "recursion_limit": 100}
    )
    trace = stored_trace(store_uri, tracer)
    assert [len(span.inputs["messages"]) for span in models(trace)] == list(range(1, 26, 2))
    nodes = [span for span in trace.data.spans if span.name == "model"]
    assert sorted(len(span.inputs["messages"]) for span in nodes) == list(range(1, 26, 2))
    assert all(attribute(span, "mlflow.chat.tools") for span in models(trace))
    assert all(whole_messages(trace, span) == span.inputs["messages"] for span in models(trace))


def test_the_history_is_shortened_although_the_system_message_changes_in_every_call(
    store_uri: str, make_tracer: MakeTracer
) -> None:
    tracer = make_tracer(store_uri)
    answers = [AIMessage(f"{number}. {LONG}") for number in range(12)]
    talker = FakeMessagesListChatModel(responses=list(answers))

    def talk(_: object) -> str:
        said: list[Any] = []
        for number in range(12):
            said.append(HumanMessage(f"Question {number}?"))
            said.append(talker.invoke([SystemMessage(f"It is {number} o'clock."), *said]))
        return "done"

    RunnableLambda(talk).invoke("", {"callbacks": [tracer]})
    trace = stored_trace(store_uri, tracer)
    last = models(trace)[-1]
    assert [message["role"] for message in last.inputs["messages"]] == ["system", "system", "user"]
    assert last.inputs["messages"][0]["content"] == "It is 11 o'clock."
    whole = whole_messages(trace, last)
    assert [message["content"] for message in whole[1:-1:2]] == [f"Question {n}?" for n in range(11)]
    assert [message["content"] for message in whole[2:-1:2]] == [str(one.content) for one in answers[:11]]


def user(text: str) -> dict[str, object]:
    """Return a message of the user's, of a length that counts."""
    return {"role": "user", "content": f"{text} {LONG * 4}"}


def trace_of(*conversations: object) -> TraceRecord:
    """Return a trace whose root has a child for each of these inputs."""
    root_span = SpanRecord(b"\0" * 8, None, "root", "CHAIN", 0, 100)
    children = [
        SpanRecord(bytes([at]) * 8, root_span.span_id, f"step {at}", "CHAIN", at, at, inputs=inputs)
        for at, inputs in enumerate(conversations, 1)
    ]
    return TraceRecord(b"\1" * 16, spans=[root_span, *children])


def test_conversations_with_a_common_beginning_share_only_that_beginning() -> None:
    a, b, c, d = map(user, "abcd")
    trace = shorten(trace_of({"messages": [a, b, c]}, {"messages": [a, b, d]}, {"messages": [b, c, d]}))
    _, first, second, third = (span.inputs for span in trace.spans)
    assert first == {"messages": [a, b, c]}
    assert isinstance(second, dict)
    earlier = second["messages"][0][EARLIER]
    assert earlier == {"span_id": "01" * 8, "path": "inputs.messages", "first": 0, "count": 2}
    note = '[2 earlier messages omitted: see the inputs of span "step 1" (0101010101010101)]'
    assert (second["messages"][0]["role"], second["messages"][0]["content"]) == ("system", note)
    assert second["messages"][1:] == [d]
    assert third == {"messages": [b, c, d]}


MESSAGES = [
    *map(user, "abc"),
    user("a"),
    {"role": "system", "content": "Be brief."},
    {**user("b"), "seen": True},
    {**user("b"), "seen": 1},
    {"role": "nobody's", "content": LONG},
]
"""Of some there are equals that are not the same, and of one such as Python takes for equal; one is none."""


@st.composite
def grown(draw: st.DrawFn) -> list[list[Any]]:
    """Return lists of which most begin as an earlier one did."""
    lists: list[list[Any]] = [[]]
    for _ in range(draw(st.integers(2, 8))):
        before = draw(st.sampled_from(lists))
        kept = draw(st.integers(0, len(before)))
        lists.append([*before[:kept], *draw(st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=3))])
    return lists[1:]


@given(grown())
def test_shortened_conversations_are_restored_exactly(lists: list[list[Any]]) -> None:
    expected = [json_bytes(one) for one in lists]
    trace = shorten(trace_of(*({"messages": one} for one in lists)))
    stored: Any = SimpleNamespace(
        data=SimpleNamespace(spans=[
            SimpleNamespace(span_id=span.span_id.hex(), span_type="CHAIN", inputs=span.inputs, outputs=None)
            for span in trace.spans
        ])
    )  # fmt: skip
    whole = [json_bytes(whole_messages(stored, span)) for span in stored.data.spans[1:]]
    assert whole == expected


def alike(one: list[bytes], other: list[bytes]) -> int:
    """Return with how many items two lists begin alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


@given(grown())
def test_a_long_beginning_shared_with_an_earlier_conversation_is_omitted_completely(
    lists: list[list[Any]],
) -> None:
    conversations = [one for one in lists if all(message["role"] == "user" for message in one)]
    texts = [[json_bytes(message) for message in one] for one in conversations]
    trace = shorten(trace_of(*({"messages": one} for one in conversations)))
    for at, (span, told) in enumerate(zip(trace.spans[1:], texts, strict=True)):
        begun = max((alike(told[:-1], other) for other in texts[:at]), default=0)
        counts = begun if sum(map(len, told[:begun])) > KEPT else 0
        assert isinstance(span.inputs, dict)
        first = span.inputs["messages"][0]
        assert first.get(EARLIER, {"count": 0})["count"] == counts


def test_each_message_of_a_growing_conversation_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[object] = []

    def write(value: object) -> bytes:
        written.append(value)
        return json_bytes(value)

    monkeypatch.setattr(history, "json_bytes", write)
    messages = [user(str(number)) for number in range(100)]
    shorten(trace_of(*({"messages": messages[:count]} for count in range(1, 101))))
    assert written == messages


def test_only_a_long_trace_is_shortened() -> None:
    a, b = map(user, "ab")
    encoder = Encoder(False, Log(logging.getLogger(__name__)), shortens=True)

    def encoded(size: int) -> bytes:
        trace = trace_of({"messages": [a, b]}, {"messages": [a, b, a]})
        trace.spans[1].size = size
        return encoder.encode(trace)

    assert EARLIER.encode() not in encoded(0)
    assert EARLIER.encode() in encoded(history.LONG)


def test_shortening_a_trace_copies_the_inputs_and_does_not_change_the_original_objects() -> None:
    a, b = map(user, "ab")
    inputs = {"messages": [a, b, a], "beside": 1}
    trace = shorten(trace_of({"messages": [a, b]}, inputs))
    assert inputs == {"messages": [a, b, a], "beside": 1}
    changed = trace.spans[2].inputs
    assert isinstance(changed, dict)
    assert (len(changed["messages"]), changed["beside"]) == (2, 1)


def test_an_input_that_is_a_list_of_messages_is_shortened_and_other_inputs_are_not() -> None:
    a, b = map(user, "ab")
    others: list[object] = [[a, "b"], {"messages": "none"}, {"messages": []}, [], None, LONG * 9]
    trace = shorten(trace_of([a, b], [a, b, a], *others))
    assert isinstance(trace.spans[2].inputs, list)
    assert trace.spans[2].inputs[0][EARLIER]["path"] == "inputs"
    assert [span.inputs for span in trace.spans[3:]] == others


def test_restoring_messages_raises_lookup_error_for_a_missing_span_and_for_a_cycle() -> None:
    def stored(span_id: str, told_in: str) -> SimpleNamespace:
        message = {EARLIER: {"span_id": told_in, "path": "inputs.messages"}}
        return SimpleNamespace(
            span_id=span_id, span_type="CHAIN", inputs={"messages": [message]}, outputs=None
        )

    spans = [stored("a", "b"), stored("b", "a"), stored("c", "gone")]
    trace: Any = SimpleNamespace(data=SimpleNamespace(spans=spans))
    for span in trace.data.spans:
        with pytest.raises(LookupError):
            whole_messages(trace, span)
    with pytest.raises(LookupError, match="no list"):
        whole_messages(trace, trace.data.spans[0], "outputs")
