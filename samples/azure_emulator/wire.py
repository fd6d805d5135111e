"""Create the JSON of chat completions and embeddings: complete, or as the chunks of a stream."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from azure_emulator.choices import Choice, choices, usage
from azure_emulator.filters import completion_verdicts, prompt_verdicts
from azure_emulator.reply import Answer, ToolCall
from azure_emulator.request import Request
from azure_emulator.streaming import Stream
from azure_emulator.tokens import count, pieces
from azure_emulator.vectors import DIMENSIONS, as_base64, embed

Json = dict[str, Any]

_BEFORE_TOKENS = 2  # number of chunks before the first token of a stream


def completion(request: Request, answer: Answer, created: int) -> Json:
    """Return a complete completion."""
    made = choices(request, answer)
    return {
        **_head(request, "chat.completion", created),
        "choices": [_whole(request, choice) for choice in made],
        "prompt_filter_results": _prompt_filter_results(),
        "usage": usage(request, answer, made),
    }


def completion_stream(request: Request, answer: Answer, created: int) -> Stream:
    """Return the stream of a completion."""
    frames = [f"data: {json.dumps(chunk)}\n\n" for chunk in _chunks(request, answer, created)]
    return Stream([*frames, "data: [DONE]\n\n"], _BEFORE_TOKENS)


def embeddings(request: Request) -> Json:
    """Return the vectors of all texts, as base64 if the client asks for it."""
    dimensions = request.body.get("dimensions") or DIMENSIONS
    vectors = [embed(text, dimensions) for text in request.inputs]
    packed = request.body.get("encoding_format") == "base64"
    used = sum(map(count, request.inputs))
    return {
        "object": "list",
        "model": request.model,
        "data": [
            {"object": "embedding", "index": index, "embedding": as_base64(vector) if packed else vector}
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def _chunks(request: Request, answer: Answer, created: int) -> Iterator[Json]:
    """Yield the results of the prompt filter, the deltas of each choice, and the usage if requested."""
    made = choices(request, answer)
    head = _head(request, "chat.completion.chunk", created)
    unused = {"usage": None} if request.wants_usage else {}
    yield _preamble() | unused
    for choice in made:
        for part in _parts(request, choice):
            yield {**head, "choices": [part], **unused}
    if request.wants_usage:
        yield {**head, "choices": [], "usage": usage(request, answer, made)}


def _head(request: Request, kind: str, created: int) -> Json:
    tier = request.body.get("service_tier")
    return {
        "id": f"chatcmpl-{request.name('completion')[:29]}",
        "object": kind,
        "created": created,
        "model": request.model,
        "system_fingerprint": f"fp_{hashlib.blake2b(request.model.encode(), digest_size=5).hexdigest()}",
        **({"service_tier": "default" if tier == "auto" else tier} if tier else {}),
    }


def _whole(request: Request, choice: Choice) -> Json:
    calls = [_call(request, choice, index) for index in range(len(choice.tool_calls))]
    content, refusal = ("".join(tokens) or None for tokens in (choice.tokens, choice.refusal))
    message: Json = {"role": "assistant", "content": content, "refusal": refusal}
    if calls:
        message["tool_calls"] = calls
    return {
        "index": choice.index,
        "message": message,
        "finish_reason": choice.finish_reason,
        "logprobs": _logprobs(request, choice.tokens),
        "content_filter_results": completion_verdicts(choice.filtered),
    }


def _preamble() -> Json:
    return {
        "id": "",
        "object": "",
        "created": 0,
        "model": "",
        "choices": [],
        "prompt_filter_results": _prompt_filter_results(),
    }


def _parts(request: Request, choice: Choice) -> Iterator[Json]:
    content = "" if choice.tokens or not (choice.tool_calls or choice.refusal) else None
    yield _part(choice, {"role": "assistant", "content": content, "refusal": None})
    for token in choice.tokens:
        logprobs = _logprobs(request, (token,))
        yield _part(choice, {"content": token}, verdicts=completion_verdicts(), logprobs=logprobs)
    for token in choice.refusal:
        yield _part(choice, {"refusal": token}, verdicts=completion_verdicts())
    for index, call in enumerate(choice.tool_calls):
        opening = _call(request, choice, index)
        opening["function"]["arguments"] = ""
        yield _part(choice, {"tool_calls": [{"index": index, **opening}]})
        for piece in pieces(call.arguments):
            yield _part(choice, {"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    verdicts = completion_verdicts(choice.filtered) if choice.filtered else {}
    yield _part(choice, {}, verdicts=verdicts, finish_reason=choice.finish_reason)


def _part(
    choice: Choice,
    delta: Json,
    *,
    verdicts: Json | None = None,
    logprobs: Json | None = None,
    finish_reason: str | None = None,
) -> Json:
    return {
        "index": choice.index,
        "delta": delta,
        "finish_reason": finish_reason,
        "logprobs": logprobs,
        "content_filter_results": verdicts or {},
    }


def _call(request: Request, choice: Choice, index: int) -> Json:
    call: ToolCall = choice.tool_calls[index]
    return {
        "id": f"call_{request.name(f'call {choice.index} {index}')[:24]}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _logprobs(request: Request, tokens: tuple[str, ...]) -> Json | None:
    if not request.body.get("logprobs"):
        return None
    return {"content": [_logprob(token) for token in tokens], "refusal": None}


def _logprob(token: str) -> Json:
    # Any number is fine, if the same token always has the same number.
    return {
        "token": token,
        "logprob": -len(token) / 100,
        "bytes": list(token.encode()),
        "top_logprobs": [],
    }


def _prompt_filter_results() -> list[Json]:
    return [{"prompt_index": 0, "content_filter_results": prompt_verdicts()}]
