"""Serve the emulator's HTTP routes."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response, StreamingResponse

from azure_emulator.admission import refused
from azure_emulator.playback import Playback
from azure_emulator.reply import Answer, Failure, Fault
from azure_emulator.request import Request
from azure_emulator.wire import chunks, completion, embeddings

REGION = "Sweden Central"
REQUESTS_PER_MINUTE = 600
TOKENS_PER_MINUTE = 100_000

_BEFORE_TOKENS = 2  # the chunks of a stream that come before its first token


class ConnectionCutError(Exception):
    """The emulator cuts this connection, as it was told to."""


def create_app(playback: Playback) -> FastAPI:
    """Make the application that plays back a script."""
    app = FastAPI(openapi_url=None)

    @app.post("/openai/deployments/{deployment}/{operation:path}")
    async def by_deployment(deployment: str, operation: str, http: HttpRequest) -> Response:
        version = http.query_params.get("api-version", "")
        request = playback.receive(operation, deployment, version, http.headers, await http.body())
        return await _respond(playback, request)

    @app.post("/openai/v1/{operation:path}")
    async def by_model(operation: str, http: HttpRequest) -> Response:
        request = playback.receive(operation, None, "v1", http.headers, await http.body())
        return await _respond(playback, request)

    return app


async def _respond(playback: Playback, request: Request) -> Response:
    reply = refused(request, playback.api_key) or playback.script.reply(request)
    if isinstance(reply, Failure):
        headers = _headers(request) | dict(reply.headers)
        return JSONResponse(dict(reply.body), reply.status, headers)
    await _pause(playback, reply.delay)
    if request.operation == "embeddings":
        return JSONResponse(embeddings(request), headers=_headers(request))
    if request.streams:
        return StreamingResponse(
            _events(playback, request, reply), media_type="text/event-stream", headers=_headers(request)
        )
    return await _whole(playback, request, reply)


async def _whole(playback: Playback, request: Request, answer: Answer) -> Response:
    if answer.fault is None:
        body = completion(request, answer, int(playback.now()))
        return JSONResponse(body, headers=_headers(request, body["usage"]["total_tokens"]))
    if answer.fault.kind == "hang":
        await playback.closing.wait()
    return StreamingResponse(_cut(), media_type="application/json")


async def _events(playback: Playback, request: Request, answer: Answer) -> AsyncIterator[str]:
    for sent, chunk in enumerate(chunks(request, answer, int(playback.now()))):
        if answer.fault and sent == answer.fault.after + _BEFORE_TOKENS:
            await _fail(playback, answer.fault)
        yield f"data: {json.dumps(chunk)}\n\n"
        await _pause(playback, answer.pace)
    yield "data: [DONE]\n\n"


async def _pause(playback: Playback, seconds: float) -> None:
    """Sleep, unless the server stops; give way to other connections in any case."""
    if not seconds:
        await asyncio.sleep(0)
        return
    with suppress(TimeoutError):
        await asyncio.wait_for(playback.closing.wait(), seconds)


async def _fail(playback: Playback, fault: Fault) -> None:
    if fault.kind == "hang":
        await playback.closing.wait()
    raise ConnectionCutError


async def _cut() -> AsyncIterator[str]:
    yield "{"
    raise ConnectionCutError


def _headers(request: Request, tokens: int = 0) -> dict[str, str]:
    """Say what Azure says of every request; each request finds a fresh minute's quota."""
    apim = str(uuid.UUID(request.name("apim")))
    return {
        "apim-request-id": apim,
        "x-ms-client-request-id": request.headers.get("x-ms-client-request-id", apim),
        "x-request-id": str(uuid.UUID(request.name("request"))),
        "x-ms-region": REGION,
        "x-ms-deployment-name": request.deployment,
        "x-ms-rai-invoked": "true",
        "azureml-model-session": f"d001-{request.model}",
        "x-ratelimit-limit-requests": str(REQUESTS_PER_MINUTE),
        "x-ratelimit-remaining-requests": str(REQUESTS_PER_MINUTE - 1),
        "x-ratelimit-limit-tokens": str(TOKENS_PER_MINUTE),
        "x-ratelimit-remaining-tokens": str(max(0, TOKENS_PER_MINUTE - tokens)),
        "strict-transport-security": "max-age=31536000; includeSubDomains; preload",
        "x-content-type-options": "nosniff",
    }
