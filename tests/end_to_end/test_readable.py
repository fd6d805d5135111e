"""Reads traces as people do in MLflow: as chats with previews, with the names and tags that a config gave."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from mlflow.entities import Trace
from mlflow.tracking import MlflowClient
from pydantic import BaseModel

from langchain_mlflow_tracer import MlflowTracer
from tests.conftest import MakeTracer
from tests.support.stored import attribute, named, root, stored_trace

ROLES = {"user", "assistant", "system", "tool"}

QUESTION = "What is the capital of Peru?"

ANSWER = "The capital of Peru is Lima."


class Reader:
    """A tracer, and its traces as a real MLflow store has them."""

    def __init__(self, tracer: MlflowTracer, uri: str) -> None:
        self.tracer = tracer
        self.uri = uri
        self.config: Any = {"callbacks": [tracer]}

    def last(self) -> Trace:
        """Return the trace that ended last."""
        return stored_trace(self.uri, self.tracer)

    def search(self, query: str) -> list[str]:
        """Return the ids of the traces that MLflow finds."""
        found = MlflowClient(self.uri).search_traces(locations=["0"], filter_string=query)
        return [trace.info.trace_id for trace in found]


@pytest.fixture
def reader(make_tracer: MakeTracer, store_uri: str) -> Reader:
    """Return a tracer with its store."""
    return Reader(make_tracer(store_uri), store_uri)


def assert_is_a_chat(trace: Trace, question: str = QUESTION, answer: str = ANSWER) -> None:
    """Check what the UI needs to show a chat in the trace, in the list of traces and in the session."""
    asked, said = root(trace).inputs["messages"], root(trace).outputs["messages"]
    assert {message["role"] for message in [*asked, *said]} <= ROLES
    assert {"role": "user", "content": question} in [
        {key: message[key] for key in ("role", "content")} for message in asked
    ]
    assert (said[-1]["role"], said[-1]["content"]) == ("assistant", answer)
    assert (trace.info.request_preview, trace.info.response_preview) == (question, answer)


WRITTEN: list[Any] = [
    [("user", QUESTION)],
    [HumanMessage(QUESTION)],
    [{"role": "user", "content": QUESTION}],
    [QUESTION],
    QUESTION,
    ("user", QUESTION),
    HumanMessage(QUESTION),
    {"role": "user", "content": QUESTION},
    [("system", "You are terse."), ("human", "Hi!"), ("ai", "Hello."), ("human", QUESTION)],
    [SystemMessage("You are terse."), HumanMessage("Hi!"), AIMessage("Hello."), HumanMessage(QUESTION)],
]


@tool
def get_weather(city: str) -> str:
    """Say what the weather is in a city."""
    return f"{city}: rain"


class Given(TypedDict):
    """A state that is a dict."""

    messages: Annotated[list[AnyMessage], add_messages]


class GivenModel(BaseModel):
    """A state that is an object."""

    messages: Annotated[list[AnyMessage], add_messages]


class TestARootThatTalks:
    @pytest.mark.parametrize("written", WRITTEN, ids=repr)
    def test_the_root_of_an_agent_is_a_chat_for_every_form_of_message(
        self, written: Any, model: AzureChatOpenAI, reader: Reader
    ) -> None:
        given: Any = {"messages": written}
        create_agent(model, [get_weather]).invoke(given, reader.config)
        trace = reader.last()
        assert root(trace).span_type == "AGENT"
        assert_is_a_chat(trace)

    @pytest.mark.parametrize("written", WRITTEN, ids=repr)
    def test_the_root_of_a_graph_is_a_chat_for_every_form_of_message(
        self, written: Any, model: AzureChatOpenAI, reader: Reader
    ) -> None:
        def ask(state: MessagesState) -> dict[str, Any]:
            return {"messages": [model.invoke(state["messages"])]}

        graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END)
        given: Any = {"messages": written}
        graph.compile().invoke(given, reader.config)
        assert_is_a_chat(reader.last())

    @pytest.mark.parametrize(
        "written", [Given(messages=[HumanMessage(QUESTION)]), GivenModel(messages=[HumanMessage(QUESTION)])]
    )
    def test_the_root_of_a_graph_is_a_chat_for_every_kind_of_state(
        self, written: Any, model: AzureChatOpenAI, reader: Reader
    ) -> None:
        def ask(state: Any) -> dict[str, Any]:
            messages = state["messages"] if isinstance(state, dict) else state.messages
            return {"messages": [model.invoke(messages)]}

        kind: Any = GivenModel if isinstance(written, BaseModel) else Given
        graph: Any = StateGraph(kind)
        graph.add_node("ask", ask).add_edge(START, "ask").compile().invoke(written, reader.config)
        assert_is_a_chat(reader.last())

    async def test_the_root_of_a_streamed_agent_is_a_chat(
        self, model: AzureChatOpenAI, reader: Reader
    ) -> None:
        given: Any = {"messages": [("user", QUESTION)]}
        agent = create_agent(model, [get_weather])
        for mode in ("values", "updates", "messages"):
            stream: Any = agent.astream(given, reader.config, stream_mode=mode)
            assert [chunk async for chunk in stream]
            assert_is_a_chat(await asyncio.to_thread(reader.last))

    @pytest.mark.parametrize(
        "written", [[HumanMessage(QUESTION)], [("user", QUESTION)], [{"role": "user", "content": QUESTION}]]
    )
    def test_the_root_of_a_chain_from_messages_to_a_message_is_a_chat(
        self, written: list[Any], model: AzureChatOpenAI, reader: Reader
    ) -> None:
        given: Any = RunnableLambda[Any, Any](lambda messages: messages)
        (given | model).invoke(written, reader.config)
        assert_is_a_chat(reader.last())

    @pytest.mark.parametrize("metadata", [{}, {"tenant": "acme"}], ids=["plain", "with metadata"])
    def test_a_model_without_a_chain_is_a_chat(
        self, metadata: dict[str, str], model: AzureChatOpenAI, reader: Reader
    ) -> None:
        config: Any = {**reader.config, "metadata": metadata}
        model.invoke([("system", "You are terse."), ("user", QUESTION)], config)
        trace = reader.last()
        assert (trace.info.request_preview, trace.info.response_preview) == (QUESTION, ANSWER)
        assert root(trace).outputs["choices"][0]["message"]["content"] == ANSWER

    def test_inputs_and_outputs_that_are_no_conversation_stay_as_they_are(
        self, model: AzureChatOpenAI, reader: Reader
    ) -> None:
        chain = ChatPromptTemplate.from_template("What is the capital of {country}?") | model
        (chain | StrOutputParser()).invoke({"country": "Peru"}, reader.config)
        trace = reader.last()
        assert root(trace).inputs == {"country": "Peru"}
        assert root(trace).outputs == ANSWER

    def test_the_nodes_of_an_agent_are_chats(self, model: AzureChatOpenAI, reader: Reader) -> None:
        given: Any = {"messages": QUESTION}
        create_agent(model, [get_weather]).invoke(given, reader.config)
        (message,) = named(reader.last(), "model").outputs["messages"]
        assert (message["role"], message["content"]) == ("assistant", ANSWER)

    def test_an_agent_within_another_trace_is_a_chat(self, model: AzureChatOpenAI, reader: Reader) -> None:
        agent = create_agent(model, [get_weather], name="inner")

        def delegate(question: str) -> BaseMessage:
            given: Any = {"messages": question}
            answered: BaseMessage = agent.invoke(given)["messages"][-1]
            return answered

        RunnableLambda(delegate).invoke(QUESTION, reader.config)
        span = named(reader.last(), "inner")
        assert span.span_type == "AGENT"
        assert span.inputs["messages"] == [{"role": "user", "content": QUESTION}]


def test_a_config_names_tags_and_describes_its_trace(model: AzureChatOpenAI, reader: Reader) -> None:
    config: Any = {
        **reader.config, "run_name": "geography", "tags": ["beta", "ü"],
        "metadata": {"session_id": "s-1", "user_id": "ada", "tenant": "アクメ", "ls_odd": "x"},
    }  # fmt: skip
    (ChatPromptTemplate.from_template("{q}") | model).invoke({"q": QUESTION}, config)
    info = reader.last().info
    assert info.tags["mlflow.traceName"] == "geography"
    assert (info.tags["beta"], info.tags["ü"]) == ("true", "true")
    assert info.trace_metadata["mlflow.trace.session"] == "s-1"
    assert info.trace_metadata["mlflow.trace.user"] == "ada"
    assert info.trace_metadata["tenant"] == "アクメ"
    assert "ls_odd" not in info.trace_metadata
    assert reader.search("tags.beta = 'true'") == [info.trace_id]
    assert reader.search("metadata.tenant = 'アクメ'") == [info.trace_id]
    assert reader.search("metadata.`mlflow.trace.session` = 's-1'") == [info.trace_id]


def test_a_step_of_a_graph_has_its_number_and_a_prompt_its_run_type(
    model: AzureChatOpenAI, reader: Reader
) -> None:
    def ask(state: MessagesState) -> dict[str, Any]:
        asked = ChatPromptTemplate.from_messages(state["messages"]) | model
        return {"messages": [asked.invoke({})]}

    graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").compile()
    given: Any = {"messages": [("user", QUESTION)]}
    graph.invoke(given, reader.config)
    trace = reader.last()
    assert attribute(named(trace, "ask"), "langgraph.step") == 1
    assert attribute(named(trace, "ChatPromptTemplate"), "lc.run_type") == "prompt"
    assert attribute(named(trace, "RunnableSequence"), "lc.run_type") is None


async def test_custom_events_are_recorded_on_the_span_that_dispatched_them(reader: Reader) -> None:
    async def work(number: int) -> int:
        await adispatch_custom_event("progress", {"done": number, "of": [2, "二"]})
        return number

    def more(number: int) -> int:
        dispatch_custom_event("note", "almost there")
        return number

    await (RunnableLambda(work) | RunnableLambda(more)).ainvoke(1, reader.config)
    trace = await asyncio.to_thread(reader.last)
    (progress,), (note,) = named(trace, "work").events, named(trace, "more").events
    assert (progress.name, progress.attributes["data"]) == ("progress", '{"done":1,"of":[2,"二"]}')
    assert (note.name, note.attributes["data"]) == ("note", "almost there")


class TestJapanese:
    TEXT = "ペルーの首都はどこですか?"

    def test_japanese_text_is_stored_without_escapes(self, model: AzureChatOpenAI, reader: Reader) -> None:
        given: Any = {"messages": [("user", self.TEXT)]}
        config: Any = {**reader.config, "run_name": "質問"}
        create_agent(model, [get_weather]).invoke(given, config)
        trace = reader.last()
        assert trace.info.request_preview == self.TEXT
        assert trace.info.tags["mlflow.traceName"] == "質問"
        with sqlite3.connect(reader.uri.removeprefix("sqlite:///")) as database:
            rows = database.execute("SELECT content FROM spans WHERE content LIKE ?", (f"%{self.TEXT}%",))
            assert len(rows.fetchall()) == len(trace.data.spans)

    def test_japanese_text_is_found_by_a_search(self, model: AzureChatOpenAI, reader: Reader) -> None:
        model.invoke(self.TEXT, reader.config)
        other = reader.last().info.trace_id
        model.invoke(QUESTION, reader.config)
        reader.last()
        for query in ("trace.text LIKE '%首都%'", "span.content LIKE '%首都%'"):
            assert reader.search(query) == [other]
