"""Describe a request as it arrived."""

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
    """One request: all that a reply may depend on."""

    operation: str
    deployment: str
    model: str = ""
    api_version: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    serial: int = 1
    """The request's place among all that arrived."""
    earlier: int = 0
    """How often the same body arrived before: what retries are told by."""

    @property
    def chat(self) -> Mapping[str, Any]:
        """The body as chat completions have it, whichever way the request came."""
        return as_chat(self.body) if self.operation == "responses" else self.body

    @property
    def messages(self) -> list[Message]:
        """The conversation so far."""
        return list(self.chat.get("messages", ()))

    @property
    def characters(self) -> int:
        """How long the texts of the conversation are."""
        return sum(len(text_of(message)) for message in self.messages)

    @property
    def question(self) -> str:
        """The last thing that the user said, or the first text to embed, without directives."""
        return _DIRECTIVE.sub("", self._said).strip()

    @property
    def directives(self) -> list[tuple[str, str]]:
        """The `[[name argument]]` pairs in what the user said last."""
        return _DIRECTIVE.findall(self._said)

    @property
    def _said(self) -> str:
        said = [text_of(message) for message in self.messages if message.get("role") == "user"]
        return said[-1] if said else next(iter(self.inputs), "")

    @property
    def tool_results(self) -> list[Message]:
        """What tools returned since the user last spoke."""
        since = takewhile(lambda message: message.get("role") != "user", reversed(self.messages))
        return [message for message in since if message.get("role") == "tool"][::-1]

    @property
    def turn(self) -> int:
        """How many times the assistant has spoken."""
        return sum(message.get("role") == "assistant" for message in self.messages)

    @property
    def tools(self) -> list[Mapping[str, Any]]:
        """The functions that may be called."""
        return [tool["function"] for tool in self.chat.get("tools") or () if tool.get("type") == "function"]

    @property
    def choices(self) -> int:
        """How many answers are wanted."""
        return int(self.body.get("n") or 1)

    @property
    def streams(self) -> bool:
        """Whether the answer is wanted token by token."""
        return bool(self.body.get("stream"))

    @property
    def wants_usage(self) -> bool:
        """Whether a stream shall end with its token usage."""
        return bool((self.body.get("stream_options") or {}).get("include_usage"))

    @property
    def inputs(self) -> list[str]:
        """The texts to embed; a list of token ids counts as a text of those numbers."""
        if self.operation != "embeddings" or "input" not in self.body:
            return []
        given = self.body["input"]
        several = isinstance(given, list) and not all(isinstance(item, int) for item in given)
        return [_as_text(item) for item in (given if several else [given])]

    @property
    def digest(self) -> str:
        """A short name of the body: equal bodies have equal names."""
        return hashlib.blake2b(json.dumps(self.body, sort_keys=True).encode(), digest_size=16).hexdigest()

    def name(self, kind: str) -> str:
        """Make 32 hex digits that no other request and no other kind of id has."""
        return hashlib.blake2b(f"{self.serial}:{self.digest}:{kind}".encode(), digest_size=16).hexdigest()


def text_of(message: Message) -> str:
    """Return the text of a message, as a string or in blocks, of which some may be images."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if block.get("type") in _TEXTS)


def _as_text(given: str | list[int]) -> str:
    return given if isinstance(given, str) else " ".join(map(str, given))
