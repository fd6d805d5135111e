"""Turns LangChain's values into the shapes that MLflow shows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, Generation, LLMResult
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue
from langchain_openai import AzureChatOpenAI
from langgraph.types import Command

from langchain_mlflow_tracer.core.json_text import json_bytes
from langchain_mlflow_tracer.recording.content import inputs_outputs
from langchain_mlflow_tracer.recording.content.messages import MessageFreezer
from langchain_mlflow_tracer.recording.models.chat_completion import Answer, capture_answer


def shown(value: object) -> Any:
    return MessageFreezer()(value)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (HumanMessage("hi", name="Ada"), {"role": "user", "content": "hi", "name": "Ada"}),
        (SystemMessage("be"), {"role": "system", "content": "be"}),
        (AIMessage("yes"), {"role": "assistant", "content": "yes"}),
        (AIMessageChunk(content="ye"), {"role": "assistant", "content": "ye"}),
        (ChatMessage(content="x", role="developer"), {"role": "system", "content": "x"}),
        (ChatMessage(content="x", role="critic"), {"role": "user", "content": "x", "name": "critic"}),
        (FunctionMessage(content="x", name="f"), {"role": "tool", "content": "x", "name": "f"}),
        (ToolMessage("x", tool_call_id="1"), {"role": "tool", "content": "x", "tool_call_id": "1"}),
        (
            ToolMessage("x", tool_call_id="1", status="error"),
            {"role": "tool", "content": "x", "tool_call_id": "1", "status": "error"},
        ),
        (
            HumanMessage([{"type": "text", "text": "hi"}]),
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        ),
        (AIMessage(["a", {"type": "text", "text": "b"}]), {"role": "assistant", "content": "ab"}),
        (
            AIMessage("", additional_kwargs={"refusal": "I will not"}),
            {"role": "assistant", "content": "I will not", "refusal": "I will not"},
        ),
        (
            AIMessage([{"type": "refusal", "refusal": "No"}]),
            {"role": "assistant", "content": "No", "refusal": "No"},
        ),
        (
            AIMessage(
                [
                    {
                        "type": "reasoning",
                        "summary": [{"type": "summary_text", "text": "one"}, {"text": "two"}],
                    },
                    {"type": "reasoning", "reasoning": "three"},
                    {"type": "text", "text": "so"},
                ]
            ),
            {"role": "assistant", "content": "so", "reasoning": "one\n\ntwo\n\nthree"},
        ),
    ],
)
def test_every_type_of_message_is_copied_as_a_role_message(
    message: BaseMessage, expected: dict[str, Any]
) -> None:
    assert shown(message) == expected


def test_tool_calls_valid_or_invalid_have_openais_form_and_null_content() -> None:
    message = AIMessage(
        "",
        tool_calls=[{"id": "1", "name": "f", "args": {"city": "Rome"}}],
        invalid_tool_calls=[
            {"id": "2", "name": "g", "args": "{broken", "error": "x", "type": "invalid_tool_call"}
        ],
    )
    found = shown(message)
    assert found["content"] is None
    assert json_bytes(found["tool_calls"]) == (
        b'[{"id":"1","type":"function","function":{"name":"f","arguments":"{\\"city\\":\\"Rome\\"}"}},'
        b'{"id":"2","type":"function","function":{"name":"g","arguments":"{broken"}}]'
    )


def test_documents_and_prompts_are_copied_with_their_content() -> None:
    assert shown(Document("text", metadata={"page": 1})) == {"page_content": "text", "metadata": {"page": 1}}
    assert shown(Document("text", id="7"))["id"] == "7"
    assert shown(StringPromptValue(text="hi")) == "hi"
    prompt = ChatPromptValue(messages=[HumanMessage("hi")])
    assert shown(prompt) == {"messages": [{"role": "user", "content": "hi"}]}


def test_a_model_among_the_inputs_is_copied_as_its_name_only() -> None:
    client: Any = {"azure_endpoint": "https://secret.host", "api_key": "k" * 20, "api_version": "1"}
    model = AzureChatOpenAI(azure_deployment="d", **client)
    assert shown({"model": model}) == {"model": "<AzureChatOpenAI>"}


@pytest.mark.parametrize(
    ("given", "role", "text"),
    [
        ("hi", "user", "hi"),
        (("system", "be"), "system", "be"),
        (("ai", "yes"), "assistant", "yes"),
        (("who?", "hm"), "user", "hm"),
        ({"role": "developer", "content": "x"}, "system", "x"),
        ({"type": "human", "content": "x"}, "user", "x"),
        (HumanMessage("x"), "user", "x"),
    ],
)
def test_messages_of_a_root_become_role_messages_in_every_form_of_langchain(
    given: object, role: str, text: str
) -> None:
    written: Any = {"messages": [{"role": role, "content": text}], "more": 1}
    assert inputs_outputs.conversation({"messages": [given], "more": 1}, MessageFreezer()) == written
    if given != ("who?", "hm"):  # two texts, to LangChain
        assert inputs_outputs.conversation({"messages": given, "more": 1}, MessageFreezer()) == written


@pytest.mark.parametrize(
    "given",
    [
        HumanMessage("x"), [HumanMessage("x")], [("user", "x")], [{"role": "user", "content": "x"}],
        [{"type": "human", "content": "x"}],
    ],
)  # fmt: skip
def test_messages_without_a_dict_are_copied_as_a_conversation(given: object) -> None:
    found = inputs_outputs.conversation(given, MessageFreezer())
    assert found == {"messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    "given",
    [[], {}, None, 5, "text", ["a", "b"], [1, 2], [{"type": "doc", "content": "x"}], {"messages": None}],
)
def test_values_without_messages_are_copied_unchanged(given: object) -> None:
    assert inputs_outputs.conversation(given, MessageFreezer()) == given


def test_items_among_messages_that_are_no_messages_are_copied_unchanged() -> None:
    given = {"messages": [{"text": "x"}, 5, ["a", "b", "c"]]}
    assert inputs_outputs.conversation(given, MessageFreezer()) == given


def test_model_parameters_are_copied_by_an_allow_list() -> None:
    invocation = {
        "temperature": 0.5, "max_completion_tokens": 10, "stop": None, "seed": 7, "stream": False,
        "default_headers": {"api-key": "secret"}, "azure_endpoint": "https://host", "extra_body": {"x": 1},
    }  # fmt: skip
    assert inputs_outputs.parameters(invocation, MessageFreezer()) == {
        "temperature": 0.5, "max_completion_tokens": 10, "seed": 7,
    }  # fmt: skip


def test_an_azure_deployment_is_not_recorded_as_a_model() -> None:
    azure = inputs_outputs.request_attributes(
        {"azure_deployment": "prod", "temperature": 0.5, "max_tokens": 10}, {"ls_provider": "azure"}
    )
    assert azure == {
        "mlflow.llm.provider": "azure", "azure.deployment": "prod",
        "gen_ai.request.temperature": 0.5, "gen_ai.request.max_tokens": 10,
    }  # fmt: skip
    other = inputs_outputs.request_attributes({"model": "gpt-4o"}, {"ls_model_name": "gpt-4o"})
    assert other == {"mlflow.llm.model": "gpt-4o", "gen_ai.request.model": "gpt-4o"}


def test_offered_tools_are_read_from_tools_or_functions() -> None:
    assert inputs_outputs.offered_tools({"tools": [{"type": "function"}]}) == [{"type": "function"}]
    assert inputs_outputs.offered_tools({"functions": [{"name": "f"}]}) == [{"name": "f"}]
    assert inputs_outputs.offered_tools({}) is None


def test_prompts_of_a_plain_llm_are_copied() -> None:
    assert inputs_outputs.llm_inputs({}, ["one"], MessageFreezer()) == {"prompt": "one"}
    assert inputs_outputs.llm_inputs({"n": 2}, ["one", "two"], MessageFreezer()) == {
        "prompt": ["one", "two"],
        "n": 2,
    }


def chat(*messages: AIMessage, **llm_output: Any) -> LLMResult:
    generations: list[Any] = [
        ChatGeneration(message=message, generation_info={"finish_reason": "stop"}) for message in messages
    ]
    return LLMResult(generations=[generations], llm_output=llm_output or None)


def read(result: LLMResult) -> Answer:
    return Answer.of(capture_answer(result, MessageFreezer()))


class TestAnswer:
    def test_the_usage_of_several_generations_is_the_usage_of_the_call(self) -> None:
        usage: Any = {"input_tokens": 10, "output_tokens": 6, "total_tokens": 16}
        messages = [AIMessage("a", usage_metadata=usage), AIMessage("b", usage_metadata=usage)]
        assert read(chat(*messages)).usage.tokens == usage

    def test_cached_tokens_are_in_the_usage(self) -> None:
        usage: Any = {
            "input_tokens": 10, "output_tokens": 6, "total_tokens": 16,
            "input_token_details": {"cache_read": 4, "cache_creation": 0},
        }  # fmt: skip
        assert read(chat(AIMessage("a", usage_metadata=usage))).usage.tokens == {
            "input_tokens": 10, "output_tokens": 6, "total_tokens": 16,
            "cache_read_input_tokens": 4,
        }  # fmt: skip

    def test_usage_is_read_from_the_call_if_messages_have_none(self) -> None:
        result = chat(AIMessage("a"), token_usage={"prompt_tokens": 3, "completion_tokens": 2})
        assert read(result).usage.tokens == {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
        assert read(chat(AIMessage("a"), token_usage={})).usage.tokens is None
        assert read(chat(AIMessage("a"), token_usage="much")).usage.tokens is None
        assert read(chat(AIMessage("a"), token_usage={"other": 1})).usage.tokens is None

    def test_facts_of_the_provider_are_in_the_outputs_and_in_attributes(self) -> None:
        message = AIMessage(
            "a",
            response_metadata={
                "model_name": "gpt-4o-2024-11-20", "id": "chatcmpl-1", "finish_reason": "length",
                "system_fingerprint": "fp", "service_tier": "default", "logprobs": {"content": []},
                "content_filter_results": {"hate": {"filtered": False}},
            },
        )  # fmt: skip
        answer = read(chat(message, prompt_filter_results=[{"prompt_index": 0}], system_fingerprint=None))
        assert answer.attributes() == {
            "mlflow.llm.model": "gpt-4o-2024-11-20", "gen_ai.response.id": "chatcmpl-1",
            "gen_ai.response.model": "gpt-4o-2024-11-20", "gen_ai.response.finish_reasons": ["length"],
            "gen_ai.openai.response.system_fingerprint": "fp",
            "gen_ai.openai.response.service_tier": "default",
        }  # fmt: skip
        assert answer.outputs() == {
            "id": "chatcmpl-1", "model": "gpt-4o-2024-11-20",
            "choices": [{
                "index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "length",
                "logprobs": {"content": []}, "content_filter_results": {"hate": {"filtered": False}},
            }],
            "prompt_filter_results": [{"prompt_index": 0}],
        }  # fmt: skip

    def test_a_generation_without_a_message_becomes_a_choice(self) -> None:
        answer = read(LLMResult(generations=[[Generation(text="so")]]))
        assert answer.outputs() == {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "so"}}]
        }

    def test_an_answer_without_generations_has_no_choices(self) -> None:
        answer = read(LLMResult(generations=[]))
        assert (answer.attributes(), answer.outputs()) == ({}, {"choices": []})


@pytest.mark.parametrize(
    ("block", "drawn"),
    [
        (
            {"type": "image", "url": "https://x/a.png"},
            {"type": "image_url", "url": "https://x/a.png", "image_url": {"url": "https://x/a.png"}},
        ),
        (
            {"type": "input_image", "image_url": "https://x/a.png"},
            {"type": "image_url", "image_url": {"url": "https://x/a.png"}},
        ),
        ({"type": "input_text", "text": "hi"}, {"type": "text", "text": "hi"}),
        (
            {"type": "file", "file_id": "file-1"},
            {"type": "text", "text": "[file: file-1]", "file_id": "file-1"},
        ),
    ],
)
def test_a_content_block_that_refers_to_other_content_is_rewritten_to_a_type_that_mlflow_draws(
    block: dict[str, Any], drawn: dict[str, Any]
) -> None:
    assert shown(HumanMessage([{"type": "text", "text": "see"}, block]))["content"][1] == drawn


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "base64": "AAAA", "mime_type": "image/png"},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
        {"type": "image_url", "image_url": {"url": "https://x/a.png"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}, "id": "1"},
        {"type": "text", "text": "hi"},
    ],
)
def test_a_content_block_that_holds_its_content_is_copied_unchanged(block: dict[str, Any]) -> None:
    assert shown(HumanMessage([block]))["content"] == [block]


def test_an_audio_answer_is_copied() -> None:
    spoken = {"id": "a", "data": "UklGRg==", "transcript": "hello"}
    assert shown(AIMessage("", additional_kwargs={"audio": spoken}))["audio"] == spoken


class Equal:
    """What cannot be compared, as a table of figures cannot."""

    def __eq__(self, other: object) -> bool:
        raise ValueError

    __hash__ = None  # type: ignore[assignment]


def test_a_command_is_copied_with_the_fields_that_are_set() -> None:
    assert shown(Command(update={"a": 1})) == {"a": 1}
    assert shown(Command(resume="yes")) == {"resume": "yes"}
    assert shown(Command(update={"a": 1}, goto="b")) == {"update": {"a": 1}, "goto": "b"}
    assert "Equal" in str(shown(Command(resume=Equal())))
    assert inputs_outputs.plain([Command(update={"a": 1})], MessageFreezer()) == {"a": 1}
    assert inputs_outputs.plain([Command(update={"a": 1}), 2], MessageFreezer()) == [{"a": 1}, 2]


def test_texts_among_content_blocks_keep_their_order() -> None:
    blocks: list[Any] = [{"type": "text", "text": "a"}, "b", {"type": "text", "text": "c"}, "d"]
    assert shown(AIMessage(blocks))["content"] == "abcd"


def test_reasoning_is_copied_from_every_form_of_the_providers() -> None:
    anthropic: list[Any] = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "so"}]
    assert shown(AIMessage(anthropic)) == {"role": "assistant", "content": "so", "reasoning": "hm"}
    deepseek = AIMessage("so", additional_kwargs={"reasoning_content": "hm"})
    assert shown(deepseek) == {"role": "assistant", "content": "so", "reasoning": "hm"}
    odd: list[Any] = [
        {"type": "reasoning", "summary": "none"},
        {"type": "reasoning", "summary": ["x", {"text": 3}]},
    ]
    assert shown(AIMessage(odd)) == {"role": "assistant", "content": ""}


def test_content_blocks_of_an_answer_beside_text_are_copied() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    found = shown(AIMessage([search, {"type": "text", "text": "see"}, image]))
    assert found == {"role": "assistant", "content": "see", "content_blocks": [search, image]}


def test_content_blocks_of_tool_calls_are_copied_only_as_tool_calls() -> None:
    blocks: list[Any] = [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]
    message = AIMessage(blocks, tool_calls=[{"id": "1", "name": "f", "args": {}}])
    assert set(shown(message)) == {"role", "content", "tool_calls"}
    assert shown(message)["content"] is None


def test_circular_arguments_of_a_tool_call_are_copied() -> None:
    arguments: dict[str, Any] = {"city": "Rome"}
    message = AIMessage("", tool_calls=[{"id": "1", "name": "f", "args": arguments}])
    message.tool_calls[0]["args"]["itself"] = message.tool_calls[0]["args"]
    (call,) = shown(message)["tool_calls"]
    assert json.loads(json_bytes(call["function"]["arguments"]).decode())


def test_facts_in_objects_of_a_provider_are_copied() -> None:
    class Odd:
        def __repr__(self) -> str:
            return "odd"

    answer = read(chat(AIMessage("a", response_metadata={"id": Odd(), "finish_reason": Odd()})))
    assert (answer.outputs() or {})["id"] == "odd"
    assert answer.attributes() == {
        "gen_ai.response.id": "odd", "gen_ai.response.finish_reasons": ["odd"],
    }  # fmt: skip


def test_later_changes_of_an_answer_do_not_change_its_copy() -> None:
    filters: dict[str, Any] = {"hate": {"filtered": False}}
    message = AIMessage("a", response_metadata={"content_filter_results": filters})
    found: Any = read(chat(message)).outputs()
    filters["hate"]["filtered"] = True
    message.content = "b"
    (choice,) = found["choices"]
    assert choice["content_filter_results"] == {"hate": {"filtered": False}}
    assert choice["message"]["content"] == "a"
