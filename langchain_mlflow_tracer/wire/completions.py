"""Reads one attempt at a model's answer, for the model calls that this context waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Self

import orjson

from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.recording.models import azure
from langchain_mlflow_tracer.recording.models.attempts import Attempts
from langchain_mlflow_tracer.recording.models.model_call import ModelCall, unanswered
from langchain_mlflow_tracer.wire.requests import error_facts, header_facts, is_error
from langchain_mlflow_tracer.wire.sse import Events

if TYPE_CHECKING:
    import httpx2 as httpx

__all__ = ["ChunkReader", "CompletionAttempt"]

_MARK: Final = b"filter"
"""In every name of a verdict: content_filter_results, prompt_filter_results, content_filters."""

_COMPRESSED: Final = frozenset({"gzip", "deflate"})
_PLAIN: Final = frozenset({"", "identity"})


class CompletionAttempt:
    """An attempt at a completion or a response; several tracers may record the same call."""

    def __init__(self, calls: Sequence[ModelCall], request: httpx.Request) -> None:
        """Begin an attempt at the answer of `calls`, which are one call to several tracers."""
        self._calls = calls
        self._attempts = calls[0].attempts or Attempts(azure.api_version(request.url.params))
        self._is_azure = azure.is_address(request.url.path)

    @classmethod
    def find(cls, request: httpx.Request) -> CompletionAttempt | None:
        """Return an attempt of the calls that wait for an answer here; None if there are none."""
        calls = unanswered()
        return cls(calls, request) if calls else None

    @property
    def logs(self) -> Sequence[Log]:
        """The logs of the tracers that record it."""
        return [call.log for call in self._calls]

    def start(self, request: httpx.Request) -> Self:
        """Take the request that is about to be sent."""
        retry = self._attempts.started(azure.resent(request.headers))
        for call in self._calls:
            call.send(self._attempts, retry)
        return self

    def fail(self, error: BaseException) -> None:
        """Take the exception that came instead of an answer."""
        self._attempts.failed(azure.error_type(error))

    def answer(self, response: httpx.Response, *, is_read: bool) -> ChunkReader | None:
        """Take the answer; return the reader of its body, if that is a stream."""
        if is_error(response):
            with_text = all(call.keeps_text for call in self._calls)
            facts = error_facts(response, is_read=is_read, with_text=with_text, is_azure=self._is_azure)
            self._attempts.failed(facts)
            return None
        self._attempts.succeeded(header_facts(response, is_azure=self._is_azure))
        if not is_read:
            return _reader(response, self._attempts)
        if _MARK in response.content:
            completion = orjson.loads(response.content)
            self._attempts.verdicts.add(completion)
            if self._attempts.verdicts.is_blocked:
                self._attempts.blocked_answer = completion
        return None


class ChunkReader:
    """Reads the chunks of a stream that LangChain drops in part: verdicts, ids, refusals."""

    def __init__(self, events: Events, attempts: Attempts) -> None:
        """Read `events` into `attempts`."""
        self._events = events
        self._attempts = attempts

    def read(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        for data in self._events.feed(chunk):
            try:
                event = orjson.loads(data)
            except orjson.JSONDecodeError:
                continue  # not one of Azure's events; the next one may be
            if isinstance(event, dict):
                self._attempts.read_chunk(event)


def _reader(response: httpx.Response, attempts: Attempts) -> ChunkReader | None:
    encoding = response.headers.get("content-encoding", "").lower()
    is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
    if not is_stream or encoding not in _PLAIN | _COMPRESSED:
        return None
    return ChunkReader(Events(_MARK, compressed=encoding in _COMPRESSED), attempts)
