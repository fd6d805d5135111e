"""Create the JSON of the Responses API: a response with its reasoning, its message and its tool calls.

In `model` Azure returns the deployment, where OpenAI returns the model. Azure returns the model in the header
`x-ms-served-model` (reported by users in 2026).
"""

from __future__ import annotations

from typing import Any

from azure_emulator.choices import Choice, choices, usage
from azure_emulator.filters import content_filters
from azure_emulator.reply import Answer
from azure_emulator.request import Request

Json = dict[str, Any]

_ECHOED: Json = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""The keys that a response repeats from its request, with their default values."""

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""The reason of an incomplete response for each finish reason of chat completions."""


def response(request: Request, answer: Answer, created: int) -> Json:
    """Return a complete response."""
    made = choices(request, answer)[:1]  # the Responses API has one answer only
    (choice,) = made
    reason = _INCOMPLETE.get(choice.finish_reason)
    return {
        **unfinished(request, created),
        "status": "incomplete" if reason else "completed",
        "completed_at": None if reason else created,
        "incomplete_details": {"reason": reason} if reason else None,
        "output": _output(request, answer, choice),
        "content_filters": content_filters(request.characters, choice.characters, choice.filtered),
        "service_tier": "default",
        "usage": _usage(usage(request, answer, made)),
    }


def unfinished(request: Request, created: int) -> Json:
    """Return a response that has just started."""
    given = request.body
    echoed = {key: other if given.get(key) is None else given[key] for key, other in _ECHOED.items()}
    return {
        "id": f"resp_{request.name('response')}",
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "content_filters": None,
        "error": None,
        "incomplete_details": None,
        "model": request.deployment,
        "output": [],
        "service_tier": "auto",
        "usage": None,
        **echoed,
    }


def _output(request: Request, answer: Answer, choice: Choice) -> list[Json]:
    thoughts = [_reasoning(request, answer)] if answer.reasoning_tokens else []
    speaks = choice.tokens or choice.refusal or not choice.tool_calls
    calls = [_call(request, choice, index) for index in range(len(choice.tool_calls))]
    return [*thoughts, *([_message(request, choice)] if speaks else []), *calls]


def _reasoning(request: Request, answer: Answer) -> Json:
    item: Json = {
        "id": f"rs_{request.name('reasoning')}",
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": text} for text in answer.reasoning],
    }
    if "reasoning.encrypted_content" in (request.body.get("include") or ()):
        item["encrypted_content"] = f"gAAAAA{request.name('encrypted')}"
    return item


def _message(request: Request, choice: Choice) -> Json:
    part: Json = {"type": "output_text", "annotations": [], "logprobs": [], "text": "".join(choice.tokens)}
    if choice.refusal:
        part = {"type": "refusal", "refusal": "".join(choice.refusal)}
    return {
        "id": f"msg_{request.name('message')}",
        "type": "message",
        "status": "incomplete" if choice.finish_reason in _INCOMPLETE else "completed",
        "content": [part],
        "role": "assistant",
    }


def _call(request: Request, choice: Choice, index: int) -> Json:
    call = choice.tool_calls[index]
    return {
        "id": f"fc_{request.name(f'item {index}')}",
        "type": "function_call",
        "status": "completed",
        "arguments": call.arguments,
        "call_id": f"call_{request.name(f'call {index}')[:24]}",
        "name": call.name,
    }


def _usage(counted: Json) -> Json:
    return {
        "input_tokens": counted["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": counted["prompt_tokens_details"]["cached_tokens"]},
        "output_tokens": counted["completion_tokens"],
        "output_tokens_details": {
            "reasoning_tokens": counted["completion_tokens_details"]["reasoning_tokens"]
        },
        "total_tokens": counted["total_tokens"],
    }
