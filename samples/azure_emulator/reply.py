"""Define the replies of the emulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function by the model, with its arguments as JSON text."""

    name: str
    arguments: str = "{}"


@dataclass(frozen=True, slots=True)
class Fault:
    """How a connection fails, and after how many tokens."""

    kind: Literal["hang", "break"]
    after: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion: text, tool calls, or both."""

    text: str = ""
    alternatives: tuple[str, ...] = ()
    """The texts of the second and later choices; further choices repeat `text`."""
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str = ""
    """The text of the model if it refuses to answer."""
    filtered: str | None = None
    """The content filter that cuts the answer in the middle, for example `violence`."""
    reasoning_tokens: int = 0
    reasoning: tuple[str, ...] = ()
    """Summaries of the reasoning, for the Responses API."""
    audio_tokens: tuple[int, int] = (0, 0)
    """Audio tokens, input and output, in addition to text tokens; for chat completions."""
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
