"""Create the choices of a completion from an answer, shortened by a token limit or a content filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from azure_emulator.reply import Answer, ToolCall
from azure_emulator.request import Request
from azure_emulator.tokens import cached_tokens, count, pieces, prompt_tokens


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of a completion, as tokens."""

    index: int
    tokens: tuple[str, ...]
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    filtered: str | None = None
    refusal: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of generated tokens."""
        said = len(self.tokens) + len(self.refusal)
        return said + sum(1 + count(call.arguments) for call in self.tool_calls)

    @property
    def characters(self) -> int:
        """Number of characters in the text or the refusal."""
        return sum(map(len, (*self.tokens, *self.refusal)))


def choices(request: Request, answer: Answer) -> list[Choice]:
    """Create as many choices as the request asks for."""
    texts = (answer.text, *answer.alternatives, *[answer.text] * request.choices)
    return [_choice(request, answer, index, texts[index]) for index in range(request.choices)]


def usage(request: Request, answer: Answer, made: list[Choice]) -> dict[str, Any]:
    """Return the token usage of a completion."""
    heard, spoken = answer.audio_tokens
    prompt = prompt_tokens(request) + heard
    completion = sum(choice.size for choice in made) + answer.reasoning_tokens + spoken
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"audio_tokens": heard, "cached_tokens": cached_tokens(prompt)},
        "completion_tokens_details": {
            "accepted_prediction_tokens": 0,
            "audio_tokens": spoken,
            "reasoning_tokens": answer.reasoning_tokens,
            "rejected_prediction_tokens": 0,
        },
    }


def _choice(request: Request, answer: Answer, index: int, text: str) -> Choice:
    tokens = pieces(text)
    limit = request.chat.get("max_completion_tokens") or request.chat.get("max_tokens") or len(tokens)
    if answer.filtered:
        return Choice(index, tuple(tokens[: len(tokens) // 2]), (), "content_filter", answer.filtered)
    if answer.refusal:
        return Choice(index, (), (), "stop", refusal=tuple(pieces(answer.refusal)))
    if limit < len(tokens):
        return Choice(index, tuple(tokens[:limit]), (), "length")
    finish = "tool_calls" if answer.tool_calls else "stop"
    return Choice(index, tuple(tokens), answer.tool_calls, finish)
