"""Holds what was seen on the wire of one call of a model: its attempts, the answer's facts, its filters."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, cast

from langchain_mlflow_tracer.core.attributes import HTTP_RESEND_COUNT, RESPONSE_ID
from langchain_mlflow_tracer.core.record import SpanRecord
from langchain_mlflow_tracer.recording.models.content_filters import Verdicts, mappings

__all__ = ["Seen"]

MAX_IDENTITY: Final = 200
"""Characters kept of an answer's id: Azure's have 40."""

MAX_REFUSAL: Final = 10_000
"""Characters kept of a refusal, which says in a sentence that there is no answer."""

MAX_REFUSALS: Final = 128
"""Choices whose refusals are kept: Azure gives at most as many."""


class Seen:
    """What is known so far; attributes are those of the last attempt."""

    __slots__ = (
        "_asked", "_identity", "_missed", "_refusals", "_resent", "_sent",
        "answer", "attributes", "is_answered", "verdicts",
    )  # fmt: skip

    def __init__(self, asked: Mapping[str, object]) -> None:
        """Begin with what the request itself tells: `asked`."""
        self._asked = dict(asked)
        self._sent = 0
        self._resent: dict[str, object] = {}
        self._missed: tuple[dict[str, object], float] | None = None
        self._identity: str | None = None
        self._refusals: dict[int, str] = {}
        self.attributes = dict(asked)
        self.verdicts = Verdicts()
        self.is_answered = False
        self.answer: Mapping[str, object] | None = None
        """A whole completion that a filter blocked: langchain-openai throws it away (1.7)."""

    def send(self, earlier: int = 0) -> dict[str, object] | None:
        """Begin an attempt. Return what to tell of a retry, None of a first one.

        Of `earlier` attempts the request knows; those after a refreshed token it does not count.
        """
        self._sent = max(self._sent, earlier) + 1
        if self._missed is None:
            return None
        why, when = self._missed
        self._missed = None
        self._resent = {HTTP_RESEND_COUNT: self._sent - 1}
        self.attributes = {**self._asked, **self._resent}
        return {"attempt": self._sent, **why, "waited_seconds": round(time.perf_counter() - when, 6)}

    def miss(self, why: Mapping[str, object]) -> None:
        """End an attempt that failed; another may follow."""
        self._missed = dict(why), time.perf_counter()
        self.attributes = {**self._asked, **self._resent, **why}

    def hit(self, facts: Mapping[str, object]) -> None:
        """End the attempt that was answered."""
        self.is_answered = True
        self.attributes = {**self._asked, **self._resent, **facts}

    def hear(self, told: Mapping[str, object]) -> None:
        """Take a chunk of a streamed chat, or an event of a streamed response."""
        self.verdicts.add(told)
        identity = told.get("id")
        if isinstance(identity, str) and identity:
            self._identity = identity[:MAX_IDENTITY]
        for choice in mappings(told.get("choices")):
            delta, index = choice.get("delta"), choice.get("index")
            said = delta.get("refusal") if isinstance(delta, Mapping) else None
            if isinstance(said, str) and isinstance(index, int) and len(self._refusals) <= MAX_REFUSALS:
                self._refusals[index] = (self._refusals.get(index, "") + said)[:MAX_REFUSAL]

    def complete(self, span: SpanRecord) -> None:
        """Say on a model's span what was seen, where the answer as LangChain gives it does not."""
        span.attributes |= self.attributes | self.verdicts.attributes()
        if self._identity is not None:
            span.attributes.setdefault(RESPONSE_ID, self._identity)
        if isinstance(span.outputs, dict):
            self.verdicts.complete(span.outputs)
            for choice in mappings(span.outputs.get("choices")):
                _refuse(choice, self._refusals.get(cast("int", choice.get("index"))))


def _refuse(choice: dict[str, object], refusal: str | None) -> None:
    """A refusal is the answer: langchain-openai leaves it out of streams (1.7)."""
    message = choice.get("message")
    if refusal and isinstance(message, dict) and not message.get("content"):
        # Not in the message itself: others were given it as LangChain made it.
        choice["message"] = {**message, "content": refusal, "refusal": refusal}
