"""Gathers what is seen of a model call before it ends: its tokens as they come.

A call is known to its context from its start on, so that whoever sends its request can tell whose it is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final

from langchain_mlflow_tracer.record import SpanRecord

__all__ = ["ModelCall", "begin", "current_calls"]

_NANOSECONDS: Final = 1e9

Token = str | Sequence[str | dict[str, object]]
"""What a stream's chunk holds: a text, or content blocks."""


class ModelCall:
    """One call of a model, from its start to its end. A stream's text is kept until the whole is known."""

    __slots__ = ("_began", "_chunks", "_first", "_keeps_text", "_tokens", "run_id")

    def __init__(self, run_id: int, *, keeps_text: bool) -> None:
        self.run_id = run_id
        self._keeps_text = keeps_text
        self._began = time.perf_counter_ns()
        self._first: int | None = None
        self._chunks = 0
        self._tokens: list[Token] = []

    def add(self, token: Token) -> None:
        """Take a chunk of the answer, as it comes."""
        self._chunks += 1
        if token:
            if self._first is None:
                self._first = time.perf_counter_ns()
            if self._keeps_text:
                self._tokens.append(token)

    def attributes(self) -> dict[str, object]:
        """Return what is known of how the answer came; nothing where it came at once."""
        if not self._chunks:
            return {}
        found: dict[str, object] = {"lc.stream.chunks": self._chunks}
        if self._first is not None:
            found["gen_ai.response.time_to_first_chunk"] = (self._first - self._began) / _NANOSECONDS
        return found

    def fill(self, span: SpanRecord) -> None:
        """Fill a span that does not hear of its end: with the answer as far as it had come."""
        span.attributes.update(self.attributes())
        if self._tokens and span.outputs is None:
            message = {"role": "assistant", "content": "".join(map(_text, list(self._tokens)))}
            span.outputs = {"choices": [{"index": 0, "message": message, "finish_reason": None}]}


current_calls: ContextVar[tuple[ModelCall, ...]] = ContextVar("current_calls", default=())
"""The model calls whose request this context sends next: one for each tracer that hears of the run."""


def begin(call: ModelCall) -> None:
    """Make `call` known to this thread or task."""
    others = (one for one in current_calls.get() if one.run_id == call.run_id)
    current_calls.set((*others, call))


def _text(token: Token) -> str:
    if isinstance(token, str):
        return token
    texts = (block if isinstance(block, str) else block.get("text") for block in token)
    return "".join(text for text in texts if isinstance(text, str))
