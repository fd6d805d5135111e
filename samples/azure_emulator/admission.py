"""Reject the requests that Azure rejects before it reads the conversation."""

from __future__ import annotations

from azure_emulator.failures import (
    bad_body,
    deployment_not_found,
    missing_key,
    resource_not_found,
    unsupported_operation,
    wrong_key,
    wrong_token,
)
from azure_emulator.reply import Failure
from azure_emulator.request import Request

OPERATIONS = {"chat/completions": "messages", "embeddings": "input", "responses": "input"}
"""The supported operations, and the required key in the body of each."""


def refused(request: Request, api_key: str) -> Failure | None:
    """Return why a request is rejected, or None."""
    return _unauthorized(request, api_key) or _unknown(request) or _unfit(request)


def _unauthorized(request: Request, api_key: str) -> Failure | None:
    key = request.headers.get("api-key")
    token = request.headers.get("authorization")
    if key is not None:
        return None if key == api_key else wrong_key()
    if token is not None:
        return None if token == f"Bearer {api_key}" else wrong_token()
    return missing_key()


def _unknown(request: Request) -> Failure | None:
    if request.operation not in OPERATIONS or not request.api_version:
        return resource_not_found()
    return None if request.model else deployment_not_found()


def _unfit(request: Request) -> Failure | None:
    embeds = request.model.startswith("text-embedding")
    if embeds != (request.operation == "embeddings"):
        return unsupported_operation(request.operation, request.model)
    needed = OPERATIONS[request.operation]
    return None if request.body.get(needed) else bad_body(f"Missing required parameter: '{needed}'.")
