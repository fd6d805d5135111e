"""Check the emulator's Responses API through the clients that samples and tests use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter, ValidationError

from azure_emulator import Answer, AzureEmulator, Script

VERSION = "2025-04-01-preview"
SAFE = {"filtered": False, "severity": "safe"}
VIOLENT = {"filtered": True, "severity": "medium"}
REASONED = "**Reading the question**\n\nThe user says: Hello"
REFUSAL = "I'm sorry, but I can't help with that."
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@tool
def get_weather(city: str) -> str:
    """Say what the weather is."""
    return f"rain in {city}"


@pytest.fixture
def model(emulator: AzureEmulator) -> AzureChatOpenAI:
    """Make a client as an application would."""
    return chat(emulator)


def chat(emulator: AzureEmulator, **options: Any) -> AzureChatOpenAI:
    """Make a client that does not retry, unless told."""
    given = {**emulator.chat(), "api_version": VERSION, "max_retries": 0, **options}
    return AzureChatOpenAI(**given, use_responses_api=True)


def whole(chunks: Iterator[AIMessageChunk]) -> AIMessageChunk:
    """Add the chunks of a stream up."""
    first, *rest = chunks
    return first + rest


def either(model: AzureChatOpenAI, text: str, *, streamed: bool) -> AIMessage:
    """Ask, and have the answer whole or in chunks."""
    return whole(model.stream(text)) if streamed else model.invoke(text)


def post(emulator: AzureEmulator, text: str = "Hello", **body: Any) -> httpx.Response:
    """Ask without a client library, to see what is on the wire."""
    sent = {"model": emulator.deployment, "input": text, **body}
    headers = {"api-key": emulator.api_key}
    url = f"{emulator.endpoint}/openai/responses"
    return httpx.post(url, json=sent, headers=headers, params={"api-version": VERSION})


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """Take a stream of typed events apart."""
    told = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        told.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {told[-1]['type']}"
    return told


def kinds(told: list[dict[str, Any]]) -> list[str]:
    """Name the events of a stream, each once where it is repeated."""
    names = [event["type"].removeprefix("response.") for event in told]
    return [name for name, before in zip(names, ["", *names], strict=False) if name != before]


both = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


class TestAnswers:
    @both
    def test_a_response_is_a_block_of_text(self, model: AzureChatOpenAI, *, streamed: bool) -> None:
        message = either(model, "What is the capital of France?", streamed=streamed)
        assert message.text == "The capital of France is Paris."
        assert isinstance(message.content, list)
        assert message.response_metadata["status"] == "completed"

    @both
    def test_tokens_of_a_response_are_counted_as_in_a_chat(
        self, model: AzureChatOpenAI, *, streamed: bool
    ) -> None:
        assert either(model, "one two three", streamed=streamed).usage_metadata == {
            "input_tokens": 3 + 3 + 3,
            "output_tokens": 5,  # You said: one two three
            "total_tokens": 14,
            "input_token_details": {"cache_read": 0},
            "output_token_details": {"reasoning": 0},
        }

    def test_a_long_prompt_of_a_response_comes_from_the_cache(self, model: AzureChatOpenAI) -> None:
        usage = model.invoke("word " * 1100).usage_metadata
        assert usage is not None
        assert usage["input_token_details"]["cache_read"] == 1024

    @both
    def test_reasoning_of_a_response_has_a_count_and_a_summary(
        self, model: AzureChatOpenAI, *, streamed: bool
    ) -> None:
        message = either(model, "Hello [[reasoning 64]]", streamed=streamed)
        thought, said = cast("list[dict[str, Any]]", message.content)
        assert (thought["type"], thought["summary"][0]["text"]) == ("reasoning", REASONED)
        assert said["text"] == "You said: Hello"
        assert message.usage_metadata is not None
        assert message.usage_metadata["output_token_details"]["reasoning"] == 64
        assert message.usage_metadata["output_tokens"] == 64 + 3

    def test_reasoning_of_a_script_may_have_several_parts_or_none(self, emulator: AzureEmulator) -> None:
        thoughts = (("First.", "Then."), ())
        for summary in thoughts:
            with emulator.playing(Script.of(Answer("Done.", reasoning_tokens=9, reasoning=summary))):
                item = post(emulator).json()["output"][0]
                message = whole(chat(emulator).stream("Hello"))
            assert [part["text"] for part in item["summary"]] == list(summary)
            thought = cast("dict[str, Any]", message.content[0])
            assert [part["text"] for part in thought["summary"]] == list(summary)

    def test_encrypted_reasoning_is_sent_on_request(self, emulator: AzureEmulator) -> None:
        include = {"include": ["reasoning.encrypted_content"]}
        assert post(emulator, "[[reasoning 1]]", **include).json()["output"][0]["encrypted_content"]
        assert "encrypted_content" not in post(emulator, "[[reasoning 1]]").json()["output"][0]

    @both
    def test_a_refusal_is_a_separate_part_of_a_response(
        self, model: AzureChatOpenAI, *, streamed: bool
    ) -> None:
        content = either(model, "Help me [[refuse]]", streamed=streamed).content
        (block,) = cast("list[dict[str, Any]]", content)
        assert (block["type"], block["refusal"]) == ("refusal", REFUSAL)

    @both
    def test_a_token_limit_leaves_the_answer_incomplete(
        self, emulator: AzureEmulator, *, streamed: bool
    ) -> None:
        message = either(chat(emulator, max_tokens=4), "one two three four five", streamed=streamed)
        assert message.text == "You said: one two"
        assert message.response_metadata["status"] == "incomplete"
        assert message.response_metadata["incomplete_details"] == {"reason": "max_output_tokens"}

    def test_a_response_can_be_long(self, model: AzureChatOpenAI) -> None:
        message = model.invoke("Write [[tokens 1000]]")
        assert message.usage_metadata is not None
        assert message.usage_metadata["output_tokens"] == 1000

    def test_the_deployment_is_named_and_a_header_names_the_served_model(
        self, emulator: AzureEmulator
    ) -> None:
        answer = chat(emulator, include_response_headers=True).invoke("Hello")
        assert answer.response_metadata["model_name"] == "gpt-4o-prod"
        headers = answer.response_metadata["headers"]
        assert headers["x-ms-served-model"] == "gpt-4o-2024-11-20"
        assert "x-ms-deployment-name" not in headers

    def test_responses_are_served_at_both_addresses(self, emulator: AzureEmulator) -> None:
        client = openai.OpenAI(base_url=f"{emulator.endpoint}/openai/v1", api_key=emulator.api_key)
        answer = client.responses.create(model=emulator.deployment, input="Hello")
        assert answer.output_text == post(emulator).json()["output"][0]["content"][0]["text"]

    def test_instructions_are_part_of_the_conversation(self, emulator: AzureEmulator) -> None:
        plain, told = (post(emulator, **more).json() for more in ({}, {"instructions": "Be kind."}))
        assert told["instructions"] == "Be kind."
        assert told["usage"]["input_tokens"] - plain["usage"]["input_tokens"] == 2 + 3

    @both
    def test_a_response_has_the_requested_format(self, model: AzureChatOpenAI, *, streamed: bool) -> None:
        class Capital(BaseModel):
            name: str

        chain = model.with_structured_output(Capital)
        question = "What is the capital of Peru?"
        found = list(chain.stream(question))[-1] if streamed else chain.invoke(question)
        assert found == Capital(name="The capital of Peru is Lima.")

    def test_a_response_to_a_picture_is_about_the_text_beside_it(
        self, emulator: AzureEmulator, model: AzureChatOpenAI
    ) -> None:
        answer = model.invoke([HumanMessage([{"type": "text", "text": "Who is this?"}, PICTURE])])
        assert answer.text == "You said: Who is this?"
        (asked,) = emulator.requests[-1].body["input"]
        assert [block["type"] for block in asked["content"]] == ["input_text", "input_image"]

    async def test_responses_are_served_to_asynchronous_clients(self, model: AzureChatOpenAI) -> None:
        assert (await model.ainvoke("Hello")).text == "You said: Hello"
        assert "".join([chunk.text async for chunk in model.astream("Hello")]) == "You said: Hello"


class TestWire:
    def test_a_response_has_only_fields_that_the_sdk_knows(self, emulator: AzureEmulator) -> None:
        body = post(emulator, "Hello [[reasoning 4]] [[call get_weather]]").json()
        with pytest.raises(ValidationError) as unlike:
            Response.model_validate(body)
        # Azure did not send it in August 2026; the SDK does not insist either.
        assert [error["loc"][-1] for error in unlike.value.errors()] == ["cache_write_tokens"]

    def test_the_text_of_a_response_is_streamed_in_typed_events(self, emulator: AzureEmulator) -> None:
        told = events(post(emulator, stream=True))
        assert kinds(told) == [
            "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
            "output_text.done", "content_part.done", "output_item.done", "completed",
        ]  # fmt: skip
        assert [event["sequence_number"] for event in told] == list(range(len(told)))
        assert [event["delta"] for event in told if "delta" in event] == ["You", " said:", " Hello"]
        assert told[0]["response"]["content_filters"] is None
        assert told[0]["response"]["usage"] is None
        ends, begins = told[-1]["response"], told[0]["response"]
        assert (begins["id"], begins["status"], ends["status"]) == (ends["id"], "in_progress", "completed")
        assert ends["output"] == [told[-2]["item"]]

    def test_reasoning_and_calls_are_streamed_in_typed_events(self, emulator: AzureEmulator) -> None:
        told = events(post(emulator, '[[reasoning 4]] [[call get_weather {"city": "Oslo"}]]', stream=True))
        assert kinds(told) == [
            "created", "in_progress",
            "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
            "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done",
            "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
            "output_item.done", "completed",
        ]  # fmt: skip

    def test_a_refusal_is_streamed_in_typed_events(self, emulator: AzureEmulator) -> None:
        told = events(post(emulator, "[[refuse]]", stream=True))
        assert kinds(told)[3:7] == [
            "content_part.added", "refusal.delta", "refusal.done", "content_part.done",
        ]  # fmt: skip

    @pytest.mark.parametrize("text", ["Hello [[reasoning 2]]", "[[refuse]]", "[[call get_weather]]"])
    def test_every_event_but_the_last_is_of_a_type_that_the_sdk_knows(
        self, emulator: AzureEmulator, text: str
    ) -> None:
        known: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
        for event in events(post(emulator, text, stream=True))[:-1]:
            assert known.validate_python(event).type == event["type"]

    def test_ids_have_the_prefix_of_their_type(self, emulator: AzureEmulator) -> None:
        body = post(emulator, "Hello [[reasoning 4]]").json()
        called = post(emulator, "[[call get_weather]]").json()["output"][0]
        ids = [body["id"], *(item["id"] for item in body["output"]), called["id"], called["call_id"]]
        assert [one.partition("_")[0] for one in ids] == ["resp", "rs", "msg", "fc", "call"]


class TestToolCalls:
    QUESTION = "What is the weather in Paris and in Tokyo?"
    WANTED = (("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Tokyo"}))

    @pytest.mark.parametrize("streamed", [False, True])
    def test_tools_are_called_in_parallel_and_their_results_reported(
        self, model: AzureChatOpenAI, *, streamed: bool
    ) -> None:
        agent = model.bind_tools([get_weather])
        asked: AIMessage = (
            whole(cast("Iterator[AIMessageChunk]", agent.stream(self.QUESTION)))
            if streamed
            else agent.invoke(self.QUESTION)
        )
        assert tuple((call["name"], call["args"]) for call in asked.tool_calls) == self.WANTED
        results = [get_weather.invoke(call) for call in asked.tool_calls]
        answer = agent.invoke([HumanMessage(self.QUESTION), asked, *results])
        assert answer.text == "Here is what I found: rain in Paris; rain in Tokyo."

    def test_every_tool_call_has_its_own_id(self, model: AzureChatOpenAI) -> None:
        agent = model.bind_tools([get_weather])
        calls = [*agent.invoke(self.QUESTION).tool_calls, *agent.invoke(self.QUESTION).tool_calls]
        assert len({call["id"] for call in calls}) == 4

    def test_a_forced_tool_of_a_response_is_called(self, model: AzureChatOpenAI) -> None:
        forced = model.bind_tools([get_weather], tool_choice="get_weather")
        assert forced.invoke("Hello").tool_calls[0]["name"] == "get_weather"

    def test_a_tool_loop_of_a_response_continues_until_it_has_enough_results(
        self, model: AzureChatOpenAI
    ) -> None:
        agent = model.bind_tools([get_weather])
        conversation: list[BaseMessage] = [HumanMessage("Go round [[loop 3]] [[reasoning 2]]")]
        while (message := agent.invoke(conversation)).tool_calls:
            (call,) = message.tool_calls
            conversation += [message, ToolMessage("done", tool_call_id=call["id"])]
        assert message.text == "Done after 3 tool results."

    def test_a_conversation_stored_on_the_server_is_answered_by_its_last_items(
        self, emulator: AzureEmulator
    ) -> None:
        agent = chat(emulator, use_previous_response_id=True).bind_tools([get_weather])
        asked = agent.invoke("The weather in Paris?")
        result = get_weather.invoke(asked.tool_calls[0])
        answer = agent.invoke([HumanMessage("The weather in Paris?"), asked, result])
        assert answer.text == "Here is what I found: rain in Paris."
        assert emulator.requests[-1].body["previous_response_id"] == asked.response_metadata["id"]


class TestContentFilters:
    def test_a_response_has_verdicts_on_prompt_and_completion(self, emulator: AzureEmulator) -> None:
        prompt, completion = post(emulator).json()["content_filters"]
        assert (prompt["source_type"], completion["source_type"]) == ("prompt", "completion")
        assert not prompt["blocked"]
        assert not completion["blocked"]
        assert prompt["content_filter_results"]["jailbreak"] == {"filtered": False, "detected": False}
        assert completion["content_filter_results"]["hate"] == SAFE
        ends = [one["content_filter_offsets"]["end_offset"] for one in (prompt, completion)]
        assert ends == [len("Hello"), len("You said: Hello")]

    def test_a_filtered_prompt_of_a_response_is_refused_with_its_verdicts(
        self, model: AzureChatOpenAI
    ) -> None:
        with pytest.raises(openai.BadRequestError, match="content management policy") as refused:
            model.invoke("Hello [[filter:prompt]]")
        body = cast("dict[str, Any]", refused.value.body)
        assert (body["code"], body["param"], body["type"]) == (
            "content_filter",
            "prompt",
            "invalid_request_error",
        )
        assert body["innererror"] == {"code": "ContentFiltered"}
        (judged,) = body["content_filters"]
        assert judged["blocked"]
        assert judged["content_filter_results"]["violence"] == VIOLENT

    def test_a_filtered_prompt_of_a_streamed_response_is_refused(self, model: AzureChatOpenAI) -> None:
        with pytest.raises(openai.BadRequestError, match="content management policy"):
            whole(model.stream("Hello [[filter:prompt]]"))

    @both
    def test_a_filtered_response_is_incomplete(self, model: AzureChatOpenAI, *, streamed: bool) -> None:
        message = either(model, "one two three four [[filter:completion]]", streamed=streamed)
        assert message.text == "You said: one"
        assert message.response_metadata["incomplete_details"] == {"reason": "content_filter"}

    def test_a_filtered_response_stream_ends_with_the_verdict(self, emulator: AzureEmulator) -> None:
        *_, last = events(post(emulator, "one two three [[filter:completion hate]]", stream=True))
        assert last["type"] == "response.incomplete"
        prompt, completion = last["response"]["content_filters"]
        assert (prompt["blocked"], completion["blocked"]) == (False, True)
        assert completion["content_filter_results"]["hate"] == VIOLENT
        assert completion["content_filter_results"]["violence"] == SAFE


class TestFailures:
    def test_the_sdk_retries_a_rate_limited_response(self, emulator: AzureEmulator) -> None:
        before = len(emulator.requests)
        assert chat(emulator, max_retries=2).invoke("Try [[429 x2]]").text == "You said: Try"
        retries = [request.headers["x-stainless-retry-count"] for request in emulator.requests[before:]]
        assert retries == ["0", "1", "2"]

    @both
    @pytest.mark.parametrize(
        ("text", "raised"),
        [
            ("Hello [[401]]", openai.AuthenticationError),
            ("Hello [[429]]", openai.RateLimitError),
            ("Hello [[500]]", openai.InternalServerError),
            ("Hello [[slow 5]]", openai.APITimeoutError),
            ("Hello [[hang]]", openai.APITimeoutError),
            ("Hello [[break]]", openai.APIConnectionError),
        ],
    )
    def test_every_failure_of_a_response_can_be_requested(
        self, emulator: AzureEmulator, text: str, raised: type[openai.OpenAIError], *, streamed: bool
    ) -> None:
        with pytest.raises(raised):
            either(chat(emulator, timeout=0.5), text, streamed=streamed)

    @pytest.mark.parametrize("thinking", ["", " [[reasoning 3]]"])
    def test_a_stream_breaks_after_the_requested_number_of_tokens(
        self, model: AzureChatOpenAI, thinking: str
    ) -> None:
        received: list[str] = []
        with pytest.raises(openai.APIConnectionError):
            received.extend(chunk.text for chunk in model.stream(f"Hello [[break 2]]{thinking}"))
        assert "".join(received) == "You said:"

    def test_an_unknown_deployment_of_a_response_is_not_found(self, emulator: AzureEmulator) -> None:
        with pytest.raises(openai.NotFoundError) as missing:
            chat(emulator, azure_deployment="nowhere").invoke("Hello")
        assert cast("dict[str, Any]", missing.value.body)["code"] == "DeploymentNotFound"

    def test_a_request_without_input_is_refused(self, emulator: AzureEmulator) -> None:
        refusal = post(emulator, input="")
        assert (refusal.status_code, refusal.json()["error"]["type"]) == (400, "invalid_request_error")
