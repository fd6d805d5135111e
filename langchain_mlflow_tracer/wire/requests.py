"""Describes requests and answers as httpx and httpx2 have them, and reads answers that are errors."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Protocol

import orjson

from langchain_mlflow_tracer.recording.models import azure

__all__ = ["Address", "Reader", "Request", "Response", "error_facts", "header_facts", "is_error"]

_FIRST_ERROR: Final = 400
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


class Reader(Protocol):
    """Reads a body while the application receives it."""

    def read(self, chunk: bytes) -> None:
        """Take the next bytes."""


def is_error(response: Response) -> bool:
    """Whether an answer is an error."""
    return response.status_code >= _FIRST_ERROR


def header_facts(response: Response, *, is_azure: bool) -> dict[str, object]:
    """Return what the headers of an answer show, if it is Azure's."""
    return azure.of_headers(response.headers) if is_azure else {}


def error_facts(response: Response, *, is_read: bool, with_text: bool, is_azure: bool) -> dict[str, object]:
    """Return what an answer that is an error shows; `is_read` is whether its body is there."""
    body = None
    if is_azure and is_read and "json" in response.headers.get("content-type", ""):
        with suppress(orjson.JSONDecodeError):
            body = orjson.loads(response.content)
    facts = azure.of_error(response.status_code, body, with_text=with_text)
    return facts | header_facts(response, is_azure=is_azure)
