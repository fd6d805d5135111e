"""Finds the traced call that a request of a model's HTTP client belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from langchain_mlflow_tracer.wire.completions import CompletionAttempt
from langchain_mlflow_tracer.wire.embeddings import EmbeddingAttempts

if TYPE_CHECKING:
    import httpx2 as httpx

__all__ = ["Exchange", "find"]

_COMPLETIONS: Final = ("/completions", "/responses")
_EMBEDDINGS: Final = "/embeddings"

Exchange: TypeAlias = CompletionAttempt | EmbeddingAttempts
"""One attempt at a request, and its answer."""


def find(request: httpx.Request) -> Exchange | None:
    """Return the exchange that a request belongs to; None if no tracer records it."""
    path = request.url.path
    if path.endswith(_EMBEDDINGS):
        return EmbeddingAttempts.find(request)
    return CompletionAttempt.find(request) if path.endswith(_COMPLETIONS) else None
