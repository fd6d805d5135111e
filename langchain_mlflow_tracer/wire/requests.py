"""Reads the facts in the HTTP status, headers and body of an answer, from either HTTP client."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import orjson

from langchain_mlflow_tracer.recording.models import azure

if TYPE_CHECKING:
    import httpx2 as httpx

__all__ = ["error_facts", "header_facts", "is_error"]

_FIRST_ERROR: Final = 400
"""The first HTTP status that is an error."""


def is_error(response: httpx.Response) -> bool:
    """Whether an answer is an error."""
    return response.status_code >= _FIRST_ERROR


def header_facts(response: httpx.Response, *, is_azure: bool) -> dict[str, object]:
    """Return the facts in the headers of an answer, if it is Azure's."""
    return azure.of_headers(response.headers) if is_azure else {}


def error_facts(
    response: httpx.Response, *, is_read: bool, with_text: bool, is_azure: bool
) -> dict[str, object]:
    """Return the facts of an answer that is an error; `is_read` is whether its body is there."""
    body = None
    if is_azure and is_read and "json" in response.headers.get("content-type", ""):
        with suppress(orjson.JSONDecodeError):
            body = orjson.loads(response.content)
    facts = azure.of_error(response.status_code, body, with_text=with_text)
    return facts | header_facts(response, is_azure=is_azure)
