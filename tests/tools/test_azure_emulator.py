"""Check the Azure OpenAI emulator through the clients that samples and tests use."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI, AzureOpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from azure_emulator import (
    Answer,
    AzureEmulator,
    Fault,
    Request,
    Script,
    ToolCall,
    failing,
    in_turn,
    when,
)
from azure_emulator.failures import rate_limited
from azure_openai import azure

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
SAFE = {"filtered": False, "severity": "safe"}
VIOLENT = {"filtered": True, "severity": "medium"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@pytest.fixture(scope="module")
def emulator() -> Iterator[AzureEmulator]:
    """Run one emulator for all tests here."""
    with AzureEmulator() as running:
        yield running


@pytest.fixture
def model(emulator: AzureEmulator) -> AzureChatOpenAI:
    """Make a client as an application would."""
    return AzureChatOpenAI(**emulator.chat())


@tool
def get_weather(city: str) -> str:
    """Say what the weather is."""
    return f"rain in {city}"


@tool
def get_time(city: str) -> str:
    """Say what time it is."""
    return f"noon in {city}"


def chat(emulator: AzureEmulator, **options: Any) -> AzureChatOpenAI:
    """Make a client that does not retry."""
    return AzureChatOpenAI(**emulator.chat(), max_retries=0, **options)


def whole(chunks: Iterator[AIMessageChunk]) -> AIMessageChunk:
    """Add the chunks of a stream up."""
    first, *rest = chunks
    return first + rest


def post(emulator: AzureEmulator, text: str = "Hello", **body: Any) -> httpx.Response:
    """Ask without a client library, to see what is on the wire."""
    url = f"{emulator.endpoint}/openai/deployments/{emulator.deployment}/chat/completions"
    sent = {"messages": [{"role": "user", "content": text}], **body}
    headers = {"api-key": emulator.api_key}
    return httpx.post(url, json=sent, headers=headers, params={"api-version": "2024-10-21"})


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """Take a stream of events apart."""
    *lines, end = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert end == "[DONE]"
    return [json.loads(line) for line in lines]


def dot(one: list[float], other: list[float]) -> float:
    """Tell how close two vectors are."""
    return sum(x * y for x, y in zip(one, other, strict=True))


class TestAnswers:
    def test_the_emulator_knows_some_capitals(self, model: AzureChatOpenAI) -> None:
        assert model.invoke("What is the capital of France?").content == "The capital of France is Paris."

    def test_the_emulator_repeats_a_question_that_it_does_not_know(self, model: AzureChatOpenAI) -> None:
        assert model.invoke("Good morning").content == "You said: Good morning"

    def test_the_emulator_names_the_served_model_and_not_the_deployment(self, model: AzureChatOpenAI) -> None:
        assert model.invoke("Hello").response_metadata["model_name"] == "gpt-4o-2024-11-20"

    def test_the_emulator_serves_several_deployments(self, emulator: AzureEmulator) -> None:
        mini = AzureChatOpenAI(**emulator.chat() | {"azure_deployment": "gpt-4o-mini-prod"})
        assert mini.invoke("Hello").response_metadata["model_name"] == "gpt-4o-mini-2024-07-18"

    def test_a_chat_answer_has_filter_verdicts_on_prompt_and_completion(self, model: AzureChatOpenAI) -> None:
        told = model.invoke("Hello").response_metadata
        assert told["content_filter_results"]["hate"] == SAFE
        assert told["content_filter_results"]["protected_material_text"] == {
            "filtered": False,
            "detected": False,
        }
        assert told["prompt_filter_results"][0]["content_filter_results"]["violence"] == SAFE

    def test_the_emulator_counts_words_as_tokens(self, model: AzureChatOpenAI) -> None:
        message = model.invoke("one two three")
        assert message.usage_metadata is not None
        assert message.usage_metadata["input_tokens"] == 3 + 3 + 3
        assert message.usage_metadata["output_tokens"] == 5  # You said: one two three

    def test_a_long_prompt_of_a_chat_comes_from_the_cache(self, model: AzureChatOpenAI) -> None:
        usage = model.invoke("word " * 1100).usage_metadata
        assert usage is not None
        assert usage["input_token_details"]["cache_read"] == 1024

    def test_reasoning_tokens_are_part_of_the_output_tokens(self, model: AzureChatOpenAI) -> None:
        usage = model.invoke("Hello [[reasoning 64]]").usage_metadata
        assert usage is not None
        assert usage["output_token_details"]["reasoning"] == 64
        assert usage["output_tokens"] == 64 + 3

    def test_audio_tokens_are_part_of_input_and_output_tokens(self, model: AzureChatOpenAI) -> None:
        usage = model.invoke("Hello [[audio 7 3]]").usage_metadata
        assert usage is not None
        assert usage["input_token_details"]["audio"] == 7
        assert usage["output_token_details"]["audio"] == 3
        assert (usage["input_tokens"], usage["output_tokens"]) == (3 + 3 + 4 + 7, 3 + 3)

    def test_an_answer_has_as_many_audio_tokens_as_its_question_by_default(
        self, emulator: AzureEmulator
    ) -> None:
        usage = post(emulator, "Hello [[audio 7]]").json()["usage"]
        assert usage["prompt_tokens_details"]["audio_tokens"] == 7
        assert usage["completion_tokens_details"]["audio_tokens"] == 7

    def test_a_text_has_no_audio_tokens(self, emulator: AzureEmulator) -> None:
        usage = post(emulator, "Hello").json()["usage"]
        assert usage["prompt_tokens_details"]["audio_tokens"] == 0
        assert usage["completion_tokens_details"]["audio_tokens"] == 0

    def test_a_chat_question_with_a_picture_is_answered_by_its_text(self, model: AzureChatOpenAI) -> None:
        blocks: list[str | dict[str, Any]] = [{"type": "text", "text": "What is the capital of"}, PICTURE]
        asked = HumanMessage([*blocks, {"type": "text", "text": "Peru? [[reasoning 5]]"}])
        answer = model.invoke([asked])
        assert answer.content == "You said: What is the capital of\nPeru?"
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["output_token_details"]["reasoning"] == 5

    def test_a_tool_may_return_a_picture(self, model: AzureChatOpenAI) -> None:
        called = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "c"}])
        seen = ToolMessage([{"type": "text", "text": "a cat"}, PICTURE], tool_call_id="c")
        answer = model.invoke([HumanMessage("Look"), called, seen])
        assert answer.content == "Here is what I found: a cat."

    def test_several_choices_differ_and_share_one_usage(self, emulator: AzureEmulator) -> None:
        result = chat(emulator, n=3).generate([[HumanMessage("Hello [[n]]")]])
        assert [generation.text for generation in result.generations[0]] == [
            f"This is answer {number} of 3." for number in (1, 2, 3)
        ]
        assert result.llm_output is not None
        assert result.llm_output["token_usage"]["completion_tokens"] == 3 * 6

    def test_a_token_limit_ends_the_answer(self, emulator: AzureEmulator) -> None:
        message = chat(emulator, max_tokens=4).invoke("one two three four five")
        assert message.content == "You said: one two"
        assert message.response_metadata["finish_reason"] == "length"

    def test_log_probabilities_come_with_every_token(self, emulator: AzureEmulator) -> None:
        told = chat(emulator, logprobs=True).invoke("Hello").response_metadata["logprobs"]
        assert [entry["token"] for entry in told["content"]] == ["You", " said:", " Hello"]

    def test_a_chat_answer_can_be_long(self, model: AzureChatOpenAI) -> None:
        message = model.invoke("Write [[tokens 1000]]")
        assert message.usage_metadata is not None
        assert message.usage_metadata["output_tokens"] == 1000

    def test_a_chat_answer_has_the_requested_format(self, model: AzureChatOpenAI) -> None:
        class Capital(BaseModel):
            name: str
            certain: bool

        found = model.with_structured_output(Capital).invoke("What is the capital of Peru?")
        assert found == Capital(name="The capital of Peru is Lima.", certain=True)

    def test_a_retrieval_prompt_is_answered_from_its_context(self, model: AzureChatOpenAI) -> None:
        prompt = "Context:\nThe sky is grey. Tea is at four.\n\nQuestion: When is tea?"
        assert model.invoke(prompt).content == "Tea is at four."

    async def test_many_clients_are_answered_at_once(self, model: AzureChatOpenAI) -> None:
        questions = [f"question {number} [[slow 0.05]]" for number in range(20)]
        answers = await asyncio.gather(*map(model.ainvoke, questions))
        assert [answer.content for answer in answers] == [f"You said: question {n}" for n in range(20)]


class TestStreams:
    def test_a_stream_has_a_chunk_for_every_token(self, model: AzureChatOpenAI) -> None:
        texts = [chunk.text for chunk in model.stream("What is the capital of Peru?")]
        assert [text for text in texts if text] == ["The", " capital", " of", " Peru", " is", " Lima."]

    def test_the_token_usage_of_a_stream_comes_last(self, model: AzureChatOpenAI) -> None:
        streamed = whole(model.stream("Hello"))
        assert streamed.usage_metadata == model.invoke("Hello").usage_metadata
        assert streamed.response_metadata["finish_reason"] == "stop"
        assert streamed.response_metadata["model_name"] == "gpt-4o-2024-11-20"

    async def test_the_emulator_streams_to_asynchronous_clients(self, model: AzureChatOpenAI) -> None:
        texts = [chunk.text async for chunk in model.astream("Hello")]
        assert "".join(texts) == "You said: Hello"

    def test_the_events_of_a_stream_have_the_format_of_azure(self, emulator: AzureEmulator) -> None:
        response = post(emulator, "Hello", stream=True, stream_options={"include_usage": True})
        prompt, role, *tokens, finish, usage = events(response)
        assert response.headers["content-type"].startswith("text/event-stream")
        assert prompt["choices"] == []
        assert prompt["prompt_filter_results"][0]["content_filter_results"]["hate"] == SAFE
        assert role["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
        assert [token["choices"][0]["delta"]["content"] for token in tokens] == ["You", " said:", " Hello"]
        assert all(token["choices"][0]["content_filter_results"]["hate"] == SAFE for token in tokens)
        assert finish["choices"][0] == {
            "index": 0,
            "delta": {},
            "finish_reason": "stop",
            "logprobs": None,
            "content_filter_results": {},
        }
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == 3
        assert {event["object"] for event in (role, *tokens, finish, usage)} == {"chat.completion.chunk"}

    def test_a_stream_has_no_token_usage_unless_it_is_requested(self, emulator: AzureEmulator) -> None:
        assert not any("usage" in event for event in events(post(emulator, stream=True)))

    def test_streamed_choices_are_distinguished_by_their_index(self, emulator: AzureEmulator) -> None:
        streamed = events(post(emulator, "Hello [[n]]", stream=True, n=2))
        texts = {0: "", 1: ""}
        for choice in (choice for event in streamed for choice in event["choices"]):
            texts[choice["index"]] += choice["delta"].get("content", "")
        assert texts == {0: "This is answer 1 of 2.", 1: "This is answer 2 of 2."}

    def test_a_stream_with_a_pace_is_complete(self, model: AzureChatOpenAI) -> None:
        assert whole(model.stream("Hello [[pace 0.001]]")).text == "You said: Hello"


class TestToolCalls:
    QUESTION = "What are the weather and the time in Paris and in Tokyo?"
    WANTED = (
        ("get_weather", {"city": "Paris"}),
        ("get_weather", {"city": "Tokyo"}),
        ("get_time", {"city": "Paris"}),
        ("get_time", {"city": "Tokyo"}),
    )

    def asked(self, emulator: AzureEmulator) -> AIMessage:
        return chat(emulator).bind_tools([get_weather, get_time]).invoke(self.QUESTION)

    def test_tools_are_called_in_parallel(self, emulator: AzureEmulator) -> None:
        message = self.asked(emulator)
        assert tuple((call["name"], call["args"]) for call in message.tool_calls) == self.WANTED
        assert message.response_metadata["finish_reason"] == "tool_calls"

    def test_every_tool_call_of_a_chat_has_its_own_id(self, emulator: AzureEmulator) -> None:
        calls = [*self.asked(emulator).tool_calls, *self.asked(emulator).tool_calls]
        assert len({call["id"] for call in calls}) == 8

    def test_streamed_tool_calls_are_distinguished_by_their_index(self, emulator: AzureEmulator) -> None:
        stream = chat(emulator).bind_tools([get_weather, get_time]).stream(self.QUESTION)
        message = whole(cast("Iterator[AIMessageChunk]", stream))
        assert tuple((call["name"], call["args"]) for call in message.tool_calls) == self.WANTED

    def test_the_arguments_of_a_tool_call_are_streamed_in_parts(self, emulator: AzureEmulator) -> None:
        stream = chat(emulator).bind_tools([get_weather]).stream("The weather in Paris?")
        deltas = [delta for chunk in stream for delta in cast("AIMessageChunk", chunk).tool_call_chunks]
        assert [(delta["name"], delta["args"]) for delta in deltas] == [
            ("get_weather", ""),
            (None, '{"city":'),
            (None, ' "Paris"}'),
        ]
        assert [bool(delta["id"]) for delta in deltas] == [True, False, False]

    def test_the_answer_of_a_chat_contains_the_tool_results(self, emulator: AzureEmulator) -> None:
        asked = self.asked(emulator)
        results = [ToolMessage(f"result {call['id']}", tool_call_id=call["id"]) for call in asked.tool_calls]
        answer = chat(emulator).bind_tools([get_weather]).invoke([HumanMessage("?"), asked, *results])
        assert not answer.tool_calls
        assert all(result.text in answer.text for result in results)

    def test_a_directive_in_the_question_calls_any_tool(self, emulator: AzureEmulator) -> None:
        text = 'Go [[call get_time {"city": "Lima"}]] [[call get_weather {"city": "Oslo"}]]'
        message = chat(emulator).bind_tools([get_weather, get_time]).invoke(text)
        assert [call["args"]["city"] for call in message.tool_calls] == ["Lima", "Oslo"]

    def test_a_tool_loop_of_a_chat_alternates_two_tools_until_it_has_enough_results(
        self, emulator: AzureEmulator
    ) -> None:
        agent = chat(emulator).bind_tools([get_weather, get_time])
        conversation: list[BaseMessage] = [HumanMessage("Go round [[loop 3]]")]
        names = []
        while (message := agent.invoke(conversation)).tool_calls:
            (call,) = message.tool_calls
            names.append(call["name"])
            conversation += [message, ToolMessage("done", tool_call_id=call["id"])]
        assert names == ["get_weather", "get_time", "get_weather"]
        assert message.content == "Done after 3 tool results."

    def test_a_forced_tool_of_a_chat_is_called(self, emulator: AzureEmulator) -> None:
        forced = chat(emulator).bind_tools([get_weather, get_time], tool_choice="get_time")
        assert forced.invoke("Hello").tool_calls[0]["name"] == "get_time"


class TestContentFilters:
    def test_a_filtered_prompt_of_a_chat_is_refused_with_its_verdicts(self, emulator: AzureEmulator) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            chat(emulator).invoke("Hello [[filter:prompt]]")
        body = cast("dict[str, Any]", refused.value.body)
        assert body["code"] == "content_filter"
        assert body["param"] == "prompt"
        assert body["status"] == 400
        assert body["innererror"]["code"] == "ResponsibleAIPolicyViolation"
        assert body["innererror"]["content_filter_result"]["violence"] == VIOLENT
        assert body["innererror"]["content_filter_result"]["hate"] == SAFE

    def test_a_jailbreak_is_a_detected_verdict(self, emulator: AzureEmulator) -> None:
        error = post(emulator, "Hello [[filter:prompt jailbreak]]").json()["error"]
        verdicts = error["innererror"]["content_filter_result"]
        assert verdicts["jailbreak"] == {"filtered": True, "detected": True}

    def test_a_filtered_prompt_of_a_streamed_chat_is_refused(self, emulator: AzureEmulator) -> None:
        with pytest.raises(openai.BadRequestError, match="content management policy"):
            whole(chat(emulator).stream("Hello [[filter:prompt]]"))

    def test_langchain_raises_when_a_completion_is_filtered(self, emulator: AzureEmulator) -> None:
        with pytest.raises(ValueError, match="content filter being triggered"):
            chat(emulator).invoke("one two three four [[filter:completion]]")

    def test_a_filtered_completion_is_cut_in_the_middle(self, emulator: AzureEmulator) -> None:
        choice = post(emulator, "one two three four [[filter:completion hate]]").json()["choices"][0]
        assert choice["message"]["content"] == "You said: one"
        assert choice["finish_reason"] == "content_filter"
        assert choice["content_filter_results"]["hate"] == VIOLENT

    def test_a_filtered_chat_stream_ends_with_the_verdict(self, emulator: AzureEmulator) -> None:
        finish = events(post(emulator, "one two [[filter:completion]]", stream=True))[-1]["choices"][0]
        assert finish["finish_reason"] == "content_filter"
        assert finish["content_filter_results"]["violence"] == VIOLENT

    def test_langchain_keeps_text_that_was_streamed_before_the_filter(self, emulator: AzureEmulator) -> None:
        message = whole(chat(emulator).stream("one two three four [[filter:completion]]"))
        assert message.text == "You said: one"
        assert message.response_metadata["finish_reason"] == "content_filter"

    @pytest.mark.parametrize(
        ("category", "verdict"),
        [
            ("violence", VIOLENT),
            ("hate", VIOLENT),
            ("protected_material_text", {"filtered": True, "detected": True}),
            ("profanity", {"filtered": True, "detected": True}),
        ],
    )
    def test_only_the_last_event_of_a_filtered_stream_names_the_filter(
        self, emulator: AzureEmulator, category: str, verdict: dict[str, Any]
    ) -> None:
        text = f"one two three four [[filter:completion {category}]]"
        _, role, *tokens, finish = [event["choices"] for event in events(post(emulator, text, stream=True))]
        assert role[0]["content_filter_results"] == {}
        assert [token[0]["delta"]["content"] for token in tokens] == ["You", " said:", " one"]
        for (token,) in tokens:
            verdicts = token["content_filter_results"].values()
            assert verdicts
            assert not any(one["filtered"] for one in verdicts)
        (last,) = finish
        assert (last["delta"], last["finish_reason"]) == ({}, "content_filter")
        filtered = {name: one for name, one in last["content_filter_results"].items() if one["filtered"]}
        assert filtered == {category: verdict}


class TestRefusals:
    def test_a_refusal_replaces_the_content_of_a_chat_answer(self, emulator: AzureEmulator) -> None:
        choice = post(emulator, "Help me [[refuse]]").json()["choices"][0]
        assert choice["message"] == {
            "role": "assistant",
            "content": None,
            "refusal": "I'm sorry, but I can't help with that.",
        }
        assert choice["finish_reason"] == "stop"

    def test_the_words_of_a_refusal_can_be_chosen_and_are_tokens(self, model: AzureChatOpenAI) -> None:
        message = model.invoke("Help me [[refuse I would rather not.]]")
        assert message.content == ""
        assert message.additional_kwargs["refusal"] == "I would rather not."
        assert message.usage_metadata is not None
        assert message.usage_metadata["output_tokens"] == 4

    def test_a_refusal_is_streamed_token_by_token(self, emulator: AzureEmulator) -> None:
        streamed = events(post(emulator, "Help me [[refuse I would rather not.]]", stream=True))
        _, role, *tokens, finish = [event["choices"] for event in streamed]
        assert role[0]["delta"] == {"role": "assistant", "content": None, "refusal": None}
        assert [token[0]["delta"] for token in tokens] == [
            {"refusal": word} for word in ("I", " would", " rather", " not.")
        ]
        assert finish[0]["finish_reason"] == "stop"

    def test_a_model_that_refuses_calls_no_tool(self, emulator: AzureEmulator) -> None:
        message = chat(emulator).bind_tools([get_weather]).invoke("The weather in Paris? [[refuse]]")
        assert not message.tool_calls


class TestFailures:
    def test_a_wrong_key_is_refused(self, emulator: AzureEmulator) -> None:
        with pytest.raises(openai.AuthenticationError, match="invalid subscription key") as refused:
            AzureChatOpenAI(**emulator.chat() | {"api_key": "wrong"}).invoke("Hello")
        assert cast("dict[str, Any]", refused.value.body)["code"] == "401"

    def test_a_bearer_token_is_accepted_instead_of_a_key(self, emulator: AzureEmulator) -> None:
        options = {name: value for name, value in emulator.chat().items() if name != "api_key"}
        bearer = AzureChatOpenAI(**options, azure_ad_token=SecretStr(emulator.api_key))
        assert bearer.invoke("Hello").content == "You said: Hello"

    def test_a_wrong_token_is_refused(self, emulator: AzureEmulator) -> None:
        options = {name: value for name, value in emulator.chat().items() if name != "api_key"}
        with pytest.raises(openai.AuthenticationError, match="Access token is missing, invalid"):
            AzureChatOpenAI(**options, azure_ad_token=SecretStr("wrong")).invoke("Hello")

    def test_a_request_without_a_key_is_refused(self, emulator: AzureEmulator) -> None:
        response = httpx.post(f"{emulator.endpoint}/openai/deployments/any/chat/completions", json={})
        assert response.status_code == 401
        assert "missing subscription key" in response.json()["error"]["message"]

    def test_a_request_without_an_api_version_is_refused(self, emulator: AzureEmulator) -> None:
        url = f"{emulator.endpoint}/openai/deployments/{emulator.deployment}/chat/completions"
        response = httpx.post(url, json={}, headers={"api-key": emulator.api_key})
        assert (response.status_code, response.json()["error"]["message"]) == (404, "Resource not found")

    def test_an_unknown_deployment_of_a_chat_is_not_found(self, emulator: AzureEmulator) -> None:
        with pytest.raises(openai.NotFoundError) as missing:
            AzureChatOpenAI(**emulator.chat() | {"azure_deployment": "nowhere"}).invoke("Hello")
        assert cast("dict[str, Any]", missing.value.body)["code"] == "DeploymentNotFound"

    def test_an_embedding_model_refuses_a_chat(self, emulator: AzureEmulator) -> None:
        options = emulator.chat() | {"azure_deployment": emulator.embedding_deployment}
        with pytest.raises(openai.BadRequestError, match="does not work with the specified model"):
            AzureChatOpenAI(**options).invoke("Hello")

    def test_a_chat_without_messages_is_refused(self, emulator: AzureEmulator) -> None:
        response = post(emulator, messages=[])
        assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")

    def test_the_sdk_retries_a_rate_limited_chat(self, emulator: AzureEmulator) -> None:
        before = len(emulator.requests)
        assert AzureChatOpenAI(**emulator.chat()).invoke("Try [[429 x2]]").content == "You said: Try"
        retries = [request.headers["x-stainless-retry-count"] for request in emulator.requests[before:]]
        assert retries == ["0", "1", "2"]

    def test_the_sdk_gives_up_when_its_retries_are_used(self, emulator: AzureEmulator) -> None:
        with pytest.raises(openai.RateLimitError) as limited:
            AzureChatOpenAI(**emulator.chat(), max_retries=1).invoke("Try [[429]]")
        headers = limited.value.response.headers
        assert headers["retry-after"] == "1"
        assert headers["retry-after-ms"] == "20"
        assert headers["x-ratelimit-remaining-tokens"] == "0"

    def test_the_wait_after_a_rate_limit_can_be_chosen(self, emulator: AzureEmulator) -> None:
        response = post(emulator, "Try [[429 after 7]]")
        assert (response.status_code, response.headers["retry-after"]) == (429, "7")

    def test_a_repeated_question_fails_as_often_as_before(self, emulator: AzureEmulator) -> None:
        statuses = [post(emulator, "Again [[503 x1]]").status_code for _ in range(4)]
        assert statuses == [503, 200, 503, 200]

    def test_a_requested_server_error_is_raised(self, emulator: AzureEmulator) -> None:
        with pytest.raises(openai.InternalServerError):
            chat(emulator).invoke("Hello [[500]]")

    def test_a_slow_answer_exceeds_the_timeout_of_the_client(self, emulator: AzureEmulator) -> None:
        with pytest.raises(openai.APITimeoutError):
            chat(emulator, timeout=0.1).invoke("Hello [[slow 5]]")

    @pytest.mark.parametrize("text", ["Hello [[hang]]", "Hello [[hang 2]]"])
    def test_a_stream_can_hang(self, emulator: AzureEmulator, text: str) -> None:
        with pytest.raises(openai.APITimeoutError):
            whole(chat(emulator, timeout=0.1).stream(text))

    def test_a_stream_can_break_after_some_tokens(self, emulator: AzureEmulator) -> None:
        received: list[str] = []
        with pytest.raises(openai.APIConnectionError):
            received.extend(chunk.text for chunk in chat(emulator).stream("Hello [[break 2]]"))
        assert "".join(received) == "You said:"

    def test_an_answer_that_is_not_streamed_can_break(self, emulator: AzureEmulator) -> None:
        with pytest.raises(openai.APIConnectionError):
            chat(emulator).invoke("Hello [[break]]")


class TestEmbeddings:
    @pytest.fixture
    def embeddings(self, emulator: AzureEmulator) -> AzureOpenAIEmbeddings:
        return AzureOpenAIEmbeddings(**emulator.embeddings())

    def test_embeddings_of_texts_that_share_words_are_closer(self, embeddings: AzureOpenAIEmbeddings) -> None:
        query = embeddings.embed_query("When does the library open?")
        near, far = embeddings.embed_documents(["The library opens at nine.", "Parcels wait at the desk."])
        assert dot(query, near) > dot(query, far)

    def test_embeddings_are_repeatable_and_of_length_one(self, embeddings: AzureOpenAIEmbeddings) -> None:
        first, second = embeddings.embed_documents(["tea at four", "tea at four"])
        assert first == second
        assert math.hypot(*first) == pytest.approx(1)

    def test_the_dimensions_of_an_embedding_can_be_chosen(self, emulator: AzureEmulator) -> None:
        small = AzureOpenAIEmbeddings(**emulator.embeddings(), dimensions=16)
        assert len(small.embed_query("Hello")) == 16

    def test_an_empty_text_has_an_embedding(self, embeddings: AzureOpenAIEmbeddings) -> None:
        assert math.hypot(*embeddings.embed_query("")) == pytest.approx(1)

    def test_the_sdk_requests_embeddings_in_base64(
        self, emulator: AzureEmulator, embeddings: AzureOpenAIEmbeddings
    ) -> None:
        vector = embeddings.embed_query("tea")
        sent = emulator.requests[-1].body
        assert sent["encoding_format"] == "base64"
        raw = self.post(emulator, **sent).json()["data"][0]["embedding"]
        assert list(struct.unpack("<256f", base64.b64decode(raw))) == vector

    def test_token_ids_can_be_embedded(self, emulator: AzureEmulator) -> None:
        answer = self.post(emulator, input=[[1, 2, 3], [4]]).json()
        assert [item["index"] for item in answer["data"]] == [0, 1]
        assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
        assert answer["model"] == "text-embedding-3-small"

    def test_the_first_text_of_embeddings_can_request_a_temporary_failure(
        self, emulator: AzureEmulator, embeddings: AzureOpenAIEmbeddings
    ) -> None:
        before = len(emulator.requests)
        assert len(embeddings.embed_documents(["tea [[429 x2]]", "cake"])) == 2
        retries = [request.headers["x-stainless-retry-count"] for request in emulator.requests[before:]]
        assert retries == ["0", "1", "2"]

    def test_only_the_first_text_of_embeddings_can_request_a_failure(
        self, embeddings: AzureOpenAIEmbeddings
    ) -> None:
        assert len(embeddings.embed_documents(["tea", "cake [[500]]"])) == 2

    @pytest.mark.parametrize(
        ("text", "raised"),
        [
            ("tea [[401]]", openai.AuthenticationError),
            ("tea [[429]]", openai.RateLimitError),
            ("tea [[500]]", openai.InternalServerError),
            ("tea [[filter:prompt]]", openai.BadRequestError),
            ("tea [[slow 5]]", openai.APITimeoutError),
            ("tea [[hang]]", openai.APITimeoutError),
            ("tea [[break]]", openai.APIConnectionError),
        ],
    )
    def test_every_failure_of_embeddings_can_be_requested(
        self, emulator: AzureEmulator, text: str, raised: type[openai.OpenAIError]
    ) -> None:
        client = AzureOpenAIEmbeddings(**emulator.embeddings(), max_retries=0, timeout=0.5)
        with pytest.raises(raised):
            client.embed_query(text)

    def test_a_rate_limit_of_embeddings_names_the_embeddings_operation(self, emulator: AzureEmulator) -> None:
        refusal = self.post(emulator, input="tea [[429]]").json()["error"]
        assert refusal["message"].startswith("Requests to the Embeddings_Create Operation")

    def post(self, emulator: AzureEmulator, **body: Any) -> httpx.Response:
        url = f"{emulator.endpoint}/openai/deployments/{emulator.embedding_deployment}/embeddings"
        headers = {"api-key": emulator.api_key}
        return httpx.post(url, json=body, headers=headers, params={"api-version": "2024-10-21"})


class TestHeaders:
    def test_responses_have_the_headers_of_azure(self, emulator: AzureEmulator) -> None:
        headers = post(emulator).headers
        assert headers["x-ms-region"] == "Sweden Central"
        assert headers["x-ms-deployment-name"] == emulator.deployment
        assert headers["azureml-model-session"]
        assert int(headers["x-ratelimit-remaining-requests"]) < int(headers["x-ratelimit-limit-requests"])
        assert int(headers["x-ratelimit-remaining-tokens"]) < int(headers["x-ratelimit-limit-tokens"])

    def test_every_response_has_its_own_ids(self, emulator: AzureEmulator) -> None:
        first, second = post(emulator), post(emulator)
        for name in ("apim-request-id", "x-request-id"):
            assert first.headers[name] != second.headers[name]
        assert first.json()["id"] != second.json()["id"]

    def test_errors_have_the_headers_of_azure(self, emulator: AzureEmulator) -> None:
        assert post(emulator, "Hello [[500]]").headers["apim-request-id"]

    def test_langchain_includes_response_headers_on_request(self, emulator: AzureEmulator) -> None:
        message = chat(emulator, include_response_headers=True).invoke("Hello")
        assert message.response_metadata["headers"]["x-ms-region"] == "Sweden Central"


class TestScripts:
    def test_a_script_can_be_one_text(self, emulator: AzureEmulator, model: AzureChatOpenAI) -> None:
        with emulator.playing(Script.of("Always this.")):
            assert model.invoke("Hello").content == "Always this."
        assert model.invoke("Hello").content == "You said: Hello"

    def test_a_script_answers_by_the_first_rule_that_applies(
        self, emulator: AzureEmulator, model: AzureChatOpenAI
    ) -> None:
        script = Script.of(when(lambda request: "tea" in request.question, "At four."), "No idea.")
        with emulator.playing(script):
            assert [model.invoke(text).content for text in ("When is tea?", "Why?")] == [
                "At four.",
                "No idea.",
            ]

    def test_a_script_can_answer_by_the_turns_of_the_conversation(
        self, emulator: AzureEmulator, model: AzureChatOpenAI
    ) -> None:
        call = Answer(tool_calls=(ToolCall("get_time", '{"city": "Lima"}'),))
        with emulator.playing(Script.of(in_turn(call, "Noon."))):
            asked = model.invoke("What time is it?")
            result = ToolMessage("12:00", tool_call_id=asked.tool_calls[0]["id"])
            answer = model.invoke([HumanMessage("What time is it?"), asked, result])
        assert answer.content == "Noon."

    def test_a_script_can_fail_before_it_answers(
        self, emulator: AzureEmulator, model: AzureChatOpenAI
    ) -> None:
        with emulator.playing(Script.of(failing(2, rate_limited(0.001)), "At last.")):
            assert model.invoke("A question for this test alone").content == "At last."

    def test_a_rule_of_a_script_is_any_function_of_the_request(
        self, emulator: AzureEmulator, model: AzureChatOpenAI
    ) -> None:
        def count(request: Request) -> Answer:
            return Answer(f"{len(request.messages)} on {request.deployment}")

        with emulator.playing(Script.of(count)):
            assert model.invoke("Hello").content == "1 on gpt-4o-prod"

    def test_the_emulator_keeps_the_requests_that_arrived(
        self, emulator: AzureEmulator, model: AzureChatOpenAI
    ) -> None:
        model.invoke("Remember me")
        last = emulator.requests[-1]
        assert last.question == "Remember me"
        assert last.operation == "chat/completions"
        assert last.headers["user-agent"].startswith("langchain-partner-python-azure-openai")

    def test_the_emulator_serves_the_address_without_deployments(self, emulator: AzureEmulator) -> None:
        client = openai.OpenAI(base_url=f"{emulator.endpoint}/openai/v1", api_key=emulator.api_key)
        answer = client.chat.completions.create(
            model=emulator.deployment, messages=[{"role": "user", "content": "Hello"}]
        )
        assert answer.choices[0].message.content == "You said: Hello"


class TestServer:
    def test_two_emulators_run_at_the_same_time(self, emulator: AzureEmulator) -> None:
        with AzureEmulator(Script.of("The other one.")) as other:
            assert other.endpoint != emulator.endpoint
            assert chat(other).invoke("Hello").content == "The other one."

    def test_the_emulator_stops_although_connections_hang(self) -> None:
        arrived = threading.Event()

        def hang(_: Request) -> Answer:
            arrived.set()
            return Answer(fault=Fault("hang"))

        with AzureEmulator(Script.of(hang)) as doomed:
            waiting = threading.Thread(target=self.ask_and_fail, args=(doomed,))
            waiting.start()
            assert arrived.wait(10)
        waiting.join(10)
        assert not waiting.is_alive()
        with pytest.raises(httpx.ConnectError):
            httpx.get(doomed.endpoint)

    def test_the_emulator_serves_in_the_foreground(self, served: dict[str, str]) -> None:
        client = AzureChatOpenAI(
            azure_endpoint=served["AZURE_OPENAI_ENDPOINT"],
            api_key=SecretStr(served["AZURE_OPENAI_API_KEY"]),
            azure_deployment=served["AZURE_OPENAI_DEPLOYMENT"],
            api_version="2024-10-21",
        )
        assert client.invoke("Hello").content == "You said: Hello"

    @pytest.fixture
    def served(self) -> Iterator[dict[str, str]]:
        command = [sys.executable, "-m", "azure_emulator", "--port", "0"]
        with subprocess.Popen(command, cwd=SAMPLES, stdout=subprocess.PIPE, text=True) as serving:
            try:
                assert serving.stdout is not None
                told = [serving.stdout.readline().removeprefix("export ").strip() for _ in range(3)]
                yield dict(line.split("=", 1) for line in told)
            finally:
                serving.terminate()

    def test_samples_use_the_resource_that_the_environment_names(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://mine.openai.azure.com")
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", "mine")
        monkeypatch.setenv("AZURE_OPENAI_DEPLOYMENT", "my-gpt")
        with azure() as service:
            assert service.chat()["azure_endpoint"] == "https://mine.openai.azure.com"
            assert service.chat()["azure_deployment"] == "my-gpt"

    def test_samples_use_the_emulator_where_the_environment_names_none(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("AZURE_OPENAI_ENDPOINT", raising=False)
        with azure() as service:
            assert AzureChatOpenAI(**service.chat()).invoke("Hello").content == "You said: Hello"

    def ask_and_fail(self, emulator: AzureEmulator) -> None:
        with pytest.raises(openai.APIConnectionError):
            chat(emulator).invoke("Hello")
