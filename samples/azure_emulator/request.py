"""Describe a received request."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from azure_emulator.translation import as_chat

Message = Mapping[str, Any]

_TEXTS = {"text", "input_text", "output_text"}
_DIRECTIVE = re.compile(r"\s*\[\[\s*([\w:]+)\s*(.*?)\s*\]\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, with all facts that a reply may depend on."""

    operation: str
    deployment: str
    model: str = ""
    api_version: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    serial: int = 1
    """The number of the request among all received requests."""
    earlier: int = 0
    """How often an equal request was received before: this identifies retries."""

    @property
    def chat(self) -> Mapping[str, Any]:
        """The body in the format of chat completions, for requests of each API."""
        return as_chat(self.body) if self.operation == "responses" else self.body

    @property
    def messages(self) -> list[Message]:
        """The conversation so far."""
        return list(self.chat.get("messages", ()))

    @property
    def characters(self) -> int:
        """Number of characters in the conversation."""
        return sum(len(text_of(message)) for message in self.messages)

    @property
    def question(self) -> str:
        """The last message of the user, or the first text to embed, without directives."""
        return _DIRECTIVE.sub("", self._said).strip()

    @property
    def directives(self) -> list[tuple[str, str]]:
        """The `[[name argument]]` pairs in the last message of the user."""
        return _DIRECTIVE.findall(self._said)

    @property
    def _said(self) -> str:
        questions = [text_of(message) for message in self.messages if message.get("role") == "user"]
        return questions[-1] if questions else next(iter(self.inputs), "")

    @property
    def tool_results(self) -> list[Message]:
        """The tool results after the last message of the user."""
        since = takewhile(lambda message: message.get("role") != "user", reversed(self.messages))
        return [message for message in since if message.get("role") == "tool"][::-1]

    @property
    def turn(self) -> int:
        """Number of messages of the assistant."""
        return sum(message.get("role") == "assistant" for message in self.messages)

    @property
    def tools(self) -> list[Mapping[str, Any]]:
        """The functions that the model may call."""
        return [tool["function"] for tool in self.chat.get("tools") or () if tool.get("type") == "function"]

    @property
    def choices(self) -> int:
        """Number of requested choices."""
        return int(self.body.get("n") or 1)

    @property
    def streams(self) -> bool:
        """Whether the request asks for a stream."""
        return bool(self.body.get("stream"))

    @property
    def wants_usage(self) -> bool:
        """Whether the request asks for token usage at the end of a stream."""
        return bool((self.body.get("stream_options") or {}).get("include_usage"))

    @property
    def inputs(self) -> list[str]:
        """The texts to embed; a list of token ids becomes a text of these numbers."""
        if self.operation != "embeddings" or "input" not in self.body:
            return []
        given = self.body["input"]
        several = isinstance(given, list) and not all(isinstance(item, int) for item in given)
        return [_as_text(item) for item in (given if several else [given])]

    @property
    def digest(self) -> str:
        """A hash of the body."""
        return hashlib.blake2b(json.dumps(self.body, sort_keys=True).encode(), digest_size=16).hexdigest()

    def name(self, kind: str) -> str:
        """Return 32 hex digits that are unique for this request and this kind of id."""
        return hashlib.blake2b(f"{self.serial}:{self.digest}:{kind}".encode(), digest_size=16).hexdigest()


def text_of(message: Message) -> str:
    """Return the text of a message; its content is a string, or blocks that may contain images."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if block.get("type") in _TEXTS)


def _as_text(given: str | list[int]) -> str:
    return given if isinstance(given, str) else " ".join(map(str, given))
