"""Create error responses with Azure's texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from azure_emulator.filters import input_filters, prompt_verdicts
from azure_emulator.reply import Failure

SHORTLY = 0.02
"""Seconds: a short pause that does not slow down tests."""

_FILTERED = (
    "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. "
    "Please modify your prompt and retry. To learn more about our content filtering policies please read "
    "our documentation: https://go.microsoft.com/fwlink/?linkid=2198766"
)


def missing_key() -> Failure:
    """Reject a request without a key."""
    return _failure(
        HTTPStatus.UNAUTHORIZED,
        "401",
        "Access denied due to missing subscription key. "
        "Make sure to include subscription key when making requests to an API.",
    )


def wrong_key() -> Failure:
    """Reject a wrong key."""
    return _failure(
        HTTPStatus.UNAUTHORIZED,
        "401",
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid "
        "key for an active subscription and use a correct regional API endpoint for your resource.",
    )


def wrong_token() -> Failure:
    """Reject a bearer token; this response has another format, without `error`."""
    return Failure(
        HTTPStatus.UNAUTHORIZED,
        {
            "statusCode": 401,
            "message": "Unauthorized. Access token is missing, invalid, audience is incorrect "
            "(https://cognitiveservices.azure.com), or have expired.",
        },
    )


def resource_not_found() -> Failure:
    """Reject an unknown path or API version."""
    return _failure(HTTPStatus.NOT_FOUND, "404", "Resource not found")


def deployment_not_found() -> Failure:
    """Reject an unknown deployment."""
    return _failure(
        HTTPStatus.NOT_FOUND,
        "DeploymentNotFound",
        "The API deployment for this resource does not exist. If you created the deployment within the last "
        "5 minutes, please wait a moment and try again.",
    )


def unsupported_operation(operation: str, model: str) -> Failure:
    """Reject a chat with an embedding model, or an embedding with a chat model."""
    name = {"chat/completions": "chatCompletion"}.get(operation, operation)
    return _failure(
        HTTPStatus.BAD_REQUEST,
        "OperationNotSupported",
        f"The {name} operation does not work with the specified model, {model}. "
        "Please choose different model and try again.",
    )


def bad_body(message: str) -> Failure:
    """Reject a body without a required key."""
    return _failure(HTTPStatus.BAD_REQUEST, None, message, {"type": "invalid_request_error", "param": None})


def rate_limited(after: float = SHORTLY, operation: str = "chat/completions") -> Failure:
    """Ask for a pause, in whole seconds and in milliseconds as Azure does; clients prefer milliseconds."""
    name = {"chat/completions": "ChatCompletions", "embeddings": "Embeddings"}.get(operation, "Responses")
    seconds = str(math.ceil(after))
    headers = {
        "retry-after": seconds,
        "retry-after-ms": str(round(after * 1000)),
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-requests": seconds,
        "x-ratelimit-reset-tokens": seconds,
        "policy-id": "DeploymentRatelimit-Token",
    }
    return _failure(
        HTTPStatus.TOO_MANY_REQUESTS,
        "RateLimitReached",
        f"Requests to the {name}_Create Operation under Azure OpenAI API have exceeded token rate "
        f"limit of your current OpenAI S0 pricing tier. Please retry after {seconds} seconds.",
        headers=headers,
    )


def prompt_filtered(category: str = "violence") -> Failure:
    """Reject a prompt because of the content management policy."""
    more = {
        "type": None,
        "param": "prompt",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": prompt_verdicts(category),
        },
    }
    return _failure(HTTPStatus.BAD_REQUEST, "content_filter", _FILTERED, more)


def input_filtered(characters: int, category: str = "violence") -> Failure:
    """Reject the input of a response, in the format of published errors of 2026."""
    more = {
        "type": "invalid_request_error",
        "param": "prompt",
        "content_filters": input_filters(characters, category),
        "innererror": {"code": "ContentFiltered"},
    }
    return _failure(HTTPStatus.BAD_REQUEST, "content_filter", _FILTERED, more)


def broken_service(status: int = HTTPStatus.INTERNAL_SERVER_ERROR) -> Failure:
    """Return an error of the service."""
    phrase = HTTPStatus(status).phrase
    return _failure(status, phrase.replace(" ", ""), f"{phrase}: the server had an error with your request.")


def _failure(
    status: int,
    code: str | None,
    message: str,
    more: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Failure:
    return Failure(status, {"error": {"code": code, "message": message, **(more or {})}}, headers or {})
