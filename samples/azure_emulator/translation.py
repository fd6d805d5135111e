"""Translate a request of the Responses API into the body of a chat completion.

The emulator stores no conversations: with `previous_response_id` it uses the new items only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Json = dict[str, Any]

_ASSISTANTS = {"reasoning", "function_call"}


def as_chat(body: Mapping[str, Any]) -> Json:
    """Translate a request for a response."""
    return {
        "messages": [*_instructions(body), *_messages(body.get("input") or ())],
        "tools": [{"type": tool.get("type"), "function": tool} for tool in body.get("tools") or ()],
        "tool_choice": _tool_choice(body.get("tool_choice")),
        "response_format": _response_format((body.get("text") or {}).get("format")),
        "max_completion_tokens": body.get("max_output_tokens"),
    }


def _instructions(body: Mapping[str, Any]) -> list[Json]:
    given = body.get("instructions")
    return [{"role": "system", "content": given}] if isinstance(given, str) else []


def _messages(given: str | Iterable[Json]) -> list[Json]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[Json] = []
    for item in given:
        if item.get("type") in _ASSISTANTS or item.get("role") == "assistant":
            _say(_turn(messages), item)
        elif item.get("type") == "function_call_output":
            messages.append({
                "role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output"),
            })  # fmt: skip
        elif "role" in item:
            messages.append({"role": item["role"], "content": item.get("content")})
    return messages


def _turn(messages: list[Json]) -> Json:
    """Return the message of the current assistant turn; in this API one turn may be several items."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": [], "tool_calls": []})
    return messages[-1]


def _say(message: Json, item: Json) -> None:
    if item.get("type") == "function_call":
        called = {"name": item["name"], "arguments": item["arguments"]}
        message["tool_calls"].append({"id": item.get("call_id"), "type": "function", "function": called})
    content = item.get("content") or []
    message["content"] += [{"type": "text", "text": content}] if isinstance(content, str) else content


def _tool_choice(given: str | Json | None) -> str | Json | None:
    return {"type": "function", "function": given} if isinstance(given, dict) else given


def _response_format(given: Json | None) -> Json:
    return {} if given is None else {"type": given.get("type"), "json_schema": given}
