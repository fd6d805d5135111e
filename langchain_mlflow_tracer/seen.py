"""Holds what was seen on the wire of one call of a model: its attempts, the answer's facts, its filters."""

from __future__ import annotations

import time
from collections.abc import Mapping

from langchain_mlflow_tracer.verdicts import Verdicts

__all__ = ["Seen"]


class Seen:
    """What is known so far; attributes are those of the last attempt."""

    __slots__ = ("_asked", "_missed", "_resent", "_sent", "answer", "attributes", "is_answered", "verdicts")

    def __init__(self, asked: Mapping[str, object]) -> None:
        """Begin with what the request itself tells: `asked`."""
        self._asked = dict(asked)
        self._sent = 0
        self._resent: dict[str, object] = {}
        self._missed: tuple[dict[str, object], float] | None = None
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
        self._resent = {"http.request.resend_count": self._sent - 1}
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
