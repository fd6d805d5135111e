"""Reads the request and the answer of an embedding call; the vectors themselves are never kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import orjson

from langchain_mlflow_tracer.core.attributes import (
    AZURE_DEPLOYMENT,
    CHAT_TOKEN_USAGE,
    LLM_MODEL,
    LLM_PROVIDER,
    REQUEST_MODEL,
    RESPONSE_MODEL,
)
from langchain_mlflow_tracer.recording.models.embeddings import EmbeddingAnswer, EmbeddingRequest

__all__ = ["read_answer", "read_request"]

MAX_VALUE: Final = 4_096
"""Bytes at either end of an answer in which the small values are searched for: a model's name, a usage."""

BYTES_PER_FLOAT: Final = 4
"""In a vector as base64, the form that the OpenAI SDK asks for."""

_DEPLOYMENT: Final = re.compile(r"/deployments/([^/]+)/")
_MODEL: Final = re.compile(rb'"model"\s*:\s*"([^"\\]*)"')
_USAGE: Final = re.compile(rb'"usage"\s*:\s*(\{[^{}]*\})')
_VECTOR: Final = re.compile(rb'"embedding"\s*:\s*(["\[])')


def read_request(path: str, content: bytes) -> EmbeddingRequest:
    """Read a request; where tokens were sent instead of texts, only their number is kept."""
    body = orjson.loads(content)
    sent = body.get("input")
    inputs = sent if isinstance(sent, list) and not _is_tokens(sent) else [sent]
    deployment = _DEPLOYMENT.search(path)
    requested = deployment[1] if deployment else body.get("model")
    on_azure = "/openai/" in path
    named = {
        LLM_PROVIDER: "azure" if on_azure else "openai",
        REQUEST_MODEL: requested,
        AZURE_DEPLOYMENT: requested if on_azure else None,
        "lc.embedding.count": len(inputs),
    }
    shown = [_shown(text) for text in inputs]
    return EmbeddingRequest(
        {"input": shown[0] if inputs is not sent else shown},
        len(inputs),
        {key: value for key, value in named.items() if isinstance(value, str | int)},
    )


def _is_tokens(sent: object) -> bool:
    return isinstance(sent, list) and bool(sent) and isinstance(sent[0], int)


def _shown(text: object) -> object:
    return {"tokens": len(text)} if isinstance(text, list) else text


def read_answer(content: bytes, count: int) -> EmbeddingAnswer:
    """Read an answer without parsing it: nearly all of it are vectors, the small values are searched for."""
    usage = _usage(content)
    dimensions = _dimensions(content)
    model = _first_or_last(_MODEL, content)
    outputs: dict[str, object] = {"count": count, "dimensions": dimensions, "usage": usage}
    tokens = usage.get("prompt_tokens") if usage else None
    served = model[1].decode(errors="replace") if model else None
    named: dict[str, object | None] = {
        LLM_MODEL: served,
        RESPONSE_MODEL: served,
        "gen_ai.embeddings.dimension.count": dimensions,
        CHAT_TOKEN_USAGE: {
            "input_tokens": tokens,
            "output_tokens": 0,
            "total_tokens": tokens,
        } if isinstance(tokens, int) else None,
    }  # fmt: skip
    return EmbeddingAnswer(
        {key: value for key, value in outputs.items() if value is not None},
        {key: value for key, value in named.items() if value is not None},
    )


def _first_or_last(pattern: re.Pattern[bytes], content: bytes) -> re.Match[bytes] | None:
    """Find a value before the vectors or after them."""
    return pattern.search(content[:MAX_VALUE]) or pattern.search(content[-MAX_VALUE:])


def _usage(content: bytes) -> dict[str, int] | None:
    found = _first_or_last(_USAGE, content)
    told: Mapping[str, object] = orjson.loads(found[1]) if found else {}
    return {key: value for key, value in told.items() if isinstance(value, int)} or None


def _dimensions(content: bytes) -> int | None:
    """Measure the first vector, base64 or a list of numbers."""
    found = _VECTOR.search(content[:MAX_VALUE])
    if found is None:
        return None
    begin = found.end()
    if found[1] == b"[":
        end = content.find(b"]", begin)
        return content.count(b",", begin, end) + 1 if end > begin else None
    end = content.find(b'"', begin)
    packed = content[max(begin, end - 2) : end].count(b"=")
    return ((end - begin) // 4 * 3 - packed) // BYTES_PER_FLOAT if end > begin else None
