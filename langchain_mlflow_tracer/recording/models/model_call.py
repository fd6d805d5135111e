"""Gathers what is seen of a model call before it ends: its tokens as they come, and what the wire tells.

A call is known to its context from its start on, so that whoever sends its request can tell whose it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Final

from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.core.record import SpanRecord
from langchain_mlflow_tracer.recording.models.attempts import Attempts

__all__ = ["ModelCall", "begin", "current_calls", "unanswered"]

_NANOSECONDS: Final = 1e9

MAX_OTHERS: Final = 16
"""Calls of a context that are known beside the one that began last: models that ask models are not nested
deeper, and one that was begun and left must not stay for ever."""

Token = str | Sequence[str | dict[str, object]]
"""What a stream's chunk holds: a text, or content blocks."""


class ModelCall:
    """One call of a model, from its start to its end. A stream's text is kept until the whole is known."""

    __slots__ = (
        "_add_event", "_chunks", "_first", "_is_open", "_now", "_tokens", "attempts", "keeps_text", "log",
        "run_id",
    )  # fmt: skip

    def __init__(
        self,
        run_id: int,
        is_open: Callable[[int], bool],
        now: Callable[[int], int | None],
        add_event: Callable[[int, str, dict[str, object]], None],
        log: Log,
        *,
        keeps_text: bool,
    ) -> None:
        self.run_id = run_id
        self.log = log
        self.attempts: Attempts | None = None
        self.keeps_text = keeps_text
        self._is_open = is_open
        self._now = now
        self._add_event = add_event
        self._first: int | None = None
        self._chunks = 0
        self._tokens: list[Token] = []

    @property
    def waits(self) -> bool:
        """Whether it is still open, and its request was not answered yet."""
        is_answered = self.attempts is not None and self.attempts.is_answered
        return not is_answered and self._is_open(self.run_id)

    @property
    def lacks_usage(self) -> bool:
        """Whether it is a stream on the wire: such a one tells its usage only when it is asked to."""
        return self._chunks > 0 and self.attempts is not None

    def add(self, token: Token) -> None:
        """Take a chunk of the answer, as it comes."""
        self._chunks += 1
        if token:
            if self._first is None:
                self._first = self._now(self.run_id)
            if self.keeps_text:
                self._tokens.append(token)

    def send(self, attempts: Attempts, retry: dict[str, object] | None) -> None:
        """Take notice that its request is sent, perhaps again."""
        self.attempts = attempts
        if retry is not None:
            self._add_event(self.run_id, "retry", dict(retry))

    def add_to(self, span: SpanRecord) -> None:
        """Add to its span what was gathered; what the answer itself reports of filters stays."""
        if self._chunks:
            span.attributes["lc.stream.chunks"] = self._chunks
        if self._first is not None:
            seconds = round((self._first - span.start_ns) / _NANOSECONDS, 6)
            span.attributes["gen_ai.response.time_to_first_chunk"] = seconds
        if self.attempts is not None:
            self.attempts.fill(span)

    def forget(self) -> None:
        """Let go of the text, now that the whole is known: the context keeps the call until its next one."""
        self._tokens = []

    def fill(self, span: SpanRecord) -> None:
        """Fill a span that does not hear of its end: with the answer as far as it had come."""
        if self._tokens and span.outputs is None:
            message = {"role": "assistant", "content": "".join(map(_text, list(self._tokens)))}
            span.outputs = {"choices": [{"index": 0, "message": message, "finish_reason": None}]}
        self.add_to(span)


current_calls: ContextVar[tuple[ModelCall, ...]] = ContextVar("current_calls", default=())
"""The model calls that this context has begun and not ended, the innermost last."""


def begin(call: ModelCall) -> None:
    """Make `call` known to this thread or task: whatever request it sends next is of this call."""
    others = [one for one in current_calls.get() if one.waits]
    current_calls.set((*others[-MAX_OTHERS:], call))


def unanswered() -> list[ModelCall]:
    """Return the calls whose request is sent here and now: one for each tracer that hears of the run."""
    waiting = [one for one in current_calls.get() if one.waits]
    return [one for one in waiting if one.run_id == waiting[-1].run_id]


def _text(token: Token) -> str:
    if isinstance(token, str):
        return token
    texts = (block if isinstance(block, str) else block.get("text") for block in token)
    return "".join(text for text in texts if isinstance(text, str))
