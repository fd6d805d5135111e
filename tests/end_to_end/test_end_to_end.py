"""Runs chains, agents and graphs on the real Azure client and reads their traces from a real MLflow store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import dispatch_custom_event
from langchain_core.documents import Document
from langchain_core.language_models import FakeListLLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import AzureChatOpenAI, AzureOpenAIEmbeddings
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from mlflow.entities import Trace, TraceState

from azure_emulator import AzureEmulator, Script
from langchain_mlflow_tracer import MlflowTracer, install
from tests.conftest import MakeTracer
from tests.support.stored import Shape, attribute, named, root, shape, stored_trace, stored_traces

Capital = Runnable[dict[str, str], str]

QUESTION = "What is the capital of {country}?"
SEQUENCE: list[Shape] = [
    ("ChatPromptTemplate", "CHAIN", []),
    ("AzureChatOpenAI", "CHAT_MODEL", []),
    ("StrOutputParser", "PARSER", []),
]


@pytest.fixture
def capital(model: AzureChatOpenAI) -> Capital:
    """Return the chain that most of these tests run."""
    prompt = ChatPromptTemplate.from_messages([("system", "You are terse."), ("user", QUESTION)])
    return prompt | model | StrOutputParser()


@pytest.fixture
def tracer(make_tracer: MakeTracer, store_uri: str) -> MlflowTracer:
    """Return a tracer that delivers into a real MLflow store."""
    return make_tracer(store_uri)


@pytest.fixture
def capital_of(emulator: AzureEmulator) -> Capital:
    """Return the chain with a client that does not try again."""
    model = AzureChatOpenAI(**emulator.chat(), max_retries=0)
    return ChatPromptTemplate.from_template("{country}") | model | StrOutputParser()


@dataclass(frozen=True)
class Traced:
    """A tracer and the store it delivers into."""

    tracer: MlflowTracer
    store_uri: str

    def last(self) -> Trace:
        """Return the trace that ended last."""
        return stored_trace(self.store_uri, self.tracer)


@pytest.fixture
def traced(tracer: MlflowTracer, store_uri: str) -> Traced:
    """Return the tracer with its store."""
    return Traced(tracer, store_uri)


class TestEveryWayToRunAChain:
    def test_invoke_makes_one_trace_with_nested_spans(
        self, capital: Capital, tracer: MlflowTracer, store_uri: str
    ) -> None:
        assert "Paris" in capital.invoke({"country": "France"}, {"callbacks": [tracer]})
        (trace,) = stored_traces(store_uri, tracer)
        assert shape(trace) == ("RunnableSequence", "CHAIN", SEQUENCE)
        assert trace.info.state is TraceState.OK
        assert all((span.end_time_ns or 0) >= span.start_time_ns for span in trace.data.spans)
        assert {span.status.status_code for span in trace.data.spans} == {"OK"}

    def test_stream_puts_the_parser_under_its_sequence_and_records_the_whole_answer(
        self, capital: Capital, tracer: MlflowTracer, store_uri: str
    ) -> None:
        chunks = list(capital.stream({"country": "France"}, {"callbacks": [tracer]}))
        assert len(chunks) > 1
        trace = stored_trace(store_uri, tracer)
        assert shape(trace) == ("RunnableSequence", "CHAIN", SEQUENCE)
        assert root(trace).inputs == {"country": "France"}
        assert root(trace).outputs == "".join(chunks)
        span = named(trace, "AzureChatOpenAI")
        assert attribute(span, "mlflow.chat.tokenUsage")["output_tokens"] > 0
        assert attribute(span, "gen_ai.response.finish_reasons") == ["stop"]

    async def test_a_cancelled_run_and_its_model_call_are_recorded_as_cancelled(
        self, model: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
    ) -> None:
        chain = RunnableLambda(lambda text: text) | model
        task = asyncio.create_task(chain.ainvoke("[[hang]]", {"callbacks": [tracer]}))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(task, 0.5)
        trace = await asyncio.to_thread(stored_trace, store_uri, tracer)
        assert trace.info.tags["lc.outcome"] == "cancelled"
        assert named(trace, "AzureChatOpenAI").get_attribute("lc.outcome") == "cancelled"
        assert not any(span.events for span in trace.data.spans)

    def test_a_stream_that_is_not_read_to_its_end_is_recorded_as_abandoned(
        self, capital: Capital, tracer: MlflowTracer, store_uri: str
    ) -> None:
        stream = capital.stream({"country": "France"}, {"callbacks": [tracer]})
        next(stream)
        assert isinstance(stream, Iterator)
        stream.close()  # type: ignore[attr-defined]
        trace = stored_trace(store_uri, tracer)
        assert trace.info.tags["lc.outcome"] == "abandoned"
        assert [child[0] for child in shape(trace)[2]] == [name for name, _, _ in SEQUENCE]


class TestWhatASpanHas:
    def test_a_model_span_has_messages_answer_served_model_tokens_and_finish_reason(
        self, capital: Capital, tracer: MlflowTracer, store_uri: str
    ) -> None:
        answer = capital.invoke({"country": "France"}, {"callbacks": [tracer]})
        span = named(stored_trace(store_uri, tracer), "AzureChatOpenAI")
        assert span.inputs["messages"] == [
            {"role": "system", "content": "You are terse."},
            {"role": "user", "content": "What is the capital of France?"},
        ]
        (choice,) = span.outputs["choices"]
        assert choice["message"] == {"role": "assistant", "content": answer}
        assert choice["finish_reason"] == "stop"
        assert choice["content_filter_results"]["hate"]["filtered"] is False
        assert attribute(span, "mlflow.llm.model") == "gpt-4o-2024-11-20"
        assert attribute(span, "mlflow.llm.provider") == "azure"
        assert attribute(span, "azure.deployment") == "gpt-4o-prod"
        usage = attribute(span, "mlflow.chat.tokenUsage")
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert attribute(span, "mlflow.llm.cost")["total_cost"] > 0

    def test_tokens_are_those_of_the_call_when_it_has_several_answers(
        self, emulator: AzureEmulator, tracer: MlflowTracer, store_uri: str
    ) -> None:
        AzureChatOpenAI(**emulator.chat(), n=3).invoke("[[n]]", {"callbacks": [tracer]})
        trace = stored_trace(store_uri, tracer)
        span = root(trace)
        assert len(span.outputs["choices"]) == 3
        assert (
            attribute(span, "mlflow.chat.tokenUsage")["total_tokens"]
            == (span.outputs["usage"]["total_tokens"])
        )

    def test_a_plain_llm_has_its_prompt_and_its_answer(self, tracer: MlflowTracer, store_uri: str) -> None:
        FakeListLLM(responses=["Paris."]).invoke("The capital of France?", {"callbacks": [tracer]})
        span = root(stored_trace(store_uri, tracer))
        assert span.span_type == "LLM"
        assert span.inputs["prompt"] == "The capital of France?"
        assert span.outputs["choices"][0]["message"]["content"] == "Paris."

    def test_a_retriever_has_its_query_and_documents(
        self, emulator: AzureEmulator, tracer: MlflowTracer, store_uri: str
    ) -> None:
        store = InMemoryVectorStore(AzureOpenAIEmbeddings(**emulator.embeddings()))
        store.add_documents([Document("Bears eat honey.", id="b", metadata={"page": 3})])
        retriever = store.as_retriever() | itemgetter(0)
        retriever.invoke("What do bears eat?", {"callbacks": [tracer]})
        span = named(stored_trace(store_uri, tracer), "VectorStoreRetriever")
        assert span.span_type == "RETRIEVER"
        assert span.inputs == {"query": "What do bears eat?"}
        assert span.outputs == [{"page_content": "Bears eat honey.", "metadata": {"page": 3}, "id": "b"}]

    def test_a_failed_span_has_one_exception_and_its_ancestors_only_the_message(
        self, tracer: MlflowTracer, store_uri: str
    ) -> None:
        def fail(_: object) -> None:
            message = "the roof is on fire"
            raise LookupError(message)

        chain = RunnableLambda(lambda value: value) | RunnableLambda(fail)
        with pytest.raises(LookupError):
            chain.invoke(1, {"callbacks": [tracer]})
        trace = stored_trace(store_uri, tracer)
        assert trace.info.state is TraceState.ERROR
        (event,) = named(trace, "fail").events
        assert event.name == "exception"
        assert str(event.attributes["exception.type"]) == "LookupError"
        assert str(event.attributes["exception.message"]) == "the roof is on fire"
        assert "in fail" in str(event.attributes["exception.stacktrace"])
        assert not root(trace).events
        assert "the roof is on fire" in root(trace).status.description

    @pytest.mark.parametrize(
        ("question", "kind", "said"),
        [
            ("[[401]]", "Authentication", "401"),
            ("[[filter:prompt hate]]", "InvalidRequest", "content management policy"),
            ("[[500]]", "", "500"),
        ],
    )
    def test_a_failed_model_call_has_the_error_of_azure(
        self, question: str, kind: str, said: str, capital_of: Capital, traced: Traced
    ) -> None:
        with pytest.raises(Exception, match=said):
            capital_of.invoke({"country": question}, {"callbacks": [traced.tracer]})
        span = named(traced.last(), "AzureChatOpenAI")
        (event,) = span.events
        assert kind in str(event.attributes["exception.type"])
        assert said in str(event.attributes["exception.message"])

    def test_custom_events_are_recorded_where_they_were_dispatched(
        self, tracer: MlflowTracer, store_uri: str
    ) -> None:
        def work(value: int) -> int:
            dispatch_custom_event("halfway", {"done": value})
            return value

        RunnableLambda(work).invoke(1, {"callbacks": [tracer]})
        (event,) = root(stored_trace(store_uri, tracer)).events
        assert event.name == "halfway"


class TestWhatATraceHas:
    def test_name_session_user_and_tags_come_from_the_config(
        self, capital: Capital, tracer: MlflowTracer, store_uri: str
    ) -> None:
        capital.invoke(
            {"country": "France"},
            {
                "callbacks": [tracer],
                "run_name": "geography",
                "tags": ["beta"],
                "metadata": {"session_id": "s-1", "user_id": "ada", "tenant": "acme"},
            },
        )
        info = stored_trace(store_uri, tracer).info
        assert info.tags["mlflow.traceName"] == "geography"
        assert info.tags["beta"] == "true"
        assert info.tags["lc.outcome"] == "completed"
        assert info.trace_metadata["mlflow.trace.session"] == "s-1"
        assert info.trace_metadata["mlflow.trace.user"] == "ada"
        assert info.trace_metadata["tenant"] == "acme"

    def test_previews_are_the_question_and_the_answer(
        self, capital: Capital, tracer: MlflowTracer, store_uri: str
    ) -> None:
        answer = capital.invoke({"country": "日本"}, {"callbacks": [tracer]})
        info = stored_trace(store_uri, tracer).info
        assert "日本" in str(info.request_preview)
        assert answer in str(info.response_preview)

    def test_the_trace_sums_the_tokens_of_its_models(
        self, model: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
    ) -> None:
        chain = model | StrOutputParser() | model
        chain.invoke("What is the capital of France?", {"callbacks": [tracer]})
        trace = stored_trace(store_uri, tracer)
        usages = [attribute(span, "mlflow.chat.tokenUsage") for span in trace.data.spans]
        assert (trace.info.token_usage or {})["total_tokens"] == sum(
            one["total_tokens"] for one in usages if one
        )


@tool
def get_weather(city: str) -> str:
    """Tell the weather."""
    return f"{city}: rain"


class Talk(TypedDict):
    question: str
    answer: str


class TestAgentsAndGraphs:
    @pytest.fixture
    def trace(self, model: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str) -> Trace:
        """Run an agent that calls two tools at once."""
        agent = create_agent(model, [get_weather], name="traveller")
        question = '[[call get_weather {"city": "Paris"}]] [[call get_weather {"city": "Oslo"}]]'
        asked: Any = {"messages": [("user", question)]}
        agent.invoke(asked, {"callbacks": [tracer]})
        return stored_trace(store_uri, tracer)

    def test_an_agent_has_its_models_and_tools_below_it(self, trace: Trace) -> None:
        name, kind, children = shape(trace)
        assert (name, kind) == ("traveller", "AGENT")
        assert [child[0] for child in children] == ["model", "tools", "tools", "model"]
        assert [child[1] for child in children] == ["CHAIN"] * 4
        assert children[1][2] == children[2][2] == [("get_weather", "TOOL", [])]

    def test_the_root_of_an_agent_is_a_conversation_for_every_way_to_call_it(self, trace: Trace) -> None:
        assert root(trace).inputs["messages"][0]["role"] == "user"
        roles = [message["role"] for message in root(trace).outputs["messages"]]
        assert roles == ["user", "assistant", "tool", "tool", "assistant"]
        assert str(trace.info.request_preview).startswith("[[call get_weather")
        assert trace.info.response_preview == root(trace).outputs["messages"][-1]["content"]

    def test_a_tool_has_its_arguments_its_answer_and_its_calls_id(self, trace: Trace) -> None:
        tools = [span for span in trace.data.spans if span.span_type == "TOOL"]
        assert sorted(span.outputs for span in tools) == ["Oslo: rain", "Paris: rain"]
        assert {span.inputs["city"] for span in tools} == {"Oslo", "Paris"}
        assert all(attribute(span, "gen_ai.tool.call.id") for span in tools)

    def test_a_model_that_was_offered_tools_shows_them_and_its_calls(self, trace: Trace) -> None:
        first = min(
            (span for span in trace.data.spans if span.span_type == "CHAT_MODEL"),
            key=lambda s: s.start_time_ns,
        )
        (offered,) = attribute(first, "mlflow.chat.tools")
        assert offered["function"]["name"] == "get_weather"
        calls = first.outputs["choices"][0]["message"]["tool_calls"]
        assert [call["function"]["arguments"] for call in calls] == ['{"city":"Paris"}', '{"city":"Oslo"}']

    async def test_an_agent_that_is_renamed_or_streamed_asynchronously_is_recorded_as_an_agent(
        self, model: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
    ) -> None:
        agent = create_agent(model, [get_weather])
        question: Any = {"messages": [("user", '[[call get_weather {"city": "Paris"}]]')]}
        stream: AsyncIterator[Any] = agent.astream(question, {"callbacks": [tracer], "run_name": "trip"})
        assert [chunk async for chunk in stream]
        trace = await asyncio.to_thread(stored_trace, store_uri, tracer)
        assert shape(trace)[:2] == ("trip", "AGENT")
        assert [child[0] for child in shape(trace)[2]] == ["model", "tools", "model"]

    def test_a_graph_has_its_nodes_and_its_thread_is_the_session_of_the_trace(
        self, model: AzureChatOpenAI, tracer: MlflowTracer, store_uri: str
    ) -> None:
        def ask(state: Talk) -> dict[str, str]:
            return {"answer": str(model.invoke(state["question"]).content)}

        graph = StateGraph(Talk).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END).compile()
        state: Any = {"question": "What is the capital of Peru?"}
        graph.invoke(state, {"callbacks": [tracer], "configurable": {"thread_id": "t-7"}})
        trace = stored_trace(store_uri, tracer)
        below: list[Shape] = [("ask", "CHAIN", [("AzureChatOpenAI", "CHAT_MODEL", [])])]
        assert shape(trace) == ("LangGraph", "CHAIN", below)
        assert trace.info.trace_metadata["mlflow.trace.session"] == "t-7"

    def test_an_interrupted_graph_is_no_error(
        self, tracer: MlflowTracer, store_uri: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        def ask(state: Talk) -> dict[str, str]:
            return {"answer": interrupt(state["question"])}

        builder = StateGraph(Talk).add_node("ask", ask).add_edge(START, "ask")
        graph = builder.compile(checkpointer=InMemorySaver())
        state: Any = {"question": "?"}
        graph.invoke(state, {"callbacks": [tracer], "configurable": {"thread_id": "t"}})
        trace = stored_trace(store_uri, tracer)
        assert trace.info.state is TraceState.OK
        assert named(trace, "ask").get_attribute("lc.outcome") == "interrupted"
        assert not any(span.events for span in trace.data.spans)
        assert not caplog.records


class TestEveryChainOfTheProcess:
    def test_install_traces_chains_that_are_given_no_callbacks(
        self, capital: Capital, tracer: MlflowTracer, store_uri: str
    ) -> None:
        install(tracer)
        capital.invoke({"country": "France"})
        thread = threading.Thread(target=capital.invoke, args=({"country": "Japan"},))
        thread.start()
        thread.join()
        assert [shape(trace)[2] for trace in stored_traces(store_uri, tracer)] == [SEQUENCE] * 2


class TestAServer:
    def test_a_trace_reaches_a_real_server_over_http(
        self, capital: Capital, make_tracer: MakeTracer, server: str
    ) -> None:
        tracer = make_tracer(server, "end to end", tags={"team": "search"}, user_id="ada")
        capital.invoke({"country": "France"}, {"callbacks": [tracer], "run_name": "geography"})
        trace = stored_trace(server, tracer)
        assert shape(trace) == ("geography", "CHAIN", SEQUENCE)
        assert trace.info.tags["team"] == "search"
        assert trace.info.trace_metadata["mlflow.trace.user"] == "ada"
        assert (trace.info.token_usage or {})["total_tokens"] > 0
        assert (trace.info.cost or {})["total_cost"] > 0

    def test_fifty_chains_with_scripted_answers_arrive_once_each(
        self, capital: Capital, make_tracer: MakeTracer, server: str, emulator: AzureEmulator
    ) -> None:
        tracer = make_tracer(server, "fifty")
        with emulator.playing(Script.of("At last.")):
            capital.batch([{"country": str(number)} for number in range(50)], {"callbacks": [tracer]})
        found = stored_traces(server, tracer, str(stored_trace(server, tracer).info.experiment_id))
        assert len({root(trace).inputs["country"] for trace in found}) == len(found) == 50
