"""Gathers the facts of a model call before it ends: the chunks of its stream, and the facts from the wire.

A call is known to its context from its start on, so that the wire can find the call of a request.
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
"""Calls of a context that are kept beside the one that began last: models that call models are not nested
deeper, and a call that never ends must not be kept without limit."""

Token = str | Sequence[str | dict[str, object]]
"""The content of a stream's chunk: a text, or content blocks."""


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
        """Whether it is a stream on the wire: its usage is sent only if the request asks for it."""
        return self._chunks > 0 and self.attempts is not None

    def add(self, token: Token) -> None:
        """Add a chunk of the answer."""
        self._chunks += 1
        if token:
            if self._first is None:
                self._first = self._now(self.run_id)
            if self.keeps_text:
                self._tokens.append(token)

    def send(self, attempts: Attempts, retry: dict[str, object] | None) -> None:
        """Note that its request is sent, perhaps again."""
        self.attempts = attempts
        if retry is not None:
            self._add_event(self.run_id, "retry", dict(retry))

    def add_to(self, span: SpanRecord) -> None:
        """Add the gathered facts to its span; the filter verdicts of the answer itself are kept."""
        if self._chunks:
            span.attributes["lc.stream.chunks"] = self._chunks
        if self._first is not None:
            seconds = round((self._first - span.start_ns) / _NANOSECONDS, 6)
            span.attributes["gen_ai.response.time_to_first_chunk"] = seconds
        if self.attempts is not None:
            self.attempts.fill(span)

    def forget(self) -> None:
        """Free the text, which is known as a whole now: the context keeps the call until its next one."""
        self._tokens = []

    def fill(self, span: SpanRecord) -> None:
        """Fill a span whose end is never reported: with the part of the answer that has come."""
        if self._tokens and span.outputs is None:
            message = {"role": "assistant", "content": "".join(map(_text, list(self._tokens)))}
            span.outputs = {"choices": [{"index": 0, "message": message, "finish_reason": None}]}
        self.add_to(span)


current_calls: ContextVar[tuple[ModelCall, ...]] = ContextVar("current_calls", default=())
"""The model calls that this context has begun and not ended, the innermost last."""


def begin(call: ModelCall) -> None:
    """Make `call` known to this thread or task: the next request that it sends belongs to this call."""
    others = [other for other in current_calls.get() if other.waits]
    current_calls.set((*others[-MAX_OTHERS:], call))


def unanswered() -> list[ModelCall]:
    """Return the calls whose request is sent now in this context: one for each tracer of the run."""
    waiting = [call for call in current_calls.get() if call.waits]
    return [call for call in waiting if call.run_id == waiting[-1].run_id]


def _text(token: Token) -> str:
    if isinstance(token, str):
        return token
    texts = (block if isinstance(block, str) else block.get("text") for block in token)
    return "".join(text for text in texts if isinstance(text, str))
