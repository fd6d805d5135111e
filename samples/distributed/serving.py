"""Serve an app, and send its traces before its process ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI

from langchain_mlflow_tracer import MlflowTracer
from store import FLUSH_TIMEOUT


def create_app(tracer: MlflowTracer) -> FastAPI:
    """Create an app that waits at its end until all traces are in MLflow.

    Without this, they would be sent a little later.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await tracer.aflush(FLUSH_TIMEOUT)

    return FastAPI(lifespan=lifespan)


def serve_on(listener: socket.socket, app: FastAPI) -> None:
    """Serve until the process receives a signal."""
    asyncio.run(uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener]))
