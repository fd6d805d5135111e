"""Describe what the emulator may answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants called, with its arguments as JSON text."""

    name: str
    arguments: str = "{}"


@dataclass(frozen=True, slots=True)
class Fault:
    """How a connection goes wrong, and after how many tokens."""

    kind: Literal["hang", "break"]
    after: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion: text, tool calls, or both."""

    text: str = ""
    alternatives: tuple[str, ...] = ()
    """The texts of the second choice and on, where several are wanted; the text itself where none is left."""
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str = ""
    """The model's own words in place of an answer that it will not give."""
    filtered: str | None = None
    """The content filter that cuts the answer halfway, `violence` for example."""
    reasoning_tokens: int = 0
    reasoning: tuple[str, ...] = ()
    """Summaries of what was thought, which the Responses API tells."""
    audio_tokens: tuple[int, int] = (0, 0)
    """Tokens of sound, heard and spoken, beside those of text; told in chat completions."""
    delay: float = 0.0
    """Seconds before the first byte."""
    pace: float = 0.0
    """Seconds between the chunks of a stream."""
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An error response."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


Reply = Answer | Failure
