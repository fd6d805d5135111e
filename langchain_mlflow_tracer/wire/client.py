"""Sends requests as the OpenAI SDK's HTTP clients do, and lets what passes be read.

Nothing that goes wrong while reading reaches the application: its requests, answers and exceptions are those
of the client below. Works with openai on httpx (1.x, 2.x) and on httpx2 (3.x).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

import openai

from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.core.log import Log
from langchain_mlflow_tracer.wire import exchange
from langchain_mlflow_tracer.wire.exchange import Exchange
from langchain_mlflow_tracer.wire.requests import Reader

if TYPE_CHECKING:
    import httpx2 as httpx
else:
    # The library that the SDK is built on: openai.DefaultHttpxClient is a subclass of its Client.
    httpx = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__)

__all__ = ["AsyncClient", "Client"]

logger = logging.getLogger(__name__)

_log: Final = Log(logger)

T = TypeVar("T")


class Client(openai.DefaultHttpxClient):
    """The OpenAI SDK's HTTP client, observed."""

    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request, and read what comes of it."""
        begun = _begin(request)
        try:
            response = super().send(request, stream=stream, **options)
        except BaseException as error:
            _fail(begun, error)
            raise
        reader = _answer(begun, response, is_read=not stream)
        if reader is not None:
            response.stream = _Stream(response.stream, reader)
        return response


class AsyncClient(openai.DefaultAsyncHttpxClient):
    """The OpenAI SDK's asynchronous HTTP client, observed."""

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """Send a request, and read what comes of it."""
        begun = _begin(request)
        try:
            response = await super().send(request, stream=stream, **options)
        except BaseException as error:
            _fail(begun, error)
            raise
        reader = _answer(begun, response, is_read=not stream)
        if reader is not None:
            response.stream = _AsyncStream(response.stream, reader)
        return response


class _Passing:
    """What passes by a reader, which is not asked again once it has failed."""

    def __init__(self, stream: Any, reader: Reader) -> None:
        self._stream = stream
        self._reader: Reader | None = reader

    def __getattr__(self, name: str) -> Any:
        # httpx2 keeps the time that a response took on its stream.
        return getattr(self._stream, name)

    def _read(self, chunk: bytes) -> None:
        if self._reader is not None:
            try:
                self._reader.read(chunk)
            except Exception as error:  # noqa: BLE001 - the answer is the application's, whatever is read of it
                self._reader = None
                _warn(error)


class _Stream(_Passing, httpx.SyncByteStream):
    """A body that is read as it passes."""

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._read(chunk)
            yield chunk

    def close(self) -> None:
        self._stream.close()


class _AsyncStream(_Passing, httpx.AsyncByteStream):
    """A body that is read as it passes, asynchronously."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = aiter(self._stream)
        try:
            async for chunk in chunks:
                self._read(chunk)
                yield chunk
        finally:  # as httpx2 does: somebody who stops early need not wait for the garbage collector
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _begin(request: httpx.Request) -> Exchange | None:
    return _quietly(lambda: exchange.begin(request))


def _fail(begun: Exchange | None, error: BaseException) -> None:
    if begun is not None:
        _quietly(lambda: begun.fail(error))


def _answer(begun: Exchange | None, response: httpx.Response, *, is_read: bool) -> Reader | None:
    return None if begun is None else _quietly(lambda: begun.answer(response, is_read=is_read))


def _quietly(read: Callable[[], T]) -> T | None:
    return attempt(read, _warn)


def _warn(error: BaseException) -> None:
    # Not the exception's own text, which may hold what was sent.
    kind = type(error)
    _log.report("wire_failed", "a request could not be read: %s.%s", kind.__module__, kind.__qualname__)
