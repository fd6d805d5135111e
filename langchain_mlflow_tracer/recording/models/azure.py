"""Reads facts of a call from Azure's headers, addresses and error bodies, by allow-lists."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from langchain_mlflow_tracer.core.attributes import (
    AZURE_ERROR_CODE,
    AZURE_SERVED_MODEL,
    HTTP_RESEND_COUNT,
    HTTP_STATUS,
    present,
)
from langchain_mlflow_tracer.core.guard import attempt
from langchain_mlflow_tracer.recording.content.freeze import Freezer
from langchain_mlflow_tracer.recording.models.content_filters import Verdicts

__all__ = [
    "api_version", "error_type", "is_address", "of_answer", "of_client", "of_error", "of_exception",
    "of_headers", "resent",
]  # fmt: skip

MAX_TEXT: Final = 200
"""Characters kept of a header or code: a request id has 36, a region about 20."""

MAX_LEVELS: Final = 8
"""Levels of an `innererror` that are read without its texts; Azure nests two or three."""

_SIGNS: Final = ("apim-request-id", "x-ms-region", "x-ms-client-request-id")
"""Headers that only Azure sends, for calls whose client is not known."""

_RESENT: Final = "x-stainless-retry-count"
"""The header in which the OpenAI SDK numbers its attempts, from 0 on (openai 1.x to 3.54)."""

_NO_ANSWER: Final = "APIConnectionError"
"""The name of the SDK's exception for a request without an answer; its cause is the reason."""


def api_version(parameters: Mapping[str, object]) -> dict[str, object]:
    """Return the API version that the parameters of a request's address name."""
    return _named("azure.api_version", parameters.get("api-version"))


def is_address(path: str) -> bool:
    """Whether the path of an address has the form that Azure's have, for deployments and for `v1`."""
    return "/openai/" in path


def resent(headers: Mapping[str, str]) -> int:
    """Return how many attempts at a request failed before, from the headers of the request."""
    count = headers.get(_RESENT, "")
    return int(count) if count.isdecimal() else 0


def error_type(error: BaseException) -> dict[str, object]:
    """Return the class of the exception that came instead of an answer."""
    kind = type(error)
    return {"error.type": f"{kind.__module__}.{kind.__qualname__}"}


def of_client(serialized: Mapping[str, object] | None) -> dict[str, object]:
    """Return the API version among a client's arguments, and none of the others: they may be secrets."""
    arguments = serialized.get("kwargs") if serialized else None
    named = arguments.get("openai_api_version") if isinstance(arguments, dict) else None
    return _named("azure.api_version", named)


def of_answer(
    facts: Mapping[str, object], infos: Sequence[Mapping[str, object]], *, is_azure: bool
) -> dict[str, object]:
    """Return the facts in LangChain's own answer: filters, and headers if the user asked for them."""
    headers = facts.get("headers")
    attributes = of_headers(headers) if isinstance(headers, dict) and _is_azure(headers, is_azure) else {}
    if "prompt_filter_results" in facts or any("content_filter_results" in info for info in infos):
        verdicts = Verdicts()
        verdicts.add({**facts, "choices": [{**info, "index": index} for index, info in enumerate(infos)]})
        attributes |= verdicts.attributes()
    return attributes


def of_headers(headers: Mapping[str, str]) -> dict[str, object]:
    """Return the region, the served model and the id of a request, and what is left of the rate limit."""
    facts: dict[str, object] = {
        **_named("azure.region", headers.get("x-ms-region")),
        **_named("azure.request_id", headers.get("apim-request-id")),
        **_named(AZURE_SERVED_MODEL, headers.get("x-ms-served-model")),
    }
    numbers = {
        "azure.ratelimit.remaining_requests": _number(headers.get("x-ratelimit-remaining-requests"), int),
        "azure.ratelimit.remaining_tokens": _number(headers.get("x-ratelimit-remaining-tokens"), int),
        "azure.retry_after_seconds": _retry_after(headers),
    }
    return facts | present(numbers)


def of_error(status: object, body: object, *, with_text: bool) -> dict[str, object]:
    """Return the facts of an answer that is an error: status, code, inner error, filters that tripped.

    Without text, only the codes and verdicts of the inner error are kept.
    """
    facts: dict[str, object] = {HTTP_STATUS: status} if isinstance(status, int) else {}
    error = body.get("error", body) if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        return facts
    facts |= _named(AZURE_ERROR_CODE, error.get("code"))
    inner = error.get("innererror")
    verdicts = Verdicts()
    verdicts.add(error)  # the Responses API has the filters beside the code
    if isinstance(inner, Mapping) and inner:
        verdicts.refuse(inner.get("content_filter_result"))
        facts["azure.error.innererror"] = Freezer().mapping(inner) if with_text else _textless(inner)
    return facts | verdicts.attributes()


def of_exception(error: BaseException, *, with_text: bool, is_azure: bool) -> dict[str, object]:
    """Return the facts of a failed call from its exception: `openai.APIError` has request, answer and body.

    `is_azure` is whether the client is known to be Azure's; else the answer's headers or the address show it.
    """
    # By attributes, not by class: openai need not be imported, and the exception may be of any library.
    request, response = getattr(error, "request", None), getattr(error, "response", None)
    url, status = getattr(request, "url", None), getattr(response, "status_code", None)
    headers = _mapping(response, "headers")
    facts = _of_attempts(error, _mapping(request, "headers"))
    if not _is_azure(headers, is_azure or is_address(str(getattr(url, "path", "")))):
        return facts | of_error(status, None, with_text=with_text)
    asked = api_version(_mapping(url, "params"))
    answered = of_error(status, getattr(error, "body", None), with_text=with_text)
    return facts | asked | answered | of_headers(headers)


def _of_attempts(error: BaseException, sent: Mapping[str, str]) -> dict[str, object]:
    facts: dict[str, object] = {}
    if count := resent(sent):
        facts[HTTP_RESEND_COUNT] = count
    if _has_no_answer(error) and (cause := _cause(error)) is not None:
        facts |= error_type(cause)
    return facts


def _cause(error: BaseException) -> BaseException | None:
    """Return why there is no answer: langchain-openai (1.7) wraps the SDK's exception in one of its own."""
    cause = error.__cause__
    return cause.__cause__ if cause is not None and _has_no_answer(cause) else cause


def _has_no_answer(error: BaseException) -> bool:
    return any(kind.__name__ == _NO_ANSWER for kind in type(error).__mro__)


def _mapping(holder: object, name: str) -> Mapping[str, str]:
    value = getattr(holder, name, None)
    return value if isinstance(value, Mapping) else {}


def _is_azure(headers: Mapping[str, str], known: bool) -> bool:  # noqa: FBT001 - of two alternatives
    return known or any(sign in headers for sign in _SIGNS)


def _named(name: str, value: object) -> dict[str, object]:
    return {name: value[:MAX_TEXT]} if isinstance(value, str) and value else {}


def _number(text: object, kind: Callable[[str], float]) -> float | None:
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        return None
    # By `attempt`: a header may hold anything.
    number = attempt(lambda: kind(text), lambda _: None)
    return number if number is not None and math.isfinite(number) else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, as the OpenAI SDK reads them: it prefers the milliseconds."""
    # "retry-after" may also be a date, which is no number: then nothing is recorded.
    milliseconds = _number(headers.get("retry-after-ms"), float)
    return _number(headers.get("retry-after"), float) if milliseconds is None else milliseconds / 1000


def _textless(inner: Mapping[str, object], levels: int = MAX_LEVELS) -> dict[str, object]:
    """Keep the codes of an inner error, and the verdicts without the texts that they are about."""
    kept = _named("code", inner.get("code"))
    nested, verdicts = inner.get("innererror"), inner.get("content_filter_result")
    if isinstance(nested, Mapping) and levels:
        kept["innererror"] = _textless(nested, levels - 1)
    if isinstance(verdicts, Mapping):
        kept["content_filter_result"] = {
            name: _verdict(verdict) for name, verdict in verdicts.items() if isinstance(verdict, Mapping)
        }
    return kept


def _verdict(verdict: Mapping[str, object]) -> dict[str, object]:
    return {key: verdict[key] for key in ("filtered", "detected", "severity") if key in verdict}
