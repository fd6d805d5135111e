"""Define the HTTP routes of the emulator."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response, StreamingResponse

from azure_emulator.admission import refused
from azure_emulator.playback import Playback
from azure_emulator.reply import Answer, Failure
from azure_emulator.request import Request
from azure_emulator.response_events import response_stream
from azure_emulator.responses import response
from azure_emulator.streaming import Stream, cut, pause, play
from azure_emulator.wire import Json, completion, completion_stream, embeddings

REGION = "Sweden Central"
REQUESTS_PER_MINUTE = 600
TOKENS_PER_MINUTE = 100_000

_BODIES: dict[str, Callable[[Request, Answer, int], Json]] = {
    "chat/completions": completion,
    "embeddings": lambda request, *_: embeddings(request),
    "responses": response,
}
_STREAMS: dict[str, Callable[[Request, Answer, int], Stream]] = {
    "chat/completions": completion_stream,
    "responses": response_stream,
}


def create_app(playback: Playback) -> FastAPI:
    """Create the application that answers from a script."""
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

    @app.post("/openai/responses")
    async def responses(http: HttpRequest) -> Response:
        version = http.query_params.get("api-version", "")
        request = playback.receive("responses", None, version, http.headers, await http.body())
        return await _respond(playback, request)

    return app


async def _respond(playback: Playback, request: Request) -> Response:
    reply = refused(request, playback.api_key) or playback.script.reply(request)
    if isinstance(reply, Failure):
        headers = _headers(request) | dict(reply.headers)
        return JSONResponse(dict(reply.body), reply.status, headers)
    await pause(playback, reply.delay)
    if request.streams:
        stream = _STREAMS[request.operation](request, reply, int(playback.now()))
        sent = play(playback, reply, stream)
        return StreamingResponse(sent, media_type="text/event-stream", headers=_headers(request))
    return await _whole(playback, request, reply)


async def _whole(playback: Playback, request: Request, answer: Answer) -> Response:
    if answer.fault is None:
        body = _BODIES[request.operation](request, answer, int(playback.now()))
        return JSONResponse(body, headers=_headers(request, body["usage"]["total_tokens"]))
    if answer.fault.kind == "hang":
        await playback.closing.wait()
    return StreamingResponse(cut(), media_type="application/json")


def _headers(request: Request, tokens: int = 0) -> dict[str, str]:
    """Return Azure's headers of a response; every request has the full quota of a minute."""
    apim = str(uuid.UUID(request.name("apim")))
    served = (
        {"x-ms-served-model": request.model}
        if request.operation == "responses"
        else {"x-ms-deployment-name": request.deployment}
    )
    return {
        **served,
        "apim-request-id": apim,
        "x-ms-client-request-id": request.headers.get("x-ms-client-request-id", apim),
        "x-request-id": str(uuid.UUID(request.name("request"))),
        "x-ms-region": REGION,
        "x-ms-rai-invoked": "true",
        "azureml-model-session": f"d001-{request.model}",
        "x-ratelimit-limit-requests": str(REQUESTS_PER_MINUTE),
        "x-ratelimit-remaining-requests": str(REQUESTS_PER_MINUTE - 1),
        "x-ratelimit-limit-tokens": str(TOKENS_PER_MINUTE),
        "x-ratelimit-remaining-tokens": str(max(0, TOKENS_PER_MINUTE - tokens)),
        "strict-transport-security": "max-age=31536000; includeSubDomains; preload",
        "x-content-type-options": "nosniff",
    }
