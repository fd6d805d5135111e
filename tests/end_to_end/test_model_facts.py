"""Reads from MLflow what the real Azure client's calls were made of: parameters, reasons, tokens, cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI
from mlflow.entities import Span
from pydantic import BaseModel

from azure_emulator import AzureEmulator
from langchain_mlflow_tracer import MlflowTracer, http_clients
from tests.conftest import MakeTracer
from tests.support.stored import attribute, named, root, stored_trace

Ask = Callable[[AzureChatOpenAI, str], None]

SERVED = "gpt-4o-2024-11-20"


class Calls:
    """Calls models of the emulator's, and reads their spans from a real MLflow store."""

    def __init__(self, emulator: AzureEmulator, tracer: MlflowTracer, uri: str) -> None:
        self._emulator = emulator
        self._uri = uri
        self.tracer = tracer
        self.config: Any = {"callbacks": [tracer]}

    def invoked(self, question: str, **options: Any) -> Span:
        """Return the span of a model that was invoked."""
        AzureChatOpenAI(**self._emulator.chat(), **options).invoke(question, self.config)
        return self.last()

    def streamed(self, question: str, **options: Any) -> Span:
        """Return the span of a model that was streamed."""
        assert list(AzureChatOpenAI(**self._emulator.chat(), **options).stream(question, self.config))
        return self.last()

    def last(self) -> Span:
        """Return the root of the last trace."""
        return root(stored_trace(self._uri, self.tracer))


@pytest.fixture
def calls(emulator: AzureEmulator, make_tracer: MakeTracer, store_uri: str) -> Calls:
    """Return what calls models under a tracer."""
    return Calls(emulator, make_tracer(store_uri), store_uri)


@pytest.fixture(params=["invoked", "streamed"])
def called(request: pytest.FixtureRequest, calls: Calls) -> Callable[..., Span]:
    """Return one way to call a model, and then the other."""
    way: Callable[..., Span] = getattr(calls, request.param)
    return way


def tokens(span: Span) -> dict[str, int]:
    """Return the tokens that MLflow adds up."""
    found: dict[str, int] = attribute(span, "mlflow.chat.tokenUsage")
    return found


def message(span: Span) -> dict[str, Any]:
    """Return what the model said."""
    found: dict[str, Any] = span.outputs["choices"][0]["message"]
    return found


def test_the_served_model_the_deployment_and_the_provider_are_recorded(called: Callable[..., Span]) -> None:
    span = called("What is the capital of Peru?")
    assert attribute(span, "mlflow.llm.model") == attribute(span, "gen_ai.response.model") == SERVED
    assert attribute(span, "azure.deployment") == "gpt-4o-prod"
    assert attribute(span, "mlflow.llm.provider") == "azure"
    assert attribute(span, "mlflow.llm.cost")["total_cost"] > 0


def test_only_parameters_of_an_allow_list_are_recorded(called: Callable[..., Span]) -> None:
    span = called(
        "hi", temperature=0.5, max_tokens=7, top_p=0.9, seed=11, frequency_penalty=0.1, presence_penalty=0.2,
        stop=["END"], reasoning_effort="low", default_headers={"x-team": "blue"},
        model_kwargs={"user": "u-1"},
    )  # fmt: skip
    shown = {key: value for key, value in span.inputs.items() if key != "messages"}
    assert shown == {
        "temperature": 0.5, "max_completion_tokens": 7, "top_p": 0.9, "seed": 11, "frequency_penalty": 0.1,
        "presence_penalty": 0.2, "stop": ["END"], "reasoning_effort": "low",
    }  # fmt: skip
    assert attribute(span, "gen_ai.request.temperature") == 0.5
    assert attribute(span, "gen_ai.request.max_tokens") == 7
    assert attribute(span, "gen_ai.request.top_p") == 0.9
    assert "blue" not in str(span.to_dict())
    assert "u-1" not in str(span.to_dict())


def test_the_requested_format_of_an_answer_is_recorded_as_its_schema(
    emulator: AzureEmulator, calls: Calls
) -> None:
    class Weather(BaseModel):
        city: str

    model = AzureChatOpenAI(**emulator.chat()).with_structured_output(Weather)
    model.invoke("What is the weather in Oslo?", calls.config)
    trace = stored_trace(calls._uri, calls.tracer)
    form = named(trace, "AzureChatOpenAI").inputs["response_format"]
    assert form["properties"]["city"]["type"] == "string"


def test_the_finish_reason_and_the_fingerprint_are_recorded(called: Callable[..., Span]) -> None:
    span = called("[[tokens 50]]", max_tokens=5)
    assert attribute(span, "gen_ai.response.finish_reasons") == ["length"]
    assert span.outputs["choices"][0]["finish_reason"] == "length"
    assert attribute(span, "gen_ai.openai.response.system_fingerprint").startswith("fp_")


def test_an_answer_has_its_id(calls: Calls) -> None:
    span = calls.invoked("hi")
    assert attribute(span, "gen_ai.response.id") == span.outputs["id"]
    assert span.outputs["id"].startswith("chatcmpl-")


def test_log_probabilities_are_recorded(called: Callable[..., Span]) -> None:
    span = called("hi", logprobs=True)
    pieces = [one["token"] for one in span.outputs["choices"][0]["logprobs"]["content"]]
    assert "".join(pieces) == message(span)["content"]


def test_cached_tokens_and_reasoning_tokens_are_recorded(called: Callable[..., Span]) -> None:
    span = called("[[reasoning 64]] " + "word " * 1_200)
    found = tokens(span)
    assert found["cache_read_input_tokens"] >= 1_024
    assert found["input_tokens"] > found["cache_read_input_tokens"]
    assert found["total_tokens"] == found["input_tokens"] + found["output_tokens"]
    assert attribute(span, "gen_ai.usage.cache_read.input_tokens") == found["cache_read_input_tokens"]
    assert attribute(span, "gen_ai.usage.reasoning.output_tokens") == 64
    assert found["output_tokens"] > 64


def test_several_answers_of_a_call_are_recorded_and_their_tokens_counted_once(calls: Calls) -> None:
    span = calls.invoked("[[n]]", n=3)
    assert [choice["index"] for choice in span.outputs["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in span.outputs["choices"]}) == 3
    assert tokens(span)["output_tokens"] == span.outputs["usage"]["completion_tokens"]


def test_a_stream_has_its_number_of_chunks_and_time_to_first_chunk_and_no_token_events(calls: Calls) -> None:
    span = calls.streamed("[[tokens 30]] [[slow 0.2]]")
    assert attribute(span, "lc.stream.chunks") >= 30
    seconds = attribute(span, "gen_ai.response.time_to_first_chunk")
    assert 0.2 <= seconds <= ((span.end_time_ns or 0) - span.start_time_ns) / 1e9
    assert span.events == []
    assert attribute(calls.invoked("hi"), "lc.stream.chunks") is None


class TestCost:
    def test_a_call_of_a_service_tier_with_another_price_has_no_cost(
        self, called: Callable[..., Span]
    ) -> None:
        span = called("hi", service_tier="priority")
        assert attribute(span, "gen_ai.openai.response.service_tier") == "priority"
        assert attribute(span, "mlflow.llm.model") == f"{SERVED} (priority tier)"
        assert tokens(span)["total_tokens"] > 0
        assert attribute(span, "mlflow.llm.cost") is None

    def test_a_call_of_the_default_service_tier_has_a_cost(self, calls: Calls) -> None:
        span = calls.invoked("hi", service_tier="auto")
        assert attribute(span, "gen_ai.openai.response.service_tier") == "default"
        assert attribute(span, "mlflow.llm.cost")["total_cost"] > 0

    def test_a_call_with_audio_tokens_has_no_cost(self, called: Callable[..., Span]) -> None:
        span = called("[[audio 7 3]] hi")
        assert attribute(span, "gen_ai.usage.audio.input_tokens") == 7
        assert attribute(span, "gen_ai.usage.audio.output_tokens") == 3
        assert attribute(span, "mlflow.llm.cost") is None

    def test_an_answer_from_the_cache_has_no_cost(self, calls: Calls) -> None:
        cache = InMemoryCache()
        paid = calls.invoked("hi", cache=cache)
        free = calls.invoked("hi", cache=cache)
        assert attribute(paid, "mlflow.llm.cost")["total_cost"] > 0
        assert attribute(paid, "lc.from_cache") is None
        assert attribute(free, "lc.from_cache") is True
        assert attribute(free, "mlflow.chat.tokenUsage") is None
        assert attribute(free, "mlflow.llm.cost") is None
        assert message(free) == message(paid)

    def test_a_model_known_only_by_its_deployment_has_no_cost(self, calls: Calls) -> None:
        span = calls.invoked("hi", use_responses_api=True)
        assert attribute(span, "mlflow.llm.model") == "gpt-4o-prod (deployment)"
        assert attribute(span, "mlflow.llm.cost") is None

    def test_a_model_that_azures_headers_name_has_a_cost(self, called: Callable[..., Span]) -> None:
        span = called("hi", use_responses_api=True, stream_usage=True, **http_clients())
        assert attribute(span, "azure.served_model") == attribute(span, "mlflow.llm.model") == SERVED
        assert attribute(span, "gen_ai.response.model") == "gpt-4o-prod"
        assert attribute(span, "mlflow.llm.cost")["total_cost"] > 0


class TestTheResponsesApi:
    def test_an_answer_of_the_responses_api_has_its_tokens_and_reasoning(
        self, called: Callable[..., Span]
    ) -> None:
        span = called(
            "[[reasoning 64]] What is the capital of France?", use_responses_api=True,
            reasoning={"effort": "low", "summary": "auto"},
        )  # fmt: skip
        assert message(span)["content"] == "The capital of France is Paris."
        assert "Reading the question" in message(span)["reasoning"]
        assert attribute(span, "gen_ai.usage.reasoning.output_tokens") == 64
        assert tokens(span)["total_tokens"] == tokens(span)["input_tokens"] + tokens(span)["output_tokens"]
        assert attribute(span, "gen_ai.response.finish_reasons") == ["completed"]
        assert attribute(span, "gen_ai.response.id").startswith("resp_")
        assert span.inputs["reasoning"] == {"effort": "low", "summary": "auto"}

    def test_an_incomplete_answer_of_the_responses_api_has_its_reason(self, calls: Calls) -> None:
        span = calls.invoked("[[tokens 50]]", use_responses_api=True, max_tokens=5)
        assert attribute(span, "gen_ai.response.finish_reasons") == ["max_output_tokens"]

    def test_an_answer_of_the_responses_api_has_its_tool_calls(self, called: Callable[..., Span]) -> None:
        span = called('[[call add {"a": 1}]]', use_responses_api=True, model_kwargs={"tools": [ADD]})
        (call,) = message(span)["tool_calls"]
        assert (call["function"]["name"], call["function"]["arguments"]) == ("add", '{"a":1}')

    def test_a_refusal_of_the_responses_api_is_recorded(self, called: Callable[..., Span]) -> None:
        span = called("[[refuse No.]]", use_responses_api=True)
        assert message(span)["content"] == message(span)["refusal"] == "No."


ADD = {
    "type": "function",
    "name": "add",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}


def test_a_refusal_is_recorded_as_the_answer(calls: Calls) -> None:
    said = message(calls.invoked("[[refuse I will not.]]"))
    assert said["content"] == said["refusal"] == "I will not."


def test_a_stream_with_http_clients_has_its_refusal_and_id(calls: Calls) -> None:
    span = calls.streamed("[[refuse I will not.]]", **http_clients())
    assert message(span)["content"] == message(span)["refusal"] == "I will not."
    assert attribute(span, "gen_ai.response.id").startswith("chatcmpl-")


@tool(response_format="content_and_artifact")
def find_pages(topic: str) -> tuple[str, list[Document]]:
    """Find pages on a topic."""
    return f"two pages on {topic}", [Document("secret page one"), Document("secret page two")]


@tool
def fail_softly(topic: str) -> str:
    """Fail, in words."""
    raise ValueError(topic)


fail_softly.handle_tool_error = True


def test_a_tool_has_the_id_of_its_call_and_a_summary_of_its_artifact(
    calls: Calls, model: AzureChatOpenAI
) -> None:
    question: Any = {"messages": [("user", '[[call find_pages {"topic": "bears"}]]')]}
    create_agent(model, [find_pages]).invoke(question, calls.config)
    trace = stored_trace(calls._uri, calls.tracer)
    span = named(trace, "find_pages")
    asked = [one for one in trace.data.spans if one.span_type == "CHAT_MODEL"]
    first = min(asked, key=lambda one: one.start_time_ns)
    assert attribute(span, "gen_ai.tool.call.id") == message(first)["tool_calls"][0]["id"]
    assert span.outputs == "two pages on bears"
    assert attribute(span, "lc.tool.artifact") == "list of 2 Document"
    assert "secret page" not in str(span.to_dict())


def test_documents_have_their_scores(calls: Calls) -> None:
    class Scored(BaseRetriever):
        def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
            return [Document(f"On {query}.", id="d1", metadata={"score": 0.875, "source": "a.md"})]

    Scored().invoke("熊", calls.config)
    span = calls.last()
    assert span.inputs == {"query": "熊"}
    assert span.outputs == [
        {"page_content": "On 熊.", "metadata": {"score": 0.875, "source": "a.md"}, "id": "d1"}
    ]
