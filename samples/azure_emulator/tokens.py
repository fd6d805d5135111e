"""Count tokens by one plain rule: a token is a word with the space in front of it."""

from __future__ import annotations

import json
import re
from typing import Any

from azure_emulator.request import Message, Request, text_of

_PIECE = re.compile(r"\s*\S+|\s+$")
_PER_MESSAGE = 3  # OpenAI's own overhead for a message's role and borders
_PRIMING = 3  # and for the answer that begins
_CACHE_FROM = 1024  # shorter prompts are never served from the prompt cache,
_CACHE_STEP = 128  # longer ones in whole blocks


def pieces(text: str) -> list[str]:
    """Cut a text into its tokens; joined, they are the text again."""
    return _PIECE.findall(text)


def count(text: str) -> int:
    """Count the tokens of a text."""
    return len(pieces(text))


def prompt_tokens(request: Request) -> int:
    """Count what the model reads: the conversation and the tools on offer."""
    said = sum(_PER_MESSAGE + _message_tokens(message) for message in request.messages)
    return _PRIMING + said + sum(count(json.dumps(tool)) for tool in request.tools)


def cached_tokens(prompt: int) -> int:
    """Take a long prompt for one whose beginning was seen before."""
    return (prompt - 1) // _CACHE_STEP * _CACHE_STEP if prompt > _CACHE_FROM else 0


def _message_tokens(message: Message) -> int:
    return count(text_of(message)) + sum(map(_call_tokens, message.get("tool_calls") or ()))


def _call_tokens(call: dict[str, Any]) -> int:
    function = call["function"]
    return 1 + count(function["arguments"])
