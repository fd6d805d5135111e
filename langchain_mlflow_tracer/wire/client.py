"""Sends requests as the OpenAI SDK's HTTP clients do, and reads requests and answers for the tracers.

No failure of that reading reaches the application: its requests, answers and exceptions are those of the
client below. Works with openai on httpx (1.x, 2.x) and on httpx2 (3.x).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import openai

from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.wire import exchange
from langchain_mlflow_tracer.wire.completions import ChunkReader
from langchain_mlflow_tracer.wire.exchange import Exchange

if TYPE_CHECKING:
    import httpx2 as httpx
else:
    # The library that the SDK is built on: openai.DefaultHttpxClient is a subclass of its Client.
    httpx = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__)

__all__ = ["AsyncClient", "Client"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Client(openai.DefaultHttpxClient):
    """The OpenAI SDK's HTTP client, observed."""

    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request, and read its answer."""
        attempted = _start(request)
        try:
            response = super().send(request, stream=stream, **options)
        except BaseException as error:
            _fail(attempted, error)
            raise
        reader = _answer(attempted, response, is_read=not stream)
        if attempted is not None and reader is not None:
            response.stream = _Stream(response.stream, attempted, reader)
        return response


class AsyncClient(openai.DefaultAsyncHttpxClient):
    """The OpenAI SDK's asynchronous HTTP client, observed."""

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request, and read its answer."""
        attempted = _start(request)
        try:
            response = await super().send(request, stream=stream, **options)
        except BaseException as error:
            _fail(attempted, error)
            raise
        reader = _answer(attempted, response, is_read=not stream)
        if attempted is not None and reader is not None:
            response.stream = _AsyncStream(response.stream, attempted, reader)
        return response


class _Passing:
    """A body that is read while the application receives it, until reading fails."""

    def __init__(self, stream: Any, attempted: Exchange, reader: ChunkReader) -> None:
        self._stream = stream
        self._attempted = attempted
        self._reader: ChunkReader | None = reader

    def _read(self, chunk: bytes) -> None:
        if self._reader is not None:
            try:
                self._reader.read(chunk)
            except Exception as error:  # noqa: BLE001 - the answer is the application's, whatever is read of it
                self._reader = None
                _report(self._attempted, error)

    def __getattr__(self, name: str) -> Any:
        # httpx2 keeps the time that a response took on its stream.
        return getattr(self._stream, name)


class _Stream(_Passing, httpx.SyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._read(chunk)
            yield chunk

    def close(self) -> None:
        self._stream.close()


class _AsyncStream(_Passing, httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._stream)
        try:
            async for chunk in chunks:
                self._read(chunk)
                yield chunk
        finally:  # as httpx2 does: an application that stops early need not wait for the garbage collector
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _start(request: httpx.Request) -> Exchange | None:
    # No tracer is known yet that could count a failure.
    found = attempt(exchange.find, lambda error: logger.debug("%s", type(error)), request)
    return None if found is None else _guarded(found, lambda: found.start(request))


def _fail(attempted: Exchange | None, error: BaseException) -> None:
    if attempted is not None:
        _guarded(attempted, lambda: attempted.fail(error))


def _answer(attempted: Exchange | None, response: httpx.Response, *, is_read: bool) -> ChunkReader | None:
    if attempted is None:
        return None
    return _guarded(attempted, lambda: attempted.answer(response, is_read=is_read))


def _guarded(attempted: Exchange, call: Callable[[], T]) -> T | None:
    return attempt(call, lambda error: _report(attempted, error))


def _report(attempted: Exchange, error: BaseException) -> None:
    """Count and log a failure for each tracer that records the request."""
    kind = type(error)  # without the exception's text, which may hold content
    for log in attempted.logs:
        log.report("wire_failed", "a request could not be read: %s.%s", kind.__module__, kind.__qualname__)
