"""Holds what HTTP traffic shows of one request to a model: its attempts, the headers, the filters."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final, cast

from langchain_mlflow_tracer.core.record import SpanRecord
from langchain_mlflow_tracer.recording.models.content_filters import Verdicts, mappings

__all__ = ["Attempts"]

MAX_IDENTITY: Final = 200
"""Characters kept of an answer's id: Azure's have 40."""

MAX_REFUSAL: Final = 10_000
"""Characters kept of a refusal: it is a sentence in place of the answer."""

MAX_REFUSALS: Final = 128
"""Choices whose refusals are kept: Azure gives at most as many."""


class Attempts:
    """The attempts at one request; `attributes` describe the last of them.

    One thread writes, others may read meanwhile: `attributes` is replaced, never changed in place.
    """

    __slots__ = (
        "_count", "_failure", "_identity", "_refusals", "_request_facts",
        "attributes", "blocked_answer", "is_answered", "verdicts",
    )  # fmt: skip

    def __init__(self, request_facts: Mapping[str, object]) -> None:
        """Begin with the facts that the request itself shows."""
        self._request_facts = dict(request_facts)
        self._count = 0
        self._failure: tuple[Mapping[str, object], float] | None = None
        self._identity: str | None = None
        self._refusals: dict[int, str] = {}
        self.attributes = dict(request_facts)
        self.verdicts = Verdicts()
        self.is_answered = False
        self.blocked_answer: Mapping[str, object] | None = None
        """A whole completion that a filter blocked: langchain-openai drops it (1.7)."""

    def started(self, earlier: int = 0) -> dict[str, object] | None:
        """Begin an attempt. Return the facts of a retry, None for the first attempt.

        `earlier` attempts are counted in the request's headers; the SDK does not count those after a
        refreshed token.
        """
        self._count = max(self._count, earlier) + 1
        if self._failure is None:
            return None
        facts, failed_at = self._failure
        # Used up: only the attempt right after a failure is a retry.
        self._failure = None
        self._request_facts["http.request.resend_count"] = self._count - 1
        self.attributes = self._request_facts.copy()
        waited = round(time.perf_counter() - failed_at, 6)
        return {"attempt": self._count, **facts, "waited_seconds": waited}

    def failed(self, facts: Mapping[str, object]) -> None:
        """End an attempt that failed; another may follow."""
        self._failure = facts, time.perf_counter()
        self.attributes = {**self._request_facts, **facts}

    def succeeded(self, facts: Mapping[str, object]) -> None:
        """End the attempt that was answered."""
        self.is_answered = True
        self.attributes = {**self._request_facts, **facts}

    def read_chunk(self, chunk: Mapping[str, object]) -> None:
        """Take a chunk of a streamed chat, or an event of a streamed response."""
        self.verdicts.add(chunk)
        # The first chunk, which has the filters of the prompt, has an empty id.
        identity = chunk.get("id")
        if isinstance(identity, str) and identity:
            self._identity = identity[:MAX_IDENTITY]
        for choice in mappings(chunk.get("choices")):
            delta, index = choice.get("delta"), choice.get("index")
            refusal = delta.get("refusal") if isinstance(delta, Mapping) else None
            if isinstance(refusal, str) and isinstance(index, int) and len(self._refusals) <= MAX_REFUSALS:
                self._refusals[index] = (self._refusals.get(index, "") + refusal)[:MAX_REFUSAL]

    def fill(self, span: SpanRecord) -> None:
        """Add to a model's span what LangChain's own answer does not show."""
        # These facts replace those that the start of the call set; the id in LangChain's answer stays.
        span.attributes |= self.attributes | self.verdicts.attributes()
        if self._identity is not None:
            span.attributes.setdefault("gen_ai.response.id", self._identity)
        if isinstance(span.outputs, dict):
            self.verdicts.fill(span.outputs)
            for choice in mappings(span.outputs.get("choices")):
                _add_refusal(choice, self._refusals.get(cast("int", choice.get("index"))))


def _add_refusal(choice: dict[str, object], refusal: str | None) -> None:
    """Show a refusal as the answer: langchain-openai leaves it out of streams (1.7)."""
    message = choice.get("message")
    if refusal and isinstance(message, dict) and not message.get("content"):
        # A new message: the copy of LangChain's message is shared with other spans.
        choice["message"] = {**message, "content": refusal, "refusal": refusal}
