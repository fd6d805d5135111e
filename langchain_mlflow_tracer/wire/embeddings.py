"""Reads the attempts at an embedding call, request and answer; the vectors themselves are never kept."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Self

import orjson

from langchain_mlflow_tracer.core.attributes import (
    AZURE_DEPLOYMENT,
    CHAT_TOKEN_USAGE,
    LLM_MODEL,
    LLM_PROVIDER,
    REQUEST_MODEL,
    RESPONSE_MODEL,
    present,
)
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.recording.models import azure
from langchain_mlflow_tracer.recording.models.attempts import Attempts
from langchain_mlflow_tracer.recording.models.embeddings import (
    EmbeddingAnswer,
    EmbeddingRequest,
    Listener,
    listeners,
)
from langchain_mlflow_tracer.wire.requests import error_facts, header_facts, is_error

if TYPE_CHECKING:
    import httpx2 as httpx

__all__ = ["EmbeddingAttempts", "read_answer", "read_request"]

MAX_VALUE: Final = 4_096
"""Bytes at either end of an answer in which the small values are searched for: a model's name, a usage."""

BYTES_PER_FLOAT: Final = 4
"""In a vector as base64, the form that the OpenAI SDK asks for."""

_DEPLOYMENT: Final = re.compile(r"/deployments/([^/]+)/")
_MODEL: Final = re.compile(rb'"model"\s*:\s*"([^"\\]*)"')
_USAGE: Final = re.compile(rb'"usage"\s*:\s*(\{[^{}]*\})')
_VECTOR: Final = re.compile(rb'"embedding"\s*:\s*(["\[])')

_latest: ContextVar[EmbeddingAttempts | None] = ContextVar("embedding", default=None)
"""The embedding call that this context sent last: a retry that follows belongs to it."""


class EmbeddingAttempts:
    """The attempts at one embedding call, reported to its listeners: LangChain has no callbacks for them."""

    def __init__(
        self, request: httpx.Request, listening: Sequence[tuple[Listener, Sequence[uuid.UUID]]]
    ) -> None:
        self._run_id = uuid.uuid4()
        self._listeners = listening
        self._is_azure = azure.is_address(request.url.path)
        self._attempts = Attempts(azure.api_version(request.url.params))
        self._count = 0

    @classmethod
    def find(cls, request: httpx.Request) -> EmbeddingAttempts | None:
        """Return the call that the request is a retry of, or else a new one; None if no tracer listens."""
        call = _latest.get() if azure.resent(request.headers) else None
        if call is None or call._attempts.is_answered:  # noqa: SLF001 - of the same class
            listening = listeners()
            call = cls(request, listening) if listening else None
            _latest.set(call)
        return call

    @property
    def logs(self) -> Sequence[Log]:
        """The logs of the tracers that record it."""
        return [listener.log for listener, _ in self._listeners]

    def start(self, request: httpx.Request) -> Self:
        """Take the request that is about to be sent."""
        embedding = read_request(request.url.path, request.content, is_azure=self._is_azure)
        self._count = embedding.count
        retry = self._attempts.started(azure.resent(request.headers))
        for listener, parents in self._listeners:
            listener.start(embedding, self._run_id, parents, retry)
        return self

    def fail(self, error: BaseException) -> None:
        """Take the exception that came instead of an answer."""
        self._fail(azure.error_type(error), error)

    def answer(self, response: httpx.Response, *, is_read: bool) -> None:
        """Take the answer; the SDK reads it at once."""
        if is_error(response):
            # Without texts: those of an inner error may be the texts that were sent.
            self._fail(error_facts(response, is_read=is_read, with_text=False, is_azure=self._is_azure))
            return
        self._attempts.succeeded(header_facts(response, is_azure=self._is_azure))
        answer = read_answer(response.content if is_read else b"", self._count)
        for listener, _ in self._listeners:
            listener.end(answer, self._attempts, self._run_id)

    def _fail(self, facts: Mapping[str, object], error: BaseException | None = None) -> None:
        self._attempts.failed(facts)
        for listener, _ in self._listeners:
            listener.fail(error, self._attempts, self._run_id)


def read_request(path: str, content: bytes, *, is_azure: bool) -> EmbeddingRequest:
    """Read a request; where tokens were sent instead of texts, only their number is kept."""
    body = orjson.loads(content)
    sent = body.get("input")
    inputs = sent if isinstance(sent, list) and not _is_tokens(sent) else [sent]
    deployment = _DEPLOYMENT.search(path)
    requested = deployment[1] if deployment else body.get("model")
    attributes = {
        LLM_PROVIDER: "azure" if is_azure else "openai",
        REQUEST_MODEL: requested,
        AZURE_DEPLOYMENT: requested if is_azure else None,
        "lc.embedding.count": len(inputs),
    }
    shown = [_shown(text) for text in inputs]
    return EmbeddingRequest(
        {"input": shown if inputs is sent else shown[0]},
        len(inputs),
        {key: value for key, value in attributes.items() if isinstance(value, str | int)},
    )


def _is_tokens(sent: list[object]) -> bool:
    return bool(sent) and isinstance(sent[0], int)


def _shown(text: object) -> object:
    return {"tokens": len(text)} if isinstance(text, list) else text


def read_answer(content: bytes, count: int) -> EmbeddingAnswer:
    """Read an answer without parsing it: nearly all of it are vectors, the small values are searched for."""
    usage, dimensions = _usage(content), _dimensions(content)
    outputs: dict[str, object] = {"count": count, "dimensions": dimensions, "usage": usage or None}
    tokens = usage.get("prompt_tokens")
    model = _first_or_last(_MODEL, content)
    served = None if model is None else model[1].decode(errors="replace")
    total = None if tokens is None else {"input_tokens": tokens, "output_tokens": 0, "total_tokens": tokens}
    attributes: dict[str, object | None] = {
        LLM_MODEL: served,
        RESPONSE_MODEL: served,
        "gen_ai.embeddings.dimension.count": dimensions,
        CHAT_TOKEN_USAGE: total,
    }
    return EmbeddingAnswer(present(outputs), present(attributes))


def _first_or_last(pattern: re.Pattern[bytes], content: bytes) -> re.Match[bytes] | None:
    """Find a value before the vectors or after them."""
    return pattern.search(content[:MAX_VALUE]) or pattern.search(content[-MAX_VALUE:])


def _usage(content: bytes) -> dict[str, int]:
    match = _first_or_last(_USAGE, content)
    usage: Mapping[str, object] = orjson.loads(match[1]) if match else {}
    return {key: value for key, value in usage.items() if isinstance(value, int)}


def _dimensions(content: bytes) -> int | None:
    """Measure the first vector, base64 or a list of numbers."""
    match = _VECTOR.search(content[:MAX_VALUE])
    if match is None:
        return None
    begin = match.end()
    end = content.find(b"]" if match[1] == b"[" else b'"', begin)
    if end <= begin:
        return None
    if match[1] == b"[":
        return content.count(b",", begin, end) + 1
    padding = content[max(begin, end - 2) : end].count(b"=")
    return ((end - begin) // 4 * 3 - padding) // BYTES_PER_FLOAT
