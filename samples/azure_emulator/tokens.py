"""Count tokens with one simple rule: a token is a word with the space before it."""

from __future__ import annotations

import json
import re
from typing import Any

from azure_emulator.request import Message, Request, text_of

_PIECE = re.compile(r"\s*\S+|\s+$")
_PER_MESSAGE = 3  # OpenAI's overhead for the role and the delimiters of a message
_PRIMING = 3  # and for the start of the answer
_CACHE_FROM = 1024  # the prompt cache is not used for shorter prompts,
_CACHE_STEP = 128  # and for longer ones in whole blocks


def pieces(text: str) -> list[str]:
    """Split a text into tokens; joined together they are the text again."""
    return _PIECE.findall(text)


def count(text: str) -> int:
    """Count the tokens of a text."""
    return len(pieces(text))


def prompt_tokens(request: Request) -> int:
    """Count the input tokens: the conversation and the tools."""
    said = sum(_PER_MESSAGE + _message_tokens(message) for message in request.messages)
    return _PRIMING + said + sum(count(json.dumps(tool)) for tool in request.tools)


def cached_tokens(prompt: int) -> int:
    """Return the cached tokens: for a long prompt, all complete blocks of it."""
    return (prompt - 1) // _CACHE_STEP * _CACHE_STEP if prompt > _CACHE_FROM else 0


def _message_tokens(message: Message) -> int:
    return count(text_of(message)) + sum(map(_call_tokens, message.get("tool_calls") or ()))


def _call_tokens(call: dict[str, Any]) -> int:
    function = call["function"]
    return 1 + count(function["arguments"])
