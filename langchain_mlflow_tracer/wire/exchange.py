"""Finds the traced call that a request of a model's HTTP client belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.wire.completions import CompletionAttempt
from langchain_mlflow_tracer.wire.embeddings import EmbeddingAttempts
from langchain_mlflow_tracer.wire.requests import Reader, Request, Response

__all__ = ["Exchange", "find"]

_COMPLETIONS: Final = ("/completions", "/responses")
_EMBEDDINGS: Final = "/embeddings"


class Exchange(Protocol):
    """One attempt at a request, and its answer."""

    @property
    def logs(self) -> Sequence[Log]:
        """The logs of the tracers that record it."""

    def start(self, request: Request) -> Exchange:
        """Take the request that is about to be sent; return this object."""

    def fail(self, error: BaseException) -> None:
        """Take the exception that came instead of an answer."""

    def answer(self, response: Response, *, is_read: bool) -> Reader | None:
        """Take the answer; return the reader of its body, if that is read later and of interest."""


def find(request: Request) -> Exchange | None:
    """Return the exchange that a request belongs to; None if no tracer records it."""
    path = request.url.path
    if path.endswith(_EMBEDDINGS):
        return EmbeddingAttempts.find(request)
    return CompletionAttempt.find(request) if path.endswith(_COMPLETIONS) else None
