"""Binds each request of a model's HTTP client to the call it is of, and reads what comes back."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Final, Protocol

import orjson

from langchain_mlflow_tracer.recording.models import azure
from langchain_mlflow_tracer.recording.models.attempts import Attempts
from langchain_mlflow_tracer.recording.models.embeddings import EmbeddingRequest, Listener, listeners
from langchain_mlflow_tracer.recording.models.model_call import ModelCall, unanswered
from langchain_mlflow_tracer.wire.embeddings import read_answer, read_request
from langchain_mlflow_tracer.wire.sse import Events

__all__ = ["Address", "Exchange", "Reader", "Request", "Response", "begin"]

_ANSWERS: Final = ("/completions", "/responses")
_EMBEDDINGS: Final = "/embeddings"

_MARK: Final = b"filter"
"""In every name under which verdicts come: content_filter_results, prompt_filter_results, content_filters."""

_COMPRESSED: Final = frozenset({"gzip", "deflate"})
_PLAIN: Final = frozenset({"", "identity"})

_FAILED: Final = 400
"""The first HTTP status that is an error."""


class Address(Protocol):
    """Where a request goes."""

    @property
    def path(self) -> str:
        """Its path."""

    @property
    def params(self) -> Mapping[str, str]:
        """Its query."""


class Request(Protocol):
    """A request, as httpx and httpx2 have it."""

    @property
    def url(self) -> Address:
        """Where it goes."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, whatever their case."""

    @property
    def content(self) -> bytes:
        """Its body."""


class Response(Protocol):
    """An answer, as httpx and httpx2 have it."""

    @property
    def status_code(self) -> int:
        """Its HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers, whatever their case."""

    @property
    def content(self) -> bytes:
        """Its body, decompressed, once it was read."""


class Exchange(Protocol):
    """One attempt at a request, and its answer."""

    def fail(self, error: BaseException) -> None:
        """Take the exception that came instead of an answer."""

    def answer(self, response: Response, *, is_read: bool) -> Reader | None:
        """Take the answer; return who reads its body as it comes, where it is not read yet."""


class Reader(Protocol):
    """Reads a body as it passes."""

    def read(self, chunk: bytes) -> None:
        """Take the next bytes."""


def begin(request: Request) -> Exchange | None:
    """Return the exchange that a request begins; None where nobody is interested."""
    path = request.url.path
    if path.endswith(_EMBEDDINGS):
        return _Embedding.begin(request)
    return _Completion.begin(request) if path.endswith(_ANSWERS) else None


class _Completion:
    """An attempt at a model's answer: of the calls that this context waits for."""

    def __init__(self, calls: Sequence[ModelCall], attempts: Attempts, *, is_azure: bool) -> None:
        self._calls = calls
        self._attempts = attempts
        self._is_azure = is_azure

    @classmethod
    def begin(cls, request: Request) -> _Completion | None:
        calls = unanswered()
        if not calls:
            return None
        attempts = calls[0].attempts or Attempts(azure.api_version(request.url.params))
        retry = attempts.started(azure.resent(request.headers))
        for call in calls:
            call.send(attempts, retry)
        return cls(calls, attempts, is_azure=azure.is_address(request.url.path))

    def fail(self, error: BaseException) -> None:
        self._attempts.failed(azure.error_type(error))

    def answer(self, response: Response, *, is_read: bool) -> Reader | None:
        if response.status_code >= _FAILED:
            with_text = all(call.keeps_text for call in self._calls)
            told = _refused(response, is_read=is_read, with_text=with_text, is_azure=self._is_azure)
            self._attempts.failed(told)
            return None
        self._attempts.succeeded(azure.of_headers(response.headers) if self._is_azure else {})
        if not is_read:
            return _reader(response, self._attempts)
        if _MARK in response.content:
            told = orjson.loads(response.content)
            self._attempts.verdicts.add(told)
            if self._attempts.verdicts.is_blocked:
                self._attempts.blocked_answer = told
        return None


class _Chunks:
    """Reads what a stream says of filters, and what of it LangChain drops, chunk by chunk."""

    def __init__(self, events: Events, attempts: Attempts) -> None:
        self._events = events
        self._attempts = attempts

    def read(self, chunk: bytes) -> None:
        for data in self._events.feed(chunk):
            try:
                told = orjson.loads(data)
            except orjson.JSONDecodeError:
                continue  # no event of Azure's; the next one may be
            if isinstance(told, dict):
                self._attempts.read_chunk(told)


def _reader(response: Response, attempts: Attempts) -> Reader | None:
    encoding = response.headers.get("content-encoding", "").lower()
    is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
    if not is_stream or encoding not in _PLAIN | _COMPRESSED:
        return None
    return _Chunks(Events(_MARK, compressed=encoding in _COMPRESSED), attempts)


_latest: ContextVar[_Embedding | None] = ContextVar("embedding", default=None)
"""What this context embedded last: an attempt that follows is of the same call."""


class _Embedding:
    """Attempts at vectors; reported to the tracers, since LangChain has no callbacks for them."""

    def __init__(self, request: Request, listening: Sequence[tuple[Listener, Sequence[uuid.UUID]]]) -> None:
        self._run_id = uuid.uuid4()
        self._listeners = listening
        self._is_azure = azure.is_address(request.url.path)
        self._attempts = Attempts(azure.api_version(request.url.params))
        self._count = 0

    @classmethod
    def begin(cls, request: Request) -> _Embedding | None:
        earlier = azure.resent(request.headers)
        exchange = _latest.get() if earlier else None
        if exchange is None or exchange.is_answered:
            listening = listeners()
            exchange = cls(request, listening) if listening else None
            _latest.set(exchange)
        if exchange is not None:
            exchange.send(read_request(request.url.path, request.content), earlier)
        return exchange

    @property
    def is_answered(self) -> bool:
        return self._attempts.is_answered

    def send(self, asked: EmbeddingRequest, earlier: int) -> None:
        self._count = asked.count
        retry = self._attempts.started(earlier)
        for listener, parents in self._listeners:
            listener.start(asked, self._run_id, parents, retry)

    def fail(self, error: BaseException) -> None:
        self._attempts.failed(azure.error_type(error))
        self._tell_failure(error)

    def answer(self, response: Response, *, is_read: bool) -> Reader | None:
        if response.status_code >= _FAILED:
            # The texts of an inner error may be the texts that were sent: the codes will do.
            told = _refused(response, is_read=is_read, with_text=False, is_azure=self._is_azure)
            self._attempts.failed(told)
            self._tell_failure(None)
            return None
        self._attempts.succeeded(azure.of_headers(response.headers) if self._is_azure else {})
        answer = read_answer(response.content if is_read else b"", self._count)
        for listener, _ in self._listeners:
            listener.end(answer, self._attempts, self._run_id)
        return None

    def _tell_failure(self, error: BaseException | None) -> None:
        for listener, _ in self._listeners:
            listener.fail(error, self._attempts, self._run_id)


def _refused(response: Response, *, is_read: bool, with_text: bool, is_azure: bool) -> dict[str, object]:
    if not is_azure:
        return azure.of_error(response.status_code, None, with_text=with_text)
    body = None
    if is_read and "json" in response.headers.get("content-type", ""):
        with suppress(orjson.JSONDecodeError):
            body = orjson.loads(response.content)
    error = azure.of_error(response.status_code, body, with_text=with_text)
    return error | azure.of_headers(response.headers)
